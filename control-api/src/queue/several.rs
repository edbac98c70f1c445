//! What becomes of several commands at once. They are changed one after the other, in the order of their ids: two transactions that change
//! several never wait for each other.

use ace_policies::{MachineId, SessionId};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::error::ApiError;
use crate::record::Record;

/// Makes what was handed over and not acknowledged due at once: the connection that it went to is gone.
pub(crate) async fn redeliver(record: &mut Record, machine: MachineId) -> Result<(), ApiError> {
    let delivered = "SELECT id FROM agent_commands
                     WHERE machine_id = $1 AND state = 'delivered' AND leased_until IS NOT NULL ORDER BY id";
    for id in found(record, delivered, machine.to_string()).await? {
        sqlx::query(
            "UPDATE agent_commands SET leased_until = 0 WHERE id = $1 AND state = 'delivered' AND leased_until IS NOT NULL",
        )
        .bind(id)
        .execute(record.sql())
        .await?;
    }
    Ok(())
}

/// Takes back what the agents of sessions were not handed yet, but for their ends. The sessions must be locked.
pub(crate) async fn drop_waiting(record: &mut Record, sessions: &[SessionId]) -> Result<(), ApiError> {
    let waiting = "SELECT id FROM agent_commands WHERE session_id = $1 AND state = 'queued' AND type <> 'stop_session'";
    let mut ids = Vec::new();
    for session in sessions {
        ids.extend(found(record, waiting, session.to_string()).await?);
    }
    ids.sort_unstable();
    let end = "UPDATE agent_commands SET state = 'expired', payload = '', finished_at = $1 WHERE id = $2 AND state = 'queued'";
    end_each(record, &ids, end).await
}

/// Takes the rotations of a machine's token back that are under way: another one is, or the token has ended.
pub(crate) async fn drop_rotations(record: &mut Record, machine: MachineId) -> Result<(), ApiError> {
    let rotations = "SELECT id FROM agent_commands WHERE machine_id = $1 AND type = 'rotate_token'
                     AND state IN ('queued', 'delivered', 'acked') ORDER BY id";
    let ids = found(record, rotations, machine.to_string()).await?;
    end_each(record, &ids, END).await
}

/// Takes everything back that a machine was to do: it is gone.
pub(crate) async fn drop_all(record: &mut Record, machine: MachineId) -> Result<(), ApiError> {
    let all = "SELECT id FROM agent_commands
               WHERE machine_id = $1 AND state IN ('queued', 'delivered', 'acked') ORDER BY id";
    let ids = found(record, all, machine.to_string()).await?;
    end_each(record, &ids, END).await
}

const END: &str = "UPDATE agent_commands SET state = 'expired', payload = '', leased_until = NULL, finished_at = $1
                   WHERE id = $2 AND state IN ('queued', 'delivered', 'acked')";

/// Takes away what is over of what a session's agent was told. The session must be locked: nobody else touches these then.
pub(crate) async fn forget_finished(record: &mut Record, session: SessionId) -> Result<(), ApiError> {
    sqlx::query("DELETE FROM agent_commands WHERE session_id = $1 AND state IN ('done', 'failed', 'expired')")
        .bind(session.to_string())
        .execute(record.sql())
        .await?;
    Ok(())
}

/// Takes away the rest of what the agent of a session that was deleted was told, but for an end that it has not heard of: that is the
/// machine's from now on.
pub(crate) async fn forget_deleted(record: &mut Record, session: &str) -> Result<(), ApiError> {
    let rest = "SELECT id FROM agent_commands WHERE session_id = $1
                AND NOT EXISTS (SELECT 1 FROM agent_sessions WHERE agent_sessions.session_id = $1) ORDER BY id";
    for id in found(record, rest, session.to_owned()).await? {
        for statement in [
            "DELETE FROM agent_commands WHERE id = $1
             AND (type <> 'stop_session' OR state NOT IN ('queued', 'delivered', 'acked'))",
            "UPDATE agent_commands SET session_id = NULL WHERE id = $1",
        ] {
            sqlx::query(statement).bind(id).execute(record.sql()).await?;
        }
    }
    Ok(())
}

/// Takes the results away that were finished until then, in UTC milliseconds.
pub(super) async fn forget_results(record: &mut Record, until: i64) -> Result<(), ApiError> {
    let old = sqlx::query("SELECT id FROM agent_commands WHERE result IS NOT NULL AND finished_at <= $1 ORDER BY id");
    for id in ids(&old.bind(until).fetch_all(record.sql()).await?)? {
        sqlx::query("UPDATE agent_commands SET result = NULL WHERE id = $1")
            .bind(id)
            .execute(record.sql())
            .await?;
    }
    Ok(())
}

async fn end_each(record: &mut Record, ids: &[i64], end: &'static str) -> Result<(), ApiError> {
    let now = record.app().now();
    for id in ids {
        sqlx::query(end).bind(now).bind(*id).execute(record.sql()).await?;
    }
    Ok(())
}

async fn found(record: &mut Record, find: &'static str, of: String) -> Result<Vec<i64>, ApiError> {
    ids(&sqlx::query(find).bind(of).fetch_all(record.sql()).await?)
}

fn ids(rows: &[AnyRow]) -> Result<Vec<i64>, ApiError> {
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}
