//! DELETE /api/remote/machines/{id}.

use ace_policies::MachineId;
use ace_policies::access::Action;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::MachineAt;
use super::halt::{self, Tell};
use crate::App;
use crate::error::ApiError;
use crate::queue;
use crate::record::{Event, Record};
use crate::visitor::Visitor;
use crate::wakeups::Wakeup;

/// How long the token of a machine that is gone is known, in milliseconds: until then its agent hears why it is not let in.
const REMEMBERED_MS: i64 = 400 * 86_400_000;

#[derive(Serialize, ToSchema)]
pub(super) struct Deleted {
    success: bool,
    /// The sessions that ran there until now.
    stopped_sessions: usize,
}

/// Unregisters a machine: its sessions and its agent's token end at once. What its sessions were stays readable.
///
/// The agent is told in place of an answer: its connection is closed, and each new try, however late, is refused with
/// `machine_unregistered`, upon which it ends its CLIs and forgets this server. No credential has to outlive the machine for that.
#[utoipa::path(delete, path = "/api/remote/machines/{id}", tag = "machines",
    params(("id" = String, Path, description = "The machine's id, a UUID.")),
    responses((status = 200, body = Deleted), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn delete(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(id): MachineAt,
) -> Result<Json<Deleted>, ApiError> {
    let standing = super::standing(&app, &visitor, id).await?;
    let permit = visitor.permit(&app, Action::MachinesDelete, &standing).await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let before = super::lock(write.sql(), id, app.now()).await?;
    let reason = "the machine was unregistered";
    let stopped_sessions = halt::stop_sessions(write.record(), id, None, reason, Tell::Nobody).await?;
    forget(write.record(), id).await?;
    let data = json!({ "machine_name": before.name() });
    write.tell(Event {
        kind: "machine.deleted",
        tenant: before.tenant(),
        user: None,
        machine: Some(id),
        session: None,
        data: &data,
    });
    write
        .target(format_args!("machine:{id}"))
        .before(&before)?
        .after(&json!({ "stopped_sessions": stopped_sessions }))?
        .ring(Wakeup::Machine(id));
    write.commit().await?;
    Ok(Json(Deleted {
        success: true,
        stopped_sessions,
    }))
}

/// Takes the machine away, with all that would hold for one that is registered under its id later.
async fn forget(record: &mut Record, machine: MachineId) -> Result<(), ApiError> {
    let (now, id) = (record.app().now(), machine.to_string());
    sqlx::query("DELETE FROM unregistered_agents WHERE unregistered_at < $1")
        .bind(now - REMEMBERED_MS)
        .execute(record.sql())
        .await?;
    for remember in [
        "INSERT INTO unregistered_agents (token_hash, machine_id, unregistered_at)
         SELECT agent_token_hash, machine_id, $1 FROM remote_machines
         WHERE machine_id = $2 AND agent_token_hash IS NOT NULL",
        "INSERT INTO unregistered_agents (token_hash, machine_id, unregistered_at)
         SELECT next_agent_token_hash, machine_id, $1 FROM remote_machines
         WHERE machine_id = $2 AND next_agent_token_hash IS NOT NULL",
    ] {
        sqlx::query(remember).bind(now).bind(&id).execute(record.sql()).await?;
    }
    queue::drop_all(record, machine).await?;
    for forget in [
        "DELETE FROM approval_rules WHERE machine_id = $1",
        // Assignments and the connection go with it.
        "DELETE FROM remote_machines WHERE machine_id = $1",
    ] {
        sqlx::query(forget).bind(&id).execute(record.sql()).await?;
    }
    Ok(())
}
