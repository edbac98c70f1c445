//! What becomes of a command after it was handed over: acknowledged, done, failed. All of it counts once.

use ace_policies::MachineId;
use ace_policies::wire::{CommandKind, Failure};
use serde_json::Value;
use sqlx::Row;
use uuid::Uuid;

use crate::error::ApiError;
use crate::record::Record;
use crate::wakeups::Wakeup;

/// A command whose outcome has just become known.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub kind: CommandKind,
    /// The run it was meant for.
    pub run: Option<i64>,
}

impl Finished {
    /// Whether it began a run of its session.
    pub fn is_start(&self) -> bool {
        self.kind == CommandKind::StartSession
    }

    /// Whether it was to end something.
    pub fn is_an_end(&self) -> bool {
        matches!(self.kind, CommandKind::StopSession | CommandKind::AbortRequest)
    }
}

/// Notes that a command has arrived: it is not handed over again, and what it said is not needed any more.
pub(crate) async fn acknowledge(record: &mut Record, machine: MachineId, command_id: Uuid) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE agent_commands SET state = 'acked', payload = '', leased_until = NULL
         WHERE command_id = $1 AND machine_id = $2 AND state IN ('queued', 'delivered')",
    )
    .bind(command_id.to_string())
    .bind(machine.to_string())
    .execute(record.sql())
    .await?;
    Ok(())
}

/// Notes how a command ended. `None` where that is known already, or where it is no command of this machine's.
pub(crate) async fn finish(
    record: &mut Record,
    machine: MachineId,
    command_id: Uuid,
    outcome: Result<Option<&Value>, &Failure>,
) -> Result<Option<Finished>, ApiError> {
    let (state, result, error) = match outcome {
        Ok(result) => ("done", result.map(Value::to_string), None),
        Err(failure) => (
            "failed",
            None,
            Some(serde_json::to_string(failure).map_err(ApiError::internal)?),
        ),
    };
    // Nobody reads the results of other commands.
    let row = sqlx::query(
        "UPDATE agent_commands SET state = $1, payload = '', leased_until = NULL, finished_at = $2, error = $3,
                result = CASE WHEN type IN ('browse_directory', 'read_file', 'git_status', 'git_diff') THEN $4 ELSE NULL END
         WHERE command_id = $5 AND machine_id = $6 AND state IN ('queued', 'delivered', 'acked')
         RETURNING type, run",
    )
    .bind(state)
    .bind(record.app().now())
    .bind(error)
    .bind(result)
    .bind(command_id.to_string())
    .bind(machine.to_string())
    .fetch_optional(record.sql())
    .await?;
    let Some(row) = row else { return Ok(None) };
    record.ring(Wakeup::Command(command_id));
    Ok(Some(Finished {
        kind: row
            .try_get::<String, _>("type")?
            .parse::<CommandKind>()
            .map_err(ApiError::internal)?,
        run: row.try_get("run")?,
    }))
}
