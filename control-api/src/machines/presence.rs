//! Whether a machine's agent is there: read from the row that the holder of its connection keeps.

use std::time::Duration;

use ace_policies::MachineId;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use crate::App;
use crate::error::ApiError;

/// How long a machine counts as online after the last sign of life.
const OFFLINE_AFTER: Duration = Duration::from_secs(180);

/// How a machine's agent is at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Presence {
    /// It gave a sign of life lately.
    pub online: bool,
    /// Somebody holds its connection: what it is told now arrives at once.
    pub connected: bool,
    /// `ws` or `poll`, while connected.
    pub transport: Option<String>,
    /// The last sign of life of this connection, UTC milliseconds.
    pub seen_at: Option<i64>,
}

impl Presence {
    /// Looks a machine's agent up. One that is not there is as good as offline.
    pub async fn of(connection: &mut AnyConnection, machine: MachineId, now: i64) -> Result<Self, ApiError> {
        let row = sqlx::query(
            "SELECT transport, seen_at, expires_at AS lease_ends_at FROM agent_connections WHERE machine_id = $1",
        )
        .bind(machine.to_string())
        .fetch_optional(connection)
        .await?;
        let presence = row.map(|row| Self::read(&row, now)).transpose()?;
        Ok(presence.unwrap_or_default())
    }

    /// Reads it from a row with `transport`, `seen_at` and `lease_ends_at`, all `NULL` where there is no connection.
    pub fn read(row: &AnyRow, now: i64) -> Result<Self, sqlx::Error> {
        let seen_at: Option<i64> = row.try_get("seen_at")?;
        let lease_ends_at: Option<i64> = row.try_get("lease_ends_at")?;
        let transport: Option<String> = row.try_get("transport")?;
        let connected = lease_ends_at.is_some_and(|end| end > now);
        Ok(Self {
            online: seen_at.is_some_and(|at| at > seen_since(now)),
            connected,
            transport: transport.filter(|_| connected),
            seen_at,
        })
    }

    /// `online` or `offline`.
    pub const fn status(&self) -> &'static str {
        if self.online { "online" } else { "offline" }
    }
}

impl App {
    /// Whether a machine's agent is connected, to this node or another.
    pub async fn is_connected(&self, machine: MachineId) -> Result<bool, ApiError> {
        let mut connection = self.db().read.acquire().await?;
        let presence = Presence::of(&mut connection, machine, self.now()).await?;
        Ok(presence.connected)
    }
}

/// Who was seen after this is online, for `WHERE agent_connections.seen_at > …`.
pub(crate) fn seen_since(now: i64) -> i64 {
    now - i64::try_from(OFFLINE_AFTER.as_millis()).unwrap_or(i64::MAX)
}
