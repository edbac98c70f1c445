//! Ends sessions because of what happens to their machine, or to their owner's place on it.

use std::time::Duration;

use ace_policies::session::State;
use ace_policies::wire::Command;
use ace_policies::{MachineId, SessionId, TenantId, UserId};
use serde_json::json;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::error::ApiError;
use crate::queue::{self, NewCommand};
use crate::record::{Event, Record, Topic};
use crate::wakeups::Wakeup;

/// How long the order to end a session waits for its agent: until it is there again, in practice.
const STOP_LIFE: Duration = Duration::from_secs(365 * 86_400);

/// Whether the agent is told to end the CLIs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tell {
    /// By a command for each session.
    Agent,
    /// No: it will not be heard any more, and ends everything by itself.
    Nobody,
}

/// Ends the live sessions on a machine, all or one user's, and with them their proxy tokens. Returns how many there were.
///
/// `reason` is a sentence for the sessions' owners. The machine must be locked, so that no session begins meanwhile.
pub(crate) async fn stop_sessions(
    record: &mut Record,
    machine: MachineId,
    owner: Option<UserId>,
    reason: &str,
    tell: Tell,
) -> Result<usize, ApiError> {
    // By id: sessions are locked in this order everywhere.
    let rows = sqlx::query(
        "SELECT session_id FROM agent_sessions
         WHERE remote_machine_id = $1 AND status IN ('starting', 'active', 'paused') AND ($2 = 0 OR user_id = $2)
         ORDER BY session_id",
    )
    .bind(machine.to_string())
    .bind(owner.map_or(0, |owner| owner.0))
    .fetch_all(record.sql())
    .await?;
    let mut stopped = 0;
    for row in rows {
        let id: String = row.try_get(0)?;
        let Some(row) = lock(record, &id).await? else {
            continue;
        };
        let session = stop(record, machine, &row, reason).await?;
        if tell == Tell::Agent {
            push_stop(record, machine, session, row.try_get("run")?).await?;
        }
        stopped += 1;
    }
    Ok(stopped)
}

/// Keeps others from changing a session; `None` where it has ended meanwhile.
async fn lock(record: &mut Record, id: &str) -> Result<Option<AnyRow>, ApiError> {
    let row = sqlx::query("UPDATE agent_sessions SET updated_at = updated_at WHERE session_id = $1 RETURNING *");
    let row = row.bind(id).fetch_optional(record.sql()).await?;
    let Some(row) = row else { return Ok(None) };
    let state: State = row
        .try_get::<String, _>("status")?
        .parse()
        .map_err(|error: ace_policies::session::UnknownState| ApiError::internal(error))?;
    Ok(state.is_live().then_some(row))
}

async fn stop(record: &mut Record, machine: MachineId, row: &AnyRow, reason: &str) -> Result<SessionId, ApiError> {
    let id: String = row.try_get("session_id")?;
    let before: String = row.try_get("status")?;
    let session: SessionId = id.parse().map_err(|error: uuid::Error| ApiError::internal(error))?;
    let now = record.app().now();
    sqlx::query(
        "UPDATE agent_sessions SET status = 'stopped', error = $1, busy = 0, paused_at = NULL, ended_at = $2, updated_at = $2,
                                   token_generation = token_generation + 1 WHERE session_id = $3",
    )
    .bind(reason)
    .bind(now)
    .bind(&id)
    .execute(record.sql())
    .await?;
    // Nobody waits for the answers any more.
    sqlx::query(
        "UPDATE session_approvals SET state = 'cancelled', answered_at = $1 WHERE session_id = $2 AND state = 'pending'",
    )
    .bind(now)
    .bind(&id)
    .execute(record.sql())
    .await?;
    record.wake(Topic::Auth);
    record.ring(Wakeup::Session(session));
    let data = json!({ "status": "stopped", "before": before, "error": reason });
    let event = Event {
        kind: "session.state",
        tenant: TenantId(row.try_get("tenant_id")?),
        user: Some(UserId(row.try_get("user_id")?)),
        machine: Some(machine),
        session: Some(session),
        data: &data,
    };
    record.tell(event).await?;
    Ok(session)
}

async fn push_stop(record: &mut Record, machine: MachineId, session: SessionId, run: i64) -> Result<(), ApiError> {
    let command = Command::StopSession { session_id: session };
    let new = NewCommand {
        machine,
        session: Some(session),
        run: Some(run),
        command: &command,
        life: STOP_LIFE,
        idempotency_key: None,
        by: None,
    };
    queue::push(record, new).await.map(drop)
}
