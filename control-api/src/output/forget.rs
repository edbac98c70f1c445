//! Forgetting output: of sessions that ended long ago, and of sessions that were deleted. In small steps, so that nobody waits long for
//! the writer.

use std::time::Duration;

use sqlx::Row;

use crate::App;
use crate::error::ApiError;
use crate::wakeups::Wakeup;

/// How many lines or messages go in one transaction.
const STEP: i64 = 2_000;

/// How many sessions are taken up in one call.
const SESSIONS: i64 = 200;

/// Forgets the output and messages of sessions that ended longer ago than the configuration keeps them, and what deleted sessions left.
/// To be called now and then. Returns how many sessions it has forgotten.
pub(crate) async fn forget_old(app: &App) -> Result<u64, ApiError> {
    clear_all_leftovers(app).await?;
    let days = app.config().session_output_days;
    if days == 0 {
        return Ok(0);
    }
    let kept = i64::try_from(Duration::from_secs(days * 86_400).as_millis()).unwrap_or(i64::MAX);
    let old = sqlx::query(
        "SELECT session_id FROM agent_sessions WHERE forgotten_at IS NULL AND ended_at < $1 ORDER BY ended_at LIMIT $2",
    )
    .bind(app.now().saturating_sub(kept))
    .bind(SESSIONS)
    .fetch_all(&app.db().read)
    .await?;
    for row in &old {
        forget(app, row.try_get(0)?).await?;
    }
    Ok(u64::try_from(old.len()).unwrap_or_default())
}

/// Clears what deleted sessions left, right after they were deleted. Not worth failing for: it is tried again later. Returns whether
/// there may be more.
pub(crate) async fn clear_leftovers(app: &App) -> bool {
    let cleared = clear_all_leftovers(app).await;
    if let Err(error) = &cleared {
        tracing::warn!(%error, "the output of deleted sessions is still there");
    }
    cleared.is_ok_and(|count| count == SESSIONS)
}

/// Returns how many sessions had left something.
async fn clear_all_leftovers(app: &App) -> Result<i64, ApiError> {
    let rows = sqlx::query("SELECT session_id FROM session_leftovers ORDER BY session_id LIMIT $1")
        .bind(SESSIONS)
        .fetch_all(&app.db().read)
        .await?;
    for row in &rows {
        let session: String = row.try_get(0)?;
        clear(app, &session).await?;
        let mut record = app.record().await?;
        sqlx::query("DELETE FROM session_leftovers WHERE session_id = $1")
            .bind(&session)
            .execute(record.sql())
            .await?;
        record.commit().await?;
    }
    Ok(i64::try_from(rows.len()).unwrap_or(i64::MAX))
}

async fn forget(app: &App, session: String) -> Result<(), ApiError> {
    // First the row: what is shown of it is gone at once, and one that was started again meanwhile is left alone.
    let mut record = app.record().await?;
    let row = sqlx::query(
        "UPDATE agent_sessions SET first_seq = 0, output_bytes = 0, forgotten_at = $1
         WHERE session_id = $2 AND ended_at IS NOT NULL AND forgotten_at IS NULL RETURNING last_seq",
    )
    .bind(app.now())
    .bind(&session)
    .fetch_optional(record.sql())
    .await?;
    let Some(row) = row else { return Ok(()) };
    let last: i64 = row.try_get(0)?;
    // What a run that begins from now on prints and says stays: it is above these.
    let newest = sqlx::query("SELECT COALESCE(MAX(id), 0) FROM session_messages WHERE session_id = $1")
        .bind(&session)
        .fetch_one(record.sql())
        .await?;
    let newest: i64 = newest.try_get(0)?;
    if let Ok(id) = session.parse() {
        record.ring(Wakeup::Session(id));
    }
    record.commit().await?;
    delete_lines(app, &session, last).await?;
    delete_messages(app, &session, newest).await
}

async fn clear(app: &App, session: &str) -> Result<(), ApiError> {
    delete_lines(app, session, i64::MAX).await?;
    delete_messages(app, session, i64::MAX).await
}

async fn delete_lines(app: &App, session: &str, up_to: i64) -> Result<(), ApiError> {
    let step = "DELETE FROM session_output WHERE session_id = $1 AND seq IN (
                    SELECT seq FROM session_output WHERE session_id = $1 AND seq <= $2 ORDER BY seq LIMIT $3)";
    in_steps(app, step, session, up_to).await
}

async fn delete_messages(app: &App, session: &str, up_to: i64) -> Result<(), ApiError> {
    let step = "DELETE FROM session_messages WHERE id IN (
                    SELECT id FROM session_messages WHERE session_id = $1 AND id <= $2 ORDER BY id LIMIT $3)";
    in_steps(app, step, session, up_to).await
}

async fn in_steps(app: &App, step: &'static str, session: &str, up_to: i64) -> Result<(), ApiError> {
    loop {
        let mut record = app.record().await?;
        let deleted = sqlx::query(step)
            .bind(session)
            .bind(up_to)
            .bind(STEP)
            .execute(record.sql())
            .await?
            .rows_affected();
        record.commit().await?;
        if i64::try_from(deleted).unwrap_or(i64::MAX) < STEP {
            return Ok(());
        }
    }
}
