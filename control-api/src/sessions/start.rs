//! Starting a session's CLI, and what agents are told of sessions in general.

use std::time::Duration;

use ace_policies::UserId;
use ace_policies::session::State;
use ace_policies::wire::{Command, Start};
use uuid::Uuid;

use super::host::Host;
use super::store::{self, SessionRow};
use crate::error::ApiError;
use crate::queue::{self, NewCommand};
use crate::record::{Record, Topic};

/// How long a wish may wait for its machine.
pub(super) const LIFE: Duration = Duration::from_secs(24 * 3600);
/// A stop waits until it is done.
pub(super) const STOP_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// An abort is for the turn that runs now: it must not meet a later one.
pub(super) const ABORT_LIFE: Duration = Duration::from_secs(60);

/// Starts the CLI of a session that has ended, in a new run with the conversation it had. The machine must be locked, then the row.
///
/// Errors: 409 where the machine runs as many sessions as it may.
pub(crate) async fn start(record: &mut Record, row: &SessionRow, by: Option<UserId>) -> Result<SessionRow, ApiError> {
    let started = sqlx::query(
        "UPDATE agent_sessions SET status = 'starting', run = run + 1, busy = 0, error = NULL, problem = NULL,
                paused_at = NULL, ended_at = NULL, forgotten_at = NULL, unsure_since = NULL, archived = 0, updated_at = $1
         WHERE session_id = $2 RETURNING *",
    )
    .bind(record.app().now())
    .bind(row.id.to_string())
    .fetch_one(record.sql())
    .await?;
    let started = SessionRow::read(&started)?;
    let data = serde_json::json!({ "status": State::Starting, "before": row.status, "error": null });
    store::tell(record, &started, "session.state", &data);
    push_start(record, &started, by).await?;
    Ok(started)
}

/// The same where there is room for it, on the session's machine.
pub(super) async fn start_on(
    record: &mut Record,
    host: &Host,
    row: &SessionRow,
    by: UserId,
) -> Result<SessionRow, ApiError> {
    if let Some(message) = host.full(record).await? {
        return Err(ApiError::conflict("max_sessions", message).session_status(row.status));
    }
    start(record, row, Some(by)).await
}

/// Tells the agent to start the current run. Gateways look again: they know live sessions only.
pub(super) async fn push_start(record: &mut Record, row: &SessionRow, by: Option<UserId>) -> Result<(), ApiError> {
    record.wake(Topic::Auth);
    let command = Command::StartSession(Start {
        session_id: row.id,
        run: row.run,
        project_path: row.project_path.clone(),
        cli_tool: row.cli_tool.clone(),
        model: row.model.clone(),
        permission_mode: row.permission_mode.clone(),
        resume_id: row.resume_id.clone(),
        proxy_token: String::new(),
        proxy_token_expires_at_s: 0,
        last_seq: 0,
    });
    push(record, row, &command, LIFE, None, by).await.map(drop)
}

/// Puts a command for the session's current run into its machine's queue.
pub(crate) async fn push(
    record: &mut Record,
    row: &SessionRow,
    command: &Command,
    life: Duration,
    idempotency_key: Option<&str>,
    by: Option<UserId>,
) -> Result<Uuid, ApiError> {
    let new = NewCommand {
        machine: row.machine()?,
        session: Some(row.id),
        run: Some(row.run),
        command,
        life,
        idempotency_key,
        by,
    };
    queue::push(record, new).await
}
