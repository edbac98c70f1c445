//! GET /api/remote/sessions/{id}.

use ace_policies::SessionId;
use ace_policies::access::Action;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::access::Party;
use super::view::{One, Session};
use crate::App;
use crate::body::{At, Params};
use crate::error::ApiError;
use crate::output;
use crate::visitor::Visitor;

/// Which part of the output is asked for; the newest when nothing is said.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// Only lines after this number, the earliest first to come.
    after: Option<i64>,
    /// Only lines before this number, the newest of them.
    before: Option<i64>,
}

/// Shows one session, in whatever state, with up to 2 MB of its output: the newest, or the part that is asked for.
#[utoipa::path(get, path = "/api/remote/sessions/{id}", tag = "sessions", params(("id" = String, Path), Query),
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn read(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
    Params(query): Params<Query>,
) -> Result<Json<One>, ApiError> {
    let party = Party::of(&app, &visitor, Action::SessionsRead, id).await?;
    let span = match (query.after, query.before) {
        (Some(_), Some(_)) => return Err(ApiError::field("before", "give either after or before")),
        (Some(after), None) => output::Span::After(after),
        (None, before) => output::Span::Before(before.unwrap_or(i64::MAX)),
    };
    let output = output::part(&app, &party.row, span).await?;
    let session = Session::with_totals(&app, party.row, party.owner, Some(output)).await?;
    Ok(One::new(session))
}
