//! POST /api/webhooks/{id}/test: sends an event of no meaning now.

use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::send::{Letter, Outcome, client, send};
use super::{Webhook, lock, open};
use crate::App;
use crate::body::At;
use crate::chance;
use crate::error::ApiError;
use crate::visitor::Visitor;
use crate::when::When;

/// What the event of a test is called.
const EVENT: &str = "webhook.test";

#[derive(Serialize, ToSchema)]
pub(super) struct Tested {
    success: bool,
    /// Whether the receiver took it.
    ok: bool,
    /// The receiver's HTTP status, when it answered.
    status: Option<u16>,
    latency_ms: u64,
    error: Option<String>,
}

/// Tries a webhook out: sends a signed `webhook.test` and tells what came of it. It is not repeated.
#[utoipa::path(post, path = "/api/webhooks/{id}/test", tag = "webhooks", params(("id" = i64, Path)),
    responses((status = 200, body = Tested), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn test(State(app): State<App>, visitor: Visitor, At(id): At<i64>) -> Result<Json<Tested>, ApiError> {
    let permit = visitor
        .permit(&app, Action::WebhooksUpdate, &Standing::default())
        .await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let (webhook, sealed) = lock(write.sql(), id).await?;
    // Saved before the receiver is asked, who may take long.
    write
        .target(format_args!("webhook:{id}"))
        .after(&json!({ "event": EVENT }))?;
    write.commit().await?;
    let event_id = format!("evt_test_{}", chance::id().simple());
    let letter = Letter {
        url: &webhook.url,
        secret: &open(&app, id, &sealed)?,
        id: &event_id,
        event: EVENT,
        body: &body(&app, &webhook, &event_id),
    };
    let outcome = send(&app, &client(&app)?, &letter).await;
    note(&app, id, &letter, &outcome).await?;
    Ok(Json(Tested {
        success: true,
        ok: outcome.error.is_none(),
        status: outcome.status,
        latency_ms: outcome.latency_ms,
        error: outcome.error,
    }))
}

fn body(app: &App, webhook: &Webhook, event_id: &str) -> String {
    json!({
        "id": event_id,
        "type": EVENT,
        "created_at": When(app.now()),
        "tenant_id": webhook.tenant_id,
        "user_id": null,
        "machine_id": null,
        "session_id": null,
        "data": { "webhook_id": webhook.id },
    })
    .to_string()
}

/// Puts it among the recent deliveries.
async fn note(app: &App, id: i64, letter: &Letter<'_>, outcome: &Outcome) -> Result<(), ApiError> {
    let state = if outcome.error.is_none() { "sent" } else { "failed" };
    let mut record = app.record().await?;
    // Not where the webhook was deleted meanwhile.
    sqlx::query(
        "INSERT INTO webhook_deliveries (webhook_id, event_id, event, body, state, attempts, due_at, created_at, sent_at,
                                         last_status, last_error)
         SELECT id, $2, $3, $4, $5, 1, $6, $6, $7, $8, $9 FROM webhooks WHERE id = $1",
    )
    .bind(id)
    .bind(letter.id)
    .bind(letter.event)
    .bind(letter.body)
    .bind(state)
    .bind(app.now())
    .bind(outcome.error.is_none().then_some(app.now()))
    .bind(outcome.status.map(i64::from))
    .bind(&outcome.error)
    .execute(record.sql())
    .await?;
    record.commit().await
}
