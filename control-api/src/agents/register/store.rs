//! The machine that a registration makes, or makes anew.

use std::net::IpAddr;

use ace_policies::edge::EdgeHeaders;
use ace_policies::{MachineId, Secret, secret};
use sqlx::Row;

use super::{Grant, Wish, of_another_tenant};
use crate::agents::connections;
use crate::error::ApiError;
use crate::machines::{self, Machine};
use crate::write::Write;

/// What was stored.
pub(super) struct Stored {
    /// The machine as it was, where it was registered before.
    pub before: Option<Machine>,
    pub after: Machine,
}

/// Stores the machine with a new agent token; the one before is worth nothing from now on.
pub(super) async fn machine(
    write: &mut Write,
    wish: &Wish,
    machine: MachineId,
    grant: &Grant,
    token: &Secret,
    edge: &EdgeHeaders,
) -> Result<Stored, ApiError> {
    let now = write.record().app().now();
    let before = machines::find(write.sql(), machine, now).await?;
    let stored = sqlx::query(UPSERT)
        .bind(machine.to_string())
        .bind(grant.tenant.0)
        .bind(&wish.machine_name)
        .bind(&wish.hostname)
        .bind(&wish.os_type)
        .bind(&wish.os_version)
        .bind(address(wish, edge).to_string())
        .bind(&wish.agent_version)
        .bind(serde_json::to_string(&wish.capabilities).map_err(ApiError::internal)?)
        .bind(workspace_type(edge))
        .bind(secret::hash(token.expose()))
        .bind(grant.creator.0)
        .bind(now)
        .fetch_optional(write.sql())
        .await?;
    // Two tokens of two tenants may come with one new id at the same moment: the second finds the first's machine.
    stored.ok_or_else(of_another_tenant)?.try_get::<String, _>(0)?;
    connections::cut(write.record(), machine).await?;
    let after = machines::find(write.sql(), machine, now).await?;
    Ok(Stored {
        before,
        after: after.ok_or_else(machines::absent)?,
    })
}

const UPSERT: &str = "
    INSERT INTO remote_machines (machine_id, tenant_id, machine_name, hostname, os_type, os_version, ip_address, agent_version,
                                 capabilities, workspace_type, agent_token_hash, created_by, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
    ON CONFLICT (machine_id) DO UPDATE SET
        machine_name = excluded.machine_name, hostname = excluded.hostname, os_type = excluded.os_type,
        os_version = excluded.os_version, ip_address = excluded.ip_address, agent_version = excluded.agent_version,
        capabilities = excluded.capabilities, workspace_type = excluded.workspace_type,
        agent_token_hash = excluded.agent_token_hash, next_agent_token_hash = NULL, rotation_id = NULL,
        token_version = remote_machines.token_version + 1, authenticated_at = NULL
    WHERE remote_machines.tenant_id = excluded.tenant_id
    RETURNING machine_id";

/// Makes the one who made the token an admin of a new machine. What is assigned already stays as it is.
pub(super) async fn creator(
    write: &mut Write,
    machine: MachineId,
    grant: &Grant,
    stored: &Stored,
) -> Result<(), ApiError> {
    let Some(creator) = grant.assigns().filter(|_| stored.before.is_none()) else {
        return Ok(());
    };
    let now = write.record().app().now();
    sqlx::query(
        "INSERT INTO machine_assignments (machine_id, user_id, permission, granted_by, granted_at)
         VALUES ($1, $2, 'admin', $2, $3) ON CONFLICT (machine_id, user_id) DO NOTHING",
    )
    .bind(machine.to_string())
    .bind(creator.0)
    .bind(now)
    .execute(write.sql())
    .await?;
    Ok(())
}

/// What the agent says, where that is an address: it is for people, and nothing is decided by it.
fn address(wish: &Wish, edge: &EdgeHeaders) -> IpAddr {
    let told = wish.ip_address.as_deref().and_then(|text| text.trim().parse().ok());
    told.unwrap_or(edge.client)
}

fn workspace_type(edge: &EdgeHeaders) -> &'static str {
    if edge.client.to_canonical().is_loopback() {
        "local"
    } else {
        "remote"
    }
}
