//! Ends sessions because of what happens to their machine, or to their owner's place on it.

use ace_policies::session::State;
use ace_policies::{MachineId, UserId};
use sqlx::Row;

use crate::error::ApiError;
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
    let mut stopped = 0;
    for row in rows {
        let id: String = row.try_get(0)?;
        let id = id.parse().map_err(|error: uuid::Error| ApiError::internal(error))?;
        let Some(row) = sessions::lock(record, id).await?.filter(|row| row.status.is_live()) else {
            continue;
        };
        match tell {
            Tell::Agent => sessions::stop_now(record, &row, Some(reason), None).await?,
            Tell::Nobody => sessions::set_state(record, &row, State::Stopped, Some(reason)).await?,
        };
        stopped += 1;
    }
    Ok(stopped)
}
