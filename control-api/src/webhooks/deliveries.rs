//! GET /api/webhooks/{id}/deliveries.

use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::body::{At, Params};
use crate::error::ApiError;
use crate::page::{self, Cursor, Filter};
use crate::visitor::Visitor;
use crate::when::When;

/// Which deliveries are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// `due`, `sent` or `failed`.
    state: Option<String>,
    /// The `next` of the page before.
    after: Option<Cursor>,
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Page {
    success: bool,
    deliveries: Vec<Delivery>,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}

#[derive(Serialize, ToSchema)]
struct Delivery {
    id: i64,
    event_id: String,
    event: String,
    /// `due`: it is tried at `due_at`; `sent`; `failed`: it was given up.
    state: String,
    attempts: i64,
    due_at: Option<When>,
    created_at: When,
    sent_at: Option<When>,
    /// The receiver's HTTP status at the last attempt, when it answered.
    last_status: Option<i64>,
    last_error: Option<String>,
}

/// Lists a webhook's recent deliveries, newest first.
#[utoipa::path(get, path = "/api/webhooks/{id}/deliveries", tag = "webhooks", params(("id" = i64, Path), Query),
    responses((status = 200, body = Page), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn list(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<i64>,
    Params(query): Params<Query>,
) -> Result<Json<Page>, ApiError> {
    visitor.permit(&app, Action::WebhooksList, &Standing::default()).await?;
    let known = sqlx::query("SELECT id FROM webhooks WHERE id = $1")
        .bind(id)
        .fetch_optional(&app.db().read)
        .await?;
    known.ok_or_else(|| ApiError::not_found("webhook"))?;
    let states = ["due", "sent", "failed"];
    if query.state.as_deref().is_some_and(|state| !states.contains(&state)) {
        return Err(ApiError::field("state", "must be due, sent or failed"));
    }
    let mut filter = Filter::default();
    filter
        .and("webhook_id =", id)
        .and_if("state =", query.state.as_deref())
        .below("(created_at, id)", query.after);
    let limit = page::limit(query.limit)?;
    let select = "SELECT * FROM webhook_deliveries";
    let found = filter
        .page(&app.db().read, select, "created_at DESC, id DESC", limit)
        .await?;
    let deliveries = found.rows.iter().map(Delivery::read).collect::<Result<Vec<_>, _>>()?;
    let next = deliveries.last().filter(|_| found.more).map(|last| Cursor {
        key: last.created_at.0,
        id: last.id,
    });
    Ok(Json(Page {
        success: true,
        deliveries,
        next,
    }))
}

impl Delivery {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let state: String = row.try_get("state")?;
        let due_at = When(row.try_get("due_at")?);
        Ok(Self {
            id: row.try_get("id")?,
            event_id: row.try_get("event_id")?,
            event: row.try_get("event")?,
            due_at: (state == "due").then_some(due_at),
            state,
            attempts: row.try_get("attempts")?,
            created_at: When(row.try_get("created_at")?),
            sent_at: row.try_get::<Option<i64>, _>("sent_at")?.map(When),
            last_status: row.try_get("last_status")?,
            last_error: row.try_get("last_error")?,
        })
    }
}
