//! Who holds the connection to a machine's agent: the rows that say whether it is there.
//!
//! The newest connection wins. Whoever had it before is woken and finds out by itself.

use ace_policies::{MachineId, TenantId};
use serde_json::json;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, Row};
use uuid::Uuid;

use super::credential::unregistered;
use super::{Agent, LEASE, millis};
use crate::App;
use crate::error::ApiError;
use crate::machines::{self, seen_since};
use crate::record::{Event, Record};
use crate::wakeups::Wakeup;

/// So many takeovers within [`FLAPPING_MS`] are no agent that reconnects.
const FLAPPING: i64 = 4;
const FLAPPING_MS: i64 = 60_000;

/// A connection of a machine's agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Connection {
    pub machine: MachineId,
    pub id: Uuid,
    pub transport: Transport,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Ws,
    Poll,
}

impl Transport {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Poll => "poll",
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The agent said good-bye: it is offline at once.
    Clean,
    /// It broke off, or this node ends: the agent is expected back, and offline only when it does not come.
    Broken,
}

/// Who had the connection before.
struct Holder {
    id: String,
    is_connected: bool,
    is_online: bool,
    takeovers: i64,
    takeovers_since: i64,
}

/// Makes a connection the machine's, which must be locked.
pub(super) async fn claim(record: &mut Record, agent: &Agent, connection: Connection) -> Result<(), ApiError> {
    let now = record.app().now();
    let before = holder(record, agent.machine).await?;
    let put_out = before
        .as_ref()
        .filter(|before| before.is_connected && before.id != connection.id.to_string());
    let (takeovers, since) = counted(put_out, before.as_ref(), now);
    sqlx::query(
        "INSERT INTO agent_connections (machine_id, connection_id, node_id, transport, connected_at, seen_at, expires_at,
                                        takeovers, takeovers_since)
         VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8)
         ON CONFLICT (machine_id) DO UPDATE SET connection_id = $2, node_id = $3, transport = $4, connected_at = $5, seen_at = $5,
                                                expires_at = $6, takeovers = $7, takeovers_since = $8",
    )
    .bind(connection.machine.to_string())
    .bind(connection.id.to_string())
    .bind(record.app().node_id().to_string())
    .bind(connection.transport.as_str())
    .bind(now)
    .bind(now + millis(LEASE))
    .bind(takeovers)
    .bind(since)
    .execute(record.sql())
    .await?;
    sqlx::query("UPDATE remote_machines SET status = 'online', last_heartbeat = $1 WHERE machine_id = $2")
        .bind(now)
        .bind(connection.machine.to_string())
        .execute(record.sql())
        .await?;
    if put_out.is_some() {
        record.ring(Wakeup::Machine(agent.machine));
    }
    if takeovers == FLAPPING {
        tell_of(record, agent, "machine.conflict");
    }
    if !before.is_some_and(|before| before.is_online) {
        tell_of(record, agent, "machine.online");
    }
    Ok(())
}

/// How many takeovers there were lately, and since when that is counted.
fn counted(put_out: Option<&Holder>, before: Option<&Holder>, now: i64) -> (i64, i64) {
    let (count, since) = before.map_or((0, 0), |before| (before.takeovers, before.takeovers_since));
    match put_out {
        None => (count, since),
        Some(_) if now - since > FLAPPING_MS => (1, now),
        Some(_) => (count + 1, since),
    }
}

/// Keeps others from changing who is connected until the transaction ends. Errors: 401 where the machine is gone.
pub(super) async fn lock(record: &mut Record, machine: MachineId) -> Result<(), ApiError> {
    if machines::hold(record.sql(), machine).await?.is_none() {
        return Err(unregistered());
    }
    Ok(())
}

