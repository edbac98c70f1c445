//! Handing commands over: in order, under a lease; again when they are not acknowledged while it lasts.

use std::time::Duration;

use ace_policies::MachineId;
use ace_policies::wire::{Command, CommandKind};
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::App;
use crate::error::ApiError;
use crate::record::Record;

/// How long an agent may take to acknowledge a command before it is handed over again.
const LEASE: Duration = Duration::from_secs(30);

/// Commands in one hand-over.
const MAX_AT_ONCE: usize = 32;

/// Bytes of their payloads, but for one that is larger alone. Their leases begin together: all of them must get through in that time.
const MAX_BYTES: i64 = 1 << 20;

/// A command that is handed over.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub id: i64,
    pub command_id: Uuid,
    /// UTC milliseconds.
    pub expires_at: i64,
    /// Without its secrets.
    pub command: Command,
}

/// Whether [`deliver`] would find something. A look is cheap, and most wake-ups and polls are for nothing.
pub(crate) async fn is_anything_due(app: &App, machine: MachineId) -> Result<bool, ApiError> {
    let row = sqlx::query(
        "SELECT COUNT(*) FROM agent_commands WHERE machine_id = $1 AND expires_at > $2
         AND (state = 'queued' OR (state = 'delivered' AND leased_until <= $2))",
    )
    .bind(machine.to_string())
    .bind(app.now())
    .fetch_one(&app.db().read)
    .await?;
    Ok(row.try_get::<i64, _>(0)? > 0)
}

/// Takes what a machine's agent is to do next, in the order in which it was pushed: at most [`MAX_AT_ONCE`] commands and about
/// [`MAX_BYTES`]. With `holder` only while that is the machine's connection. Returns as well whether there is more.
///
/// An abort is leased for ever: it is for the turn that runs now, and would end another one later.
pub(crate) async fn deliver(
    record: &mut Record,
    machine: MachineId,
    holder: Option<Uuid>,
) -> Result<(Vec<Due>, bool), ApiError> {
    let (ids, more) = next(record, machine).await?;
    let mut due = Vec::with_capacity(ids.len());
    for id in ids {
        due.extend(lease(record, machine, holder, id).await?);
    }
    // Who gets nothing of what there is would get nothing of the rest.
    let more = more && !due.is_empty();
    Ok((due, more))
}

/// The commands that are next, and whether there are others after them.
async fn next(record: &mut Record, machine: MachineId) -> Result<(Vec<i64>, bool), ApiError> {
    let rows = sqlx::query(
        "SELECT id, CAST(OCTET_LENGTH(payload) AS BIGINT) FROM agent_commands
         WHERE machine_id = $1 AND expires_at > $2 AND (state = 'queued' OR (state = 'delivered' AND leased_until <= $2))
         ORDER BY id LIMIT $3",
    )
    .bind(machine.to_string())
    .bind(record.app().now())
    .bind(i64::try_from(MAX_AT_ONCE + 1).unwrap_or(i64::MAX))
    .fetch_all(record.sql())
    .await?;
    let (mut ids, mut bytes) = (Vec::new(), 0);
    for row in &rows {
        bytes += row.try_get::<i64, _>(1)?;
        if ids.len() == MAX_AT_ONCE || (bytes > MAX_BYTES && !ids.is_empty()) {
            break;
        }
        ids.push(row.try_get(0)?);
    }
    let more = ids.len() < rows.len();
    Ok((ids, more))
}

/// Leases one command, where it is to be handed over still.
async fn lease(
    record: &mut Record,
    machine: MachineId,
    holder: Option<Uuid>,
    id: i64,
) -> Result<Option<Due>, ApiError> {
    let now = record.app().now();
    let row = sqlx::query(
        "UPDATE agent_commands SET state = 'delivered', attempts = attempts + 1,
                leased_until = CASE WHEN type = 'abort_request' THEN NULL ELSE $3 END
         WHERE id = $4 AND (state = 'queued' OR (state = 'delivered' AND leased_until <= $2))
           AND ($5 = '' OR EXISTS (SELECT 1 FROM agent_connections WHERE machine_id = $1 AND connection_id = $5))
         RETURNING *",
    )
    .bind(machine.to_string())
    .bind(now)
    .bind(now + i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX))
    .bind(id)
    .bind(holder.map(|holder| holder.to_string()).unwrap_or_default())
    .fetch_optional(record.sql())
    .await?;
    row.as_ref().map(Due::read).transpose()
}

/// Takes a command back that nobody wants any more: its session has ended or begun another run.
pub(crate) async fn drop_overtaken(record: &mut Record, due: &Due) -> Result<(), ApiError> {
    settle(record, due.id, "expired").await
}

/// Notes that a command has come about, as far as can be seen from here.
pub(crate) async fn settle_as_done(record: &mut Record, due: &Due) -> Result<(), ApiError> {
    settle(record, due.id, "done").await
}

/// Notes what an agent that does not acknowledge everything is taken to have done with a command that is handed to it. To be called in
/// the order of ids.
pub(crate) async fn settle_on_delivery(record: &mut Record, id: i64, kind: CommandKind) -> Result<(), ApiError> {
    match kind {
        // It acknowledges these; a rotation ends when the new token is used.
        CommandKind::StartSession | CommandKind::SendMessage | CommandKind::RotateToken => Ok(()),
        // It answers these, and they are not worth a second try.
        CommandKind::BrowseDirectory | CommandKind::ReadFile | CommandKind::GitStatus | CommandKind::GitDiff => {
            settle(record, id, "acked").await
        }
        _ => settle(record, id, "done").await,
    }
}

/// What is not handed over any more needs no payload: it may be what somebody said.
async fn settle(record: &mut Record, id: i64, state: &'static str) -> Result<(), ApiError> {
    let now = record.app().now();
    sqlx::query(
        "UPDATE agent_commands SET state = $1, payload = '', leased_until = NULL, finished_at = $2
         WHERE id = $3 AND state = 'delivered'",
    )
    .bind(state)
    .bind((state != "acked").then_some(now))
    .bind(id)
    .execute(record.sql())
    .await?;
    Ok(())
}

impl Due {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let payload: String = row.try_get("payload")?;
        Ok(Self {
            id: row.try_get("id")?,
            command_id: row
                .try_get::<String, _>("command_id")?
                .parse()
                .map_err(|error: uuid::Error| ApiError::internal(error))?,
            expires_at: row.try_get("expires_at")?,
            command: serde_json::from_str(&payload).map_err(ApiError::internal)?,
        })
    }
}
