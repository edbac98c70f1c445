//! Tells on what happened: takes up each event once, whatever the number of nodes, and makes of it notifications, what webhooks are to
//! deliver, and pushes to browsers.

mod quota;

use ace_policies::{MachineId, SessionId, TenantId, UserId};
use serde_json::Value;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::error::ApiError;
use crate::wakeups::Wakeup;
use crate::{App, background, notifications, push, webhooks};

/// Events of one transaction.
const BATCH: i64 = 100;

/// An event as it is read.
#[derive(Debug)]
pub(crate) struct Happened {
    pub id: i64,
    pub at: i64,
    pub kind: String,
    pub tenant: TenantId,
    pub user: Option<UserId>,
    pub machine: Option<MachineId>,
    pub session: Option<SessionId>,
    pub data: Value,
}

impl Happened {
    pub fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let text = |column: &str| row.try_get::<Option<String>, _>(column);
        let data: String = row.try_get("data")?;
        Ok(Self {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            kind: row.try_get("kind")?,
            tenant: TenantId(row.try_get("tenant_id")?),
            user: row.try_get::<Option<i64>, _>("user_id")?.map(UserId),
            machine: text("machine_id")?
                .map(|id| id.parse())
                .transpose()
                .map_err(ApiError::internal)?,
            session: text("session_id")?
                .map(|id| id.parse())
                .transpose()
                .map_err(ApiError::internal)?,
            data: serde_json::from_str(&data).map_err(ApiError::internal)?,
        })
    }

    /// A text of its data.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.data.get(field).and_then(Value::as_str)
    }

    /// By which what follows from it is known.
    pub fn cause(&self) -> String {
        format!("event:{}", self.id)
    }
}

/// Tells until the program ends.
pub(crate) async fn run(app: App) {
    let mut bell = app.wakeups().listen(Wakeup::Events);
    let mut quota = quota::Bridge::new(&app);
    loop {
        if let Err(error) = quota.carry(&app).await {
            tracing::warn!(%error, "quota events could not be read; they are looked for again");
        }
        if let Err(error) = tell(&app).await {
            tracing::warn!(%error, "events could not be told on; they are tried again");
        }
        tokio::select! {
            () = app.closing().cancelled() => return,
            () = bell.next() => {}
        }
    }
}

/// Tells all that waits.
pub(crate) async fn tell(app: &App) -> Result<(), ApiError> {
    // The look costs no lock: mostly there is nothing.
    while is_waiting(app).await? && tell_batch(app).await? > 0 {}
    Ok(())
}

async fn is_waiting(app: &App) -> Result<bool, ApiError> {
    let row = sqlx::query("SELECT id FROM events WHERE told_at IS NULL LIMIT 1")
        .fetch_optional(&app.db().read)
        .await?;
    Ok(row.is_some())
}

/// Tells some events. That they are taken up and what follows from them are saved together, so that a node that dies on the way has told
/// nothing, and no other tells it twice.
async fn tell_batch(app: &App) -> Result<usize, ApiError> {
    let mut record = app.record().await?;
    background::lock(&mut record, "teller").await?;
    let rows = sqlx::query(
        "UPDATE events SET told_at = $1 WHERE id IN (SELECT id FROM events WHERE told_at IS NULL ORDER BY id LIMIT $2)
         RETURNING *",
    )
    .bind(app.now())
    .bind(BATCH)
    .fetch_all(record.sql())
    .await?;
    let mut events = rows.iter().map(Happened::read).collect::<Result<Vec<_>, _>>()?;
    events.sort_by_key(|event| event.id);
    let mut stored = Vec::new();
    for event in &events {
        stored.extend(notifications::of_event(&mut record, event).await?);
    }
    let deliveries = webhooks::queue(&mut record, &events).await?;
    record.commit().await?;
    if deliveries > 0 {
        app.deliveries().notify_one();
    }
    push::send_soon(app, stored);
    Ok(events.len())
}

#[cfg(test)]
pub(crate) mod tests;
