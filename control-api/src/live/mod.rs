//! GET /api/live: what happens, as it happens. A page follows it instead of asking again and again.

mod feed;
mod requests;

use std::convert::Infallible;
use std::time::Duration;

use ace_policies::access::{Action, Standing};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::Params;
use crate::error::ApiError;
use crate::visitor::Visitor;
use feed::Feed;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(live))
}

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What is followed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Query {
    /// The `id` of the last event that was seen; the header `Last-Event-ID` wins. Left out: from now on.
    after: Option<i64>,
    /// Whether a system admin also sees LLM requests; left out, yes.
    requests: Option<bool>,
}

/// Follows what happens, as server-sent events: one's own, for a system admin all.
///
/// `event` is `machine`, `session`, `approval`, `quota`, `notification` or, for admins, `request`; `data` is JSON with `kind`, ids and
/// `data`. `ready` is the first one; when its `missed` is true, more has happened since `after` than is kept: look at everything anew.
#[utoipa::path(get, path = "/api/live", tag = "live", params(Query),
    responses((status = 200, body = String, content_type = "text/event-stream"),
              (status = 429, body = crate::error::ErrorBody)))]
async fn live(
    State(app): State<App>,
    visitor: Visitor,
    Params(query): Params<Query>,
    parts: Parts,
) -> Result<Response, ApiError> {
    visitor.permit(&app, Action::LiveRead, &Standing::default()).await?;
    let after = last_event_id(&parts.headers)?.or(query.after);
    let place = app.follow(visitor.actor.user)?;
    let feed = Feed::open(app, visitor, parts, after, query.requests.unwrap_or(true)).await?;
    let events = stream::unfold((feed, place), |(mut feed, place)| async move {
        let event = feed.next().await?;
        Some((Ok::<Event, Infallible>(event), (feed, place)))
    });
    let sse = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // Proxies on the way are to pass it on as it comes.
    let head = [("cache-control", "no-cache"), ("x-accel-buffering", "no")];
    Ok((head, sse).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let id = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    id.map(Some)
        .ok_or_else(|| ApiError::field("Last-Event-ID", "must be the id of an event of this stream"))
}

#[cfg(test)]
mod tests;
