//! What time does to commands: those that nobody came for in time end, and results that nobody fetched go.

use std::time::Duration;

use ace_policies::wire::CommandKind;
use sqlx::Row;
use uuid::Uuid;

use super::several;
use crate::App;
use crate::error::ApiError;
use crate::record::Record;
use crate::sessions::{self, SessionRow};
use crate::wakeups::Wakeup;

/// Commands that end in one transaction.
const BATCH: i64 = 100;

/// How long a result waits for whoever asked. They wait for less.
const RESULT_LIFE: Duration = Duration::from_secs(60);

/// Ends the commands whose time is over.
pub(crate) async fn expire(app: &App) -> Result<(), ApiError> {
    while expire_some(app).await? {}
    forget_results(app).await
}

async fn expire_some(app: &App) -> Result<bool, ApiError> {
    let rows = sqlx::query(
        "SELECT command_id FROM agent_commands
         WHERE expires_at <= $1 AND state IN ('queued', 'delivered', 'acked') ORDER BY expires_at LIMIT $2",
    )
    .bind(app.now())
    .bind(BATCH)
    .fetch_all(&app.db().read)
    .await?;
    for row in &rows {
        let id: String = row.try_get(0)?;
        end(app, id.parse().map_err(|error: uuid::Error| ApiError::internal(error))?).await?;
    }
    Ok(!rows.is_empty())
}

/// Ends one command. A start that nobody came for ends its session in an error, so that it does not seem to start for ever.
async fn end(app: &App, command_id: Uuid) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    let now = record.app().now();
    let row = sqlx::query("SELECT type, session_id, run, state FROM agent_commands WHERE command_id = $1")
        .bind(command_id.to_string())
        .fetch_one(record.sql())
        .await?;
    let (kind, state): (String, String) = (row.try_get("type")?, row.try_get("state")?);
    let session: Option<String> = row.try_get("session_id")?;
    let run: Option<i64> = row.try_get("run")?;
    // The session first: that is the order of locks everywhere.
    let session = match session {
        Some(id) => locked(&mut record, &id).await?,
        None => None,
    };
    let ended = sqlx::query(
        "UPDATE agent_commands SET state = 'expired', payload = '', leased_until = NULL, finished_at = $1
         WHERE command_id = $2 AND expires_at <= $1 AND state IN ('queued', 'delivered', 'acked')",
    )
    .bind(now)
    .bind(command_id.to_string())
    .execute(record.sql())
    .await?;
    if ended.rows_affected() == 0 {
        return Ok(());
    }
    record.ring(Wakeup::Command(command_id));
    let is_start = kind == CommandKind::StartSession.as_str();
    let is_message = is_start || kind == CommandKind::SendMessage.as_str();
    if let (Some(row), Some(run), true) = (session, run, is_message && state != "acked") {
        let message = "the machine's agent did not come for it in time";
        sessions::command_failed(&mut record, &row, run, command_id, is_start, "expired", message).await?;
    }
    record.commit().await
}

async fn locked(record: &mut Record, session: &str) -> Result<Option<SessionRow>, ApiError> {
    let id = session
        .parse()
        .map_err(|error: uuid::Error| ApiError::internal(error))?;
    sessions::lock(record, id).await
}

/// What files held is not kept for longer than somebody waits for it.
async fn forget_results(app: &App) -> Result<(), ApiError> {
    let until = app.now() - i64::try_from(RESULT_LIFE.as_millis()).unwrap_or(i64::MAX);
    let old =
        sqlx::query("SELECT COUNT(*) FROM agent_commands WHERE result IS NOT NULL AND finished_at <= $1").bind(until);
    if old.fetch_one(&app.db().read).await?.try_get::<i64, _>(0)? == 0 {
        return Ok(());
    }
    let mut record = app.record().await?;
    several::forget_results(&mut record, until).await?;
    record.commit().await
}
