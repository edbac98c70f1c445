//! Machines: registered once, each with an agent that speaks for it.

mod delete;
mod halt;
mod list;
mod presence;
mod registration;
mod token;
mod update;

use ace_policies::access::{MachinePermission, Role, Standing};
use ace_policies::{Denied, MachineId, TenantId};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::At;
use crate::error::ApiError;
use crate::visitor::Visitor;
use crate::when::When;

pub(crate) use halt::{Tell, stop_sessions, stop_sessions_of};
pub(crate) use presence::{Presence, seen_since};
pub(crate) use registration::target as token_target;
pub(crate) use token::rotation_token;
pub(crate) use update::machine_name;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(registration::register))
        .routes(routes!(list::list))
        .routes(routes!(list::available))
        .routes(routes!(list::read, update::update, delete::delete))
        .routes(routes!(token::rotate))
        .routes(routes!(token::revoke))
}

/// The columns of a machine, and how its agent is.
macro_rules! columns {
    () => {
        "remote_machines.*, agent_connections.transport, agent_connections.seen_at, \
         agent_connections.expires_at AS lease_ends_at"
    };
}

/// Where they come from.
macro_rules! tables {
    () => {
        "remote_machines LEFT JOIN agent_connections ON agent_connections.machine_id = remote_machines.machine_id"
    };
}

use {columns, tables};

/// A machine, without anything secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct Machine {
    machine_id: String,
    machine_name: String,
    hostname: String,
    /// `linux`, `macos`, `windows`, or what else its agent calls it.
    os_type: String,
    os_version: String,
    ip_address: Option<String>,
    /// `online` or `offline`.
    #[schema(value_type = String)]
    status: &'static str,
    /// Whether its agent can be told something at this moment.
    connected: bool,
    /// `ws` or `poll`; `null` while there is no connection.
    transport: Option<String>,
    agent_version: String,
    /// `own`, or `python` for the older agent.
    dialect: String,
    /// What its agent says that it can do: `cpu_cores`, `memory_gb`, `clis` and more.
    #[schema(value_type = Object)]
    capabilities: Box<RawValue>,
    /// Where new sessions begin when nothing is said; `null` leaves it to the agent.
    work_dir: Option<String>,
    /// How many sessions may run here at once.
    max_sessions: i64,
    /// Whether proxy tokens may live as long as their session where the agent cannot renew them.
    allow_long_tokens: bool,
    /// `remote`, or `local` for an agent on the gateway's own host.
    workspace_type: String,
    tenant_id: i64,
    created_at: When,
    /// The last sign of life.
    last_heartbeat: Option<When>,
    /// The agent's token: `current`, `rotating`, `unused` before its first use, or `revoked`.
    #[schema(value_type = String)]
    token_state: &'static str,
    /// Counted up with each new agent token.
    token_version: i64,
    /// What the caller is here: `admin` or `user`. System admins are `admin` everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    current_user_permission: Option<MachinePermission>,
}

/// One machine.
#[derive(Serialize, ToSchema)]
struct One {
    success: bool,
    machine: Machine,
}

impl Machine {
    fn read(row: &AnyRow, now: i64) -> Result<Self, ApiError> {
        let capabilities: String = row.try_get("capabilities")?;
        let last_heartbeat: Option<i64> = row.try_get("last_heartbeat")?;
        let presence = Presence::read(row, now)?;
        Ok(Self {
            machine_id: row.try_get("machine_id")?,
            machine_name: row.try_get("machine_name")?,
            hostname: row.try_get("hostname")?,
            os_type: row.try_get("os_type")?,
            os_version: row.try_get("os_version")?,
            ip_address: row.try_get("ip_address")?,
            status: presence.status(),
            connected: presence.connected,
            agent_version: row.try_get("agent_version")?,
            dialect: row.try_get("dialect")?,
            capabilities: RawValue::from_string(capabilities).map_err(ApiError::internal)?,
            work_dir: row.try_get("work_dir")?,
            max_sessions: row.try_get("max_sessions")?,
            allow_long_tokens: row.try_get::<i64, _>("allow_long_tokens")? != 0,
            workspace_type: row.try_get("workspace_type")?,
            tenant_id: row.try_get("tenant_id")?,
            created_at: When(row.try_get("created_at")?),
            last_heartbeat: last_heartbeat.max(presence.seen_at).map(When),
            transport: presence.transport,
            token_state: token_state(row)?,
            token_version: row.try_get("token_version")?,
            current_user_permission: None,
        })
    }

