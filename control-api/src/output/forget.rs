//! Forgetting output: of sessions that ended long ago, and of sessions that were deleted. In small steps, so that nobody waits long for
//! the writer.

use std::time::Duration;

use ace_policies::SessionId;
use sqlx::Row;

use crate::App;
use crate::error::ApiError;
use crate::queue;
use crate::wakeups::Wakeup;

/// How many lines or messages go in one transaction.
const STEP: i64 = 2_000;

/// How many sessions are taken up in one call.
const SESSIONS: i64 = 200;

/// Forgets what was said and printed in sessions that ended longer ago than the configuration keeps it: output, messages, questions of the
/// CLI, commands; and what deleted sessions left. To be called now and then. Returns how many sessions it has forgotten.
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
        let id: String = row.try_get(0)?;
        forget(app, id.parse().map_err(|error: uuid::Error| ApiError::internal(error))?).await?;
    }
    clear_all_leftovers(app).await?;
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
    let rows = sqlx::query("SELECT * FROM session_leftovers ORDER BY session_id LIMIT $1")
        .bind(SESSIONS)
        .fetch_all(&app.db().read)
        .await?;
    for row in &rows {
        let session: String = row.try_get("session_id")?;
        clear(app, &session, row.try_get("up_to_seq")?, row.try_get("up_to_message")?).await?;
    }
    Ok(i64::try_from(rows.len()).unwrap_or(i64::MAX))
}

/// Forgets a session's output and messages at once for all who read, and notes what is to be cleared for it. One that was started again
/// meanwhile is left alone.
pub(super) async fn forget(app: &App, session: SessionId) -> Result<(), ApiError> {
    let (mut record, id) = (app.record().await?, session.to_string());
    let row = sqlx::query(
        "UPDATE agent_sessions SET first_seq = 0, output_bytes = 0, forgotten_at = $1
         WHERE session_id = $2 AND ended_at IS NOT NULL AND forgotten_at IS NULL RETURNING last_seq",
    )
    .bind(app.now())
    .bind(&id)
    .fetch_optional(record.sql())
    .await?;
    let Some(row) = row else { return Ok(()) };
    // What a run that begins from now on prints and says stays: it is above these.
    sqlx::query(
        "INSERT INTO session_leftovers (session_id, up_to_seq, up_to_message)
         VALUES ($1, $2, (SELECT COALESCE(MAX(id), 0) FROM session_messages WHERE session_id = $1))
         ON CONFLICT (session_id) DO UPDATE SET up_to_seq = excluded.up_to_seq, up_to_message = excluded.up_to_message",
    )
    .bind(&id)
    .bind(row.try_get::<i64, _>(0)?)
    .execute(record.sql())
    .await?;
    sqlx::query("DELETE FROM session_approvals WHERE session_id = $1")
        .bind(&id)
        .execute(record.sql())
        .await?;
    queue::forget_finished(&mut record, session).await?;
    record.ring(Wakeup::Session(session));
    record.commit().await
}

/// Clears what is noted of a session; the note goes last, unless there is another one by then.
async fn clear(app: &App, session: &str, up_to_seq: i64, up_to_message: i64) -> Result<(), ApiError> {
    delete_lines(app, session, up_to_seq).await?;
    delete_messages(app, session, up_to_message).await?;
    let mut record = app.record().await?;
    queue::forget_deleted(&mut record, session).await?;
    sqlx::query("DELETE FROM session_leftovers WHERE session_id = $1 AND up_to_seq = $2 AND up_to_message = $3")
        .bind(session)
        .bind(up_to_seq)
        .bind(up_to_message)
        .execute(record.sql())
        .await?;
    record.commit().await
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
