//! Ends sessions because of what happens to their machine, or to their owner's place on it.

use ace_policies::session::State;
use ace_policies::{MachineId, SessionId, UserId};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::error::ApiError;
use crate::queue;
use crate::record::Record;
use crate::sessions;

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
    stop_all(record, &ids(&rows)?, reason, tell).await
}

/// Ends all live sessions of a user, on whatever machines. Locks the machines, so nothing else may be locked before.
pub(crate) async fn stop_sessions_of(record: &mut Record, owner: UserId, reason: &str) -> Result<usize, ApiError> {
    // By id, as machines are locked everywhere.
    let machines = sqlx::query(
        "SELECT DISTINCT remote_machine_id FROM agent_sessions
         WHERE user_id = $1 AND status IN ('starting', 'active', 'paused') ORDER BY remote_machine_id",
    );
    for row in machines.bind(owner.0).fetch_all(record.sql()).await? {
        sqlx::query("UPDATE remote_machines SET status = status WHERE machine_id = $1")
            .bind(row.try_get::<Option<String>, _>(0)?)
            .execute(record.sql())
            .await?;
    }
    let rows = sqlx::query(
        "SELECT session_id FROM agent_sessions
         WHERE user_id = $1 AND status IN ('starting', 'active', 'paused') ORDER BY session_id",
    );
    let rows = rows.bind(owner.0).fetch_all(record.sql()).await?;
    stop_all(record, &ids(&rows)?, reason, Tell::Agent).await
}

fn ids(rows: &[AnyRow]) -> Result<Vec<SessionId>, ApiError> {
    let id = |row: &AnyRow| row.try_get::<String, _>(0)?.parse().map_err(ApiError::internal);
    rows.iter().map(id).collect()
}

/// Locks all sessions before the first command: that is the order of locks everywhere.
async fn stop_all(record: &mut Record, ids: &[SessionId], reason: &str, tell: Tell) -> Result<usize, ApiError> {
    let mut live = Vec::new();
    for id in ids {
        live.extend(sessions::lock(record, *id).await?.filter(|row| row.status.is_live()));
    }
    queue::drop_waiting(record, ids).await?;
    for row in &live {
        match tell {
            Tell::Agent => sessions::stop_now(record, row, Some(reason), None).await?,
            Tell::Nobody => sessions::set_state(record, row, State::Stopped, Some(reason)).await?,
        };
    }
    Ok(live.len())
}