    /// The same, for somebody who stands like this to it.
    fn seen_by(mut self, visitor: &Visitor, permission: Option<MachinePermission>) -> Self {
        self.current_user_permission = match visitor.actor.role {
            Role::Admin => Some(MachinePermission::Admin),
            Role::User => permission,
        };
        self
    }
}

fn token_state(row: &AnyRow) -> Result<&'static str, sqlx::Error> {
    let is_there = |column| Ok::<_, sqlx::Error>(row.try_get::<Option<String>, _>(column)?.is_some());
    Ok(if !is_there("agent_token_hash")? {
        "revoked"
    } else if is_there("rotation_id")? {
        "rotating"
    } else if row.try_get::<Option<i64>, _>("authenticated_at")?.is_none() {
        "unused"
    } else {
        "current"
    })
}

/// The machine that a path names. Errors: 400 where its id is no UUID.
pub(crate) struct MachineAt(pub MachineId);

#[derive(Deserialize)]
struct Id {
    id: String,
}

impl FromRequestParts<App> for MachineAt {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let At(Id { id }) = At::from_request_parts(parts, app).await?;
        let id = id
            .parse()
            .map_err(|_| ApiError::field("machine_id", "must be a UUID"))?;
        Ok(Self(id))
    }
}

/// How a visitor stands to a machine. To one that is not there they stand as to one that they may not know of.
pub(crate) async fn standing(app: &App, visitor: &Visitor, machine: MachineId) -> Result<Standing, ApiError> {
    let row = sqlx::query(
        "SELECT remote_machines.tenant_id, machine_assignments.permission
         FROM remote_machines LEFT JOIN machine_assignments
              ON machine_assignments.machine_id = remote_machines.machine_id AND machine_assignments.user_id = $1
         WHERE remote_machines.machine_id = $2",
    )
    .bind(visitor.actor.user.0)
    .bind(machine.to_string())
    .fetch_optional(&app.db().read)
    .await?;
    let Some(row) = row else {
        return Ok(Standing::default());
    };
    Ok(Standing {
        tenant: Some(TenantId(row.try_get("tenant_id")?)),
        machine: permission(row.try_get("permission")?)?,
        ..Standing::default()
    })
}

/// Reads a permission as tables have it.
pub(crate) fn permission(text: Option<String>) -> Result<Option<MachinePermission>, ApiError> {
    text.map(|text| text.parse()).transpose().map_err(ApiError::internal)
}

/// The answer for a machine that is not there. The same as for one that somebody may not know of.
pub(crate) fn absent() -> ApiError {
    Denied::MachineNotFound.into()
}

/// Finds a machine. Errors: 404.
async fn by_id(connection: &mut AnyConnection, machine: MachineId, now: i64) -> Result<Machine, ApiError> {
    find(connection, machine, now).await?.ok_or_else(absent)
}

/// Finds a machine that may not be there.
pub(crate) async fn find(
    connection: &mut AnyConnection,
    machine: MachineId,
    now: i64,
) -> Result<Option<Machine>, ApiError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        " FROM ",
        tables!(),
        " WHERE remote_machines.machine_id = $1"
    ))
    .bind(machine.to_string())
    .fetch_optional(connection)
    .await?;
    row.map(|row| Machine::read(&row, now)).transpose()
}

/// Holds a machine still until the transaction ends: its assignments, its connection, and which sessions live on it. Returns its row,
/// `None` where there is none. Machines are locked before anything that is theirs.
pub(crate) async fn hold(connection: &mut AnyConnection, machine: MachineId) -> Result<Option<AnyRow>, sqlx::Error> {
    let hold = sqlx::query("UPDATE remote_machines SET status = status WHERE machine_id = $1 RETURNING *");
    hold.bind(machine.to_string()).fetch_optional(connection).await
}

/// Holds a machine still, then reads it. Errors: 404.
pub(crate) async fn lock(connection: &mut AnyConnection, machine: MachineId, now: i64) -> Result<Machine, ApiError> {
    hold(connection, machine).await?;
    by_id(connection, machine, now).await
}

impl Machine {
    /// Whose it is.
    pub(crate) fn tenant(&self) -> TenantId {
        TenantId(self.tenant_id)
    }

    fn name(&self) -> &str {
        &self.machine_name
    }
}

#[cfg(test)]
mod tests;
