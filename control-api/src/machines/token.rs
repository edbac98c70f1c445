//! The agent's token: POST /api/remote/machines/{id}/token/rotate and /revoke.
//!
//! A rotation never locks an agent out: the old token works until the new one is used for the first time.

use std::time::Duration;

use ace_policies::access::Action;
use ace_policies::secret::{self, TokenKind};
use ace_policies::wire::Command;
use ace_policies::{MachineId, Secret};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sqlx::Row;
use utoipa::ToSchema;

use super::{Machine, MachineAt, One};
use crate::App;
use crate::agents;
use crate::chance;
use crate::error::ApiError;
use crate::queue::{self, NewCommand};
use crate::record::{Record, Topic};
use crate::visitor::Visitor;
use crate::wakeups::Wakeup;
use crate::write::Write;

/// How long a rotation waits for its agent.
const ROTATION_LIFE: Duration = Duration::from_secs(365 * 86_400);

#[derive(Serialize, ToSchema)]
pub(super) struct Rotating {
    success: bool,
    /// Names the rotation in what the agent is told.
    rotation_id: String,
    machine: Machine,
}

/// Has the agent replace its token. The old one works until the new one is used; a rotation that is under way is replaced.
#[utoipa::path(post, path = "/api/remote/machines/{id}/token/rotate", tag = "machines",
    params(("id" = String, Path, description = "The machine's id, a UUID.")),
    responses((status = 200, body = Rotating), (status = 404, body = crate::error::ErrorBody),
              (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn rotate(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(id): MachineAt,
) -> Result<Json<Rotating>, ApiError> {
    let standing = super::standing(&app, &visitor, id).await?;
    let permit = visitor.permit(&app, Action::MachinesRotateToken, &standing).await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let before = super::lock(write.sql(), id, app.now()).await?;
    if before.token_state == "revoked" {
        let message = "the agent's token is revoked, so the agent cannot be told a new one; register the machine again";
        return Err(ApiError::conflict("token_revoked", message));
    }
    let rotation_id = begin(&mut write, id, visitor.actor.user).await?;
    let after = super::by_id(write.sql(), id, app.now()).await?;
    write
        .target(format_args!("machine:{id}"))
        .before(&before)?
        .after(&after)?;
    write.commit().await?;
    Ok(Json(Rotating {
        success: true,
        rotation_id,
        machine: after.seen_by(&visitor, standing.machine),
    }))
}

/// Ends the agent's token at once, and with it the agent's connection and the proxy tokens of the machine's sessions. Only
/// registering the machine again brings it back.
#[utoipa::path(post, path = "/api/remote/machines/{id}/token/revoke", tag = "machines",
    params(("id" = String, Path, description = "The machine's id, a UUID.")),
    responses((status = 200, body = One), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn revoke(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(id): MachineAt,
) -> Result<Json<One>, ApiError> {
    let standing = super::standing(&app, &visitor, id).await?;
    let permit = visitor.permit(&app, Action::MachinesRevokeToken, &standing).await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let before = super::lock(write.sql(), id, app.now()).await?;
    end(write.record(), id).await?;
    let after = super::by_id(write.sql(), id, app.now()).await?;
    write
        .target(format_args!("machine:{id}"))
        .before(&before)?
        .after(&after)?;
    write.commit().await?;
    Ok(Json(One {
        success: true,
        machine: after.seen_by(&visitor, standing.machine),
    }))
}

/// Makes the token of a rotation whose command is being handed over. Handed over again it is another one, and the one before
/// is worth nothing: what was handed over first may have been lost on the way.
///
/// `None` where the rotation is over, replaced, or its machine gone: then there is nothing to hand over.
pub(crate) async fn rotation_token(
    record: &mut Record,
    machine: MachineId,
    rotation_id: &str,
) -> Result<Option<Secret>, ApiError> {
    let token = secret::format(TokenKind::Agent, &chance::bytes());
    let stored = sqlx::query(
        "UPDATE remote_machines SET next_agent_token_hash = $1
         WHERE machine_id = $2 AND rotation_id = $3 AND agent_token_hash IS NOT NULL",
    )
    .bind(secret::hash(token.expose()))
    .bind(machine.to_string())
    .bind(rotation_id)
    .execute(record.sql())
    .await?;
    Ok((stored.rows_affected() == 1).then_some(token))
}

/// The token itself is made when the command is handed over, so that no row holds it.
async fn begin(write: &mut Write, machine: MachineId, by: ace_policies::UserId) -> Result<String, ApiError> {
    let rotation_id = chance::id().to_string();
    let note = sqlx::query("UPDATE remote_machines SET rotation_id = $1 WHERE machine_id = $2")
        .bind(&rotation_id)
        .bind(machine.to_string());
    note.execute(write.sql()).await?;
    queue::drop_rotations(write.record(), machine).await?;
    let command = Command::RotateToken {
        rotation_id: rotation_id.clone(),
        new_token: String::new(),
    };
    let new = NewCommand {
        machine,
        session: None,
        run: None,
        command: &command,
        life: ROTATION_LIFE,
        idempotency_key: None,
        by: Some(by),
    };
    queue::push(write.record(), new).await?;
    Ok(rotation_id)
}

async fn end(record: &mut Record, machine: MachineId) -> Result<(), ApiError> {
    let id = machine.to_string();
    for sql in [
        "UPDATE remote_machines SET agent_token_hash = NULL, next_agent_token_hash = NULL, rotation_id = NULL
         WHERE machine_id = $1",
    ] {
        sqlx::query(sql).bind(&id).execute(record.sql()).await?;
    }
    agents::cut(record, machine).await?;
    revoke_sessions(record, &id).await?;
    queue::drop_rotations(record, machine).await?;
    record.wake(Topic::Auth);
    record.ring(Wakeup::Machine(machine));
    Ok(())
}

/// Makes the proxy tokens of a machine's sessions worthless. One session after the other: they are locked by id everywhere.
async fn revoke_sessions(record: &mut Record, machine: &str) -> Result<(), ApiError> {
    let live = "SELECT session_id FROM agent_sessions
                WHERE remote_machine_id = $1 AND status IN ('starting', 'active', 'paused') ORDER BY session_id";
    for row in sqlx::query(live).bind(machine).fetch_all(record.sql()).await? {
        sqlx::query("UPDATE agent_sessions SET token_generation = token_generation + 1 WHERE session_id = $1")
            .bind(row.try_get::<String, _>(0)?)
            .execute(record.sql())
            .await?;
    }
    Ok(())
}