async fn holder(record: &mut Record, machine: MachineId) -> Result<Option<Holder>, ApiError> {
    let now = record.app().now();
    let row = sqlx::query("SELECT * FROM agent_connections WHERE machine_id = $1")
        .bind(machine.to_string())
        .fetch_optional(record.sql())
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Holder {
        id: row.try_get("connection_id")?,
        is_connected: row.try_get::<i64, _>("expires_at")? > now,
        is_online: row.try_get::<i64, _>("seen_at")? > seen_since(now),
        takeovers: row.try_get("takeovers")?,
        takeovers_since: row.try_get("takeovers_since")?,
    }))
}

/// Notes a sign of life. False where the connection is not the machine's any more.
pub(super) async fn renew(app: &App, connection: Connection) -> Result<bool, ApiError> {
    let now = app.now();
    let mut record = app.record().await?;
    let renewed = sqlx::query(
        "UPDATE agent_connections SET seen_at = $1, expires_at = $2 WHERE machine_id = $3 AND connection_id = $4",
    )
    .bind(now)
    .bind(now + millis(LEASE))
    .bind(connection.machine.to_string())
    .bind(connection.id.to_string())
    .execute(record.sql())
    .await?;
    record.commit().await?;
    Ok(renewed.rows_affected() == 1)
}

/// Lets a connection go, where it is the machine's still.
pub(super) async fn release(app: &App, connection: Connection, end: End) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    let (machine, id) = (connection.machine.to_string(), connection.id.to_string());
    match end {
        End::Clean => {
            let gone = "DELETE FROM agent_connections WHERE machine_id = $1 AND connection_id = $2";
            offline(
                &mut record,
                connection.machine,
                sqlx::query(gone).bind(machine).bind(id),
            )
            .await?;
        }
        End::Broken => {
            let lapse =
                "UPDATE agent_connections SET expires_at = seen_at WHERE machine_id = $1 AND connection_id = $2";
            sqlx::query(lapse).bind(machine).bind(id).execute(record.sql()).await?;
        }
    }
    record.commit().await
}

/// Lets the connection of a machine go that gave no sign since `until`, where there still is one.
pub(super) async fn lapse(app: &App, machine: MachineId, until: i64) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    let gone = sqlx::query("DELETE FROM agent_connections WHERE machine_id = $1 AND seen_at <= $2");
    offline(&mut record, machine, gone.bind(machine.to_string()).bind(until)).await?;
    record.commit().await
}

/// Takes the connection of a machine away, whoever holds it: its agent may not speak for the machine any more. The machine must be locked.
pub(crate) async fn cut(record: &mut Record, machine: MachineId) -> Result<(), ApiError> {
    let gone = sqlx::query("DELETE FROM agent_connections WHERE machine_id = $1");
    offline(record, machine, gone.bind(machine.to_string())).await
}

/// Takes the row of a connection away and tells that the machine is offline. Whoever takes it away tells it: so it is told once.
async fn offline(record: &mut Record, machine: MachineId, gone: Query<'_, Any, AnyArguments>) -> Result<(), ApiError> {
    let Some(row) = machines::hold(record.sql(), machine).await? else {
        return Ok(());
    };
    if gone.execute(record.sql()).await?.rows_affected() == 0 {
        return Ok(());
    }
    sqlx::query("UPDATE remote_machines SET status = 'offline' WHERE machine_id = $1")
        .bind(machine.to_string())
        .execute(record.sql())
        .await?;
    let name: String = row.try_get("machine_name")?;
    let tenant = TenantId(row.try_get("tenant_id")?);
    tell(record, tenant, machine, "machine.offline", &name);
    Ok(())
}

fn tell_of(record: &mut Record, agent: &Agent, kind: &'static str) {
    tell(record, agent.tenant, agent.machine, kind, &agent.machine_name);
}

fn tell(record: &mut Record, tenant: TenantId, machine: MachineId, kind: &'static str, name: &str) {
    let data = json!({ "machine_name": name });
    let event = Event {
        kind,
        tenant,
        user: None,
        machine: Some(machine),
        session: None,
        data: &data,
    };
    record.tell(event);
}
