//! Ends sessions because of what happens to their machine, or to their owner's place on it.

use std::time::Duration;

use ace_policies::wire::Command;
use ace_policies::{MachineId, SessionId, TenantId, UserId};
use serde_json::json;
use sqlx::Row;

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
pub(crate) async fn stop_sessions(
    record: &mut Record,
    machine: MachineId,
    owner: Option<UserId>,
    reason: &'static str,
    tell: Tell,
) -> Result<usize, ApiError> {
    let rows = sqlx::query(
        "UPDATE agent_sessions SET status = 'stopped', busy = 0, ended_at = $1, updated_at = $1,
                                   token_generation = token_generation + 1
         WHERE remote_machine_id = $2 AND status IN ('starting', 'active', 'paused') AND ($3 = 0 OR user_id = $3)
         RETURNING session_id, user_id, tenant_id, run",
    )
    .bind(record.app().now())
    .bind(machine.to_string())
    .bind(owner.map_or(0, |owner| owner.0))
    .fetch_all(record.sql())
    .await?;
    for row in &rows {
        let session: String = row.try_get("session_id")?;
        let session: SessionId = session
            .parse()
            .map_err(|error: uuid::Error| ApiError::internal(error))?;
        cancel_approvals(record, session).await?;
        record.ring(Wakeup::Session(session));
        record
            .tell(Event {
                kind: "session.state",
                tenant: TenantId(row.try_get("tenant_id")?),
                user: Some(UserId(row.try_get("user_id")?)),
                machine: Some(machine),
                session: Some(session),
                data: &json!({ "status": "stopped", "reason": reason }),
            })
            .await?;
        if tell == Tell::Agent {
            push_stop(record, machine, session, row.try_get("run")?).await?;
        }
    }
    if !rows.is_empty() {
        record.wake(Topic::Auth);
    }
    Ok(rows.len())
}

/// Nobody waits for the answers any more.
async fn cancel_approvals(record: &mut Record, session: SessionId) -> Result<(), ApiError> {
    sqlx::query("UPDATE session_approvals SET state = 'cancelled' WHERE session_id = $1 AND state = 'pending'")
        .bind(session.to_string())
        .execute(record.sql())
        .await?;
    Ok(())
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
