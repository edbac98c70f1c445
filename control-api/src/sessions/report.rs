//! What agents report of sessions.

use ace_policies::session::{Report, State, after_report};
use serde_json::json;
use uuid::Uuid;

use super::store::{self, MAX_SENTENCE, SessionRow, bounded, set_state};
use crate::error::ApiError;
use crate::record::Record;
use crate::wakeups::Wakeup;

/// How long a CLI's name for a conversation may be, in bytes.
const MAX_RESUME_ID_BYTES: usize = 1_024;

/// Takes what an agent says of the CLI of a session, whose row is locked. Of another run than the current one it changes nothing: the
/// row comes back as it was.
pub(crate) async fn reported(
    record: &mut Record,
    row: &SessionRow,
    run: i64,
    report: Report,
    busy: bool,
    resume_id: Option<&str>,
    message: Option<&str>,
) -> Result<SessionRow, ApiError> {
    if run != row.run {
        return Ok(row.clone());
    }
    let state = after_report(row.status, report);
    let noted = note(record, row, busy && state == State::Active, resume_id).await?;
    if state == noted.status {
        return Ok(noted);
    }
    // A machine may end a CLI by itself, and say why; only an error is kept with the session.
    let error = (state == State::Error).then(|| message.unwrap_or("the CLI could not go on"));
    set_state(record, &noted, state, error).await
}

async fn note(
    record: &mut Record,
    row: &SessionRow,
    busy: bool,
    resume_id: Option<&str>,
) -> Result<SessionRow, ApiError> {
    let resume_id = resume_id.filter(|id| !id.is_empty() && id.len() <= MAX_RESUME_ID_BYTES && !id.contains('\0'));
    let resume_id = resume_id.map(str::to_owned).or_else(|| row.resume_id.clone());
    if busy == row.busy && resume_id == row.resume_id && row.unsure_since.is_none() {
        return Ok(row.clone());
    }
    let noted = sqlx::query(
        "UPDATE agent_sessions SET busy = $1, resume_id = $2, updated_at = $3, unsure_since = NULL WHERE session_id = $4 RETURNING *",
    )
    .bind(i64::from(busy))
    .bind(&resume_id)
    .bind(record.app().now())
    .bind(row.id.to_string())
    .fetch_one(record.sql())
    .await?;
    record.ring(Wakeup::Session(row.id));
    SessionRow::read(&noted)
}

/// Takes that a command for a session failed. A start that failed ends its run in [`State::Error`]; anything else is told and shown
/// with the session until the next message. The row must be locked; of another run than the current one it changes nothing.
pub(crate) async fn command_failed(
    record: &mut Record,
    row: &SessionRow,
    run: i64,
    command_id: Uuid,
    is_start: bool,
    code: &str,
    message: &str,
) -> Result<(), ApiError> {
    if run != row.run {
        return Ok(());
    }
    let [code, message] = [code, message].map(|text| bounded(text, MAX_SENTENCE));
    let problem = json!({ "command_id": command_id, "code": code, "message": message });
    if is_start && row.status.is_live() {
        set_state(record, row, State::Error, Some(&message)).await?;
    } else {
        sqlx::query("UPDATE agent_sessions SET problem = $1, updated_at = $2 WHERE session_id = $3")
            .bind(problem.to_string())
            .bind(record.app().now())
            .bind(row.id.to_string())
            .execute(record.sql())
            .await?;
    }
    store::tell(record, row, "session.command_failed", &problem);
    Ok(())
}
