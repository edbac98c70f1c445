//! From events to deliveries: who is told, and in which words.

use serde_json::json;

use super::Webhook;
use crate::error::ApiError;
use crate::record::Record;
use crate::teller::Happened;
use crate::when::When;

/// Puts what webhooks are to deliver of these events into the queue. Returns how much that is.
pub(crate) async fn queue(record: &mut Record, events: &[Happened]) -> Result<u64, ApiError> {
    let rows = sqlx::query("SELECT * FROM webhooks WHERE is_active = 1 ORDER BY id")
        .fetch_all(record.sql())
        .await?;
    let webhooks = rows.iter().map(Webhook::read).collect::<Result<Vec<_>, _>>()?;
    let mut queued = 0;
    for event in events {
        for webhook in webhooks
            .iter()
            .filter(|webhook| webhook.wants(event.tenant, &event.kind))
        {
            queued += insert(record, webhook.id, event).await?;
        }
    }
    Ok(queued)
}

async fn insert(record: &mut Record, webhook: i64, event: &Happened) -> Result<u64, ApiError> {
    let now = record.app().now();
    let inserted = sqlx::query(
        "INSERT INTO webhook_deliveries (webhook_id, event_id, event, body, due_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (webhook_id, event_id) DO NOTHING",
    )
    .bind(webhook)
    .bind(event_id(event.id))
    .bind(&event.kind)
    .bind(body(event))
    .bind(now)
    .execute(record.sql())
    .await?;
    Ok(inserted.rows_affected())
}

/// By which a receiver knows an event that comes twice.
fn event_id(id: i64) -> String {
    format!("evt_{id}")
}

fn body(event: &Happened) -> String {
    json!({
        "id": event_id(event.id),
        "type": event.kind,
        "created_at": When(event.at),
        "tenant_id": event.tenant,
        "user_id": event.user,
        "machine_id": event.machine,
        "session_id": event.session,
        "data": event.data,
    })
    .to_string()
}
