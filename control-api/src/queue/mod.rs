//! The queue of commands to agents: pushed with the act that wants them, handed over in order until they are acknowledged,
//! applied once.

mod deliver;
mod expire;
mod finish;
mod several;

use std::time::Duration;

use ace_policies::wire::Command;
use ace_policies::{MachineId, SessionId, UserId};
use sqlx::Row;
use uuid::Uuid;

use crate::chance;
use crate::error::ApiError;
use crate::record::Record;
use crate::wakeups::Wakeup;

pub(crate) use deliver::{Due, deliver, drop_overtaken, is_anything_due, settle_as_done, settle_on_delivery};
pub(crate) use expire::expire;
pub(crate) use finish::{acknowledge, finish};
pub(crate) use several::{drop_all, drop_rotations, drop_waiting, forget_deleted, forget_finished, redeliver};

/// A command to be.
pub(crate) struct NewCommand<'a> {
    pub machine: MachineId,
    pub session: Option<SessionId>,
    /// The session's run that it is meant for.
    pub run: Option<i64>,
    /// Without secrets: those are filled in as it is handed over.
    pub command: &'a Command,
    /// How long it may wait for its agent.
    pub life: Duration,
    /// What the client called its wish.
    pub idempotency_key: Option<&'a str>,
    pub by: Option<UserId>,
}

/// Puts a command at the end of its machine's queue and wakes the agent once that is saved. Returns the command's id.
///
/// With an idempotency key that the session has seen before, nothing is pushed: the id is that of the first.
pub(crate) async fn push(record: &mut Record, new: NewCommand<'_>) -> Result<Uuid, ApiError> {
    let (now, command_id) = (record.app().now(), chance::id());
    let life = i64::try_from(new.life.as_millis()).unwrap_or(i64::MAX);
    let payload = serde_json::to_string(new.command).map_err(ApiError::internal)?;
    let inserted = sqlx::query(
        "INSERT INTO agent_commands (command_id, machine_id, session_id, run, type, payload, expires_at, idempotency_key,
                                     created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (session_id, idempotency_key) DO NOTHING",
    )
    .bind(command_id.to_string())
    .bind(new.machine.to_string())
    .bind(new.session.map(|session| session.to_string()))
    .bind(new.run)
    .bind(new.command.kind().as_str())
    .bind(payload)
    .bind(now.saturating_add(life))
    .bind(new.idempotency_key)
    .bind(new.by.map(|user| user.0))
    .bind(now)
    .execute(record.sql())
    .await?;
    if inserted.rows_affected() == 0
        && let (Some(session), Some(key)) = (new.session, new.idempotency_key)
    {
        let first = pushed_before(record, session, key).await?;
        return first.ok_or_else(|| ApiError::internal("a command is neither new nor there"));
    }
    record.ring(Wakeup::Machine(new.machine));
    Ok(command_id)
}

/// The command that was pushed for a session with this idempotency key.
pub(crate) async fn pushed_before(
    record: &mut Record,
    session: SessionId,
    key: &str,
) -> Result<Option<Uuid>, ApiError> {
    let row = sqlx::query("SELECT command_id FROM agent_commands WHERE session_id = $1 AND idempotency_key = $2")
        .bind(session.to_string())
        .bind(key)
        .fetch_optional(record.sql())
        .await?;
    let id: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
    let parsed = id.map(|id| id.parse()).transpose();
    parsed.map_err(|error: uuid::Error| ApiError::internal(error))
}
