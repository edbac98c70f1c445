//! Who may do what with a session.

use std::collections::HashMap;

use ace_policies::access::{self, Action, Actor, Permit, Role, Standing};
use ace_policies::{Denied, MachineId, SessionId, TenantId, UserId};
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use super::store::SessionRow;
use crate::App;
use crate::error::ApiError;
use crate::machines;
use crate::record::Record;
use crate::visitor::Visitor;

/// A session as it stands to somebody who wants something of it.
pub(crate) struct Party {
    pub row: SessionRow,
    /// The name of whose it is.
    pub owner: String,
    pub permit: Permit,
}

impl Party {
    /// Finds a session for somebody. Errors: 404 where there is none, or none that they may know of.
    pub async fn of(app: &App, visitor: &Visitor, action: Action, id: SessionId) -> Result<Self, ApiError> {
        let (row, owner, standing) = find(app, visitor, id).await?;
        let permit = visitor.permit(app, action, &standing).await?;
        Ok(Self { row, owner, permit })
    }

    /// Refuses what would make work for a machine that the actor has lost, even while they waited for it: the machine must be locked.
    /// Looking at what was, and ending it, is left to them.
    pub async fn refuse_unassigned(&self, record: &mut Record) -> Result<(), ApiError> {
        let standing = Standing {
            tenant: Some(self.row.tenant),
            owner: Some(self.row.user),
            machine: None,
        };
        refuse_unassigned(record, &self.permit, self.row.machine()?, standing).await
    }

    /// Locks the session that was found. Errors: 404 where it went meanwhile.
    pub async fn lock(&self, record: &mut Record) -> Result<SessionRow, ApiError> {
        let locked = super::lock(record, self.row.id).await?;
        locked.ok_or_else(no_such_session)
    }
}

/// Looks again whether somebody may do what they have a permit for, and use the machine, which must be locked: the permit is from
/// before the lock. `standing` is how they stand to the thing otherwise. Errors: as from [`access::check`], 401 for who was disabled.
pub(super) async fn refuse_unassigned(
    record: &mut Record,
    permit: &Permit,
    machine: MachineId,
    standing: Standing,
) -> Result<(), ApiError> {
    let row = sqlx::query(
        "SELECT users.role, machine_assignments.permission FROM users
         LEFT JOIN machine_assignments ON machine_assignments.user_id = users.id AND machine_assignments.machine_id = $2
         WHERE users.id = $1 AND users.is_active = 1",
    )
    .bind(permit.actor().user.0)
    .bind(machine.to_string())
    .fetch_optional(record.sql())
    .await?
    .ok_or_else(ApiError::unauthenticated)?;
    let role = row.try_get::<String, _>("role")?.parse().map_err(ApiError::internal)?;
    let actor = Actor {
        role,
        ..permit.actor().clone()
    };
    let machine = machines::permission(row.try_get("permission")?)?;
    access::check(&actor, permit.action(), &Standing { machine, ..standing })?;
    let denied = Denied::NotAssigned;
    let refusal = || ApiError::forbidden(denied.code(), denied.to_string());
    let is_assigned = machine.is_some() || role == Role::Admin;
    is_assigned.then_some(()).ok_or_else(refusal)
}

async fn find(app: &App, visitor: &Visitor, id: SessionId) -> Result<(SessionRow, String, Standing), ApiError> {
    let found = sqlx::query(
        "SELECT agent_sessions.*, users.username AS owner, machine_assignments.permission
         FROM agent_sessions JOIN users ON users.id = agent_sessions.user_id
         LEFT JOIN machine_assignments ON machine_assignments.machine_id = agent_sessions.remote_machine_id
                                      AND machine_assignments.user_id = $2
         WHERE agent_sessions.session_id = $1",
    )
    .bind(id.to_string())
    .bind(visitor.actor.user.0)
    .fetch_optional(&app.db().read)
    .await?;
    let found = found.ok_or_else(no_such_session)?;
    let row = SessionRow::read(&found)?;
    let standing = Standing {
        tenant: Some(row.tenant),
        owner: Some(row.user),
        machine: machines::permission(found.try_get("permission")?)?,
    };
    Ok((row, found.try_get("owner")?, standing))
}

/// How somebody stands to some sessions; one that is not there is left out.
pub(super) async fn standings(
    app: &App,
    visitor: &Visitor,
    ids: &[SessionId],
) -> Result<HashMap<SessionId, Standing>, ApiError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let places: Vec<String> = (2..ids.len() + 2).map(|place| format!("${place}")).collect();
    let sql = format!(
        "SELECT agent_sessions.session_id, agent_sessions.tenant_id, agent_sessions.user_id, machine_assignments.permission
         FROM agent_sessions
         LEFT JOIN machine_assignments ON machine_assignments.machine_id = agent_sessions.remote_machine_id
                                      AND machine_assignments.user_id = $1
         WHERE agent_sessions.session_id IN ({})",
        places.join(", ")
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(visitor.actor.user.0);
    let query = ids.iter().fold(query, |query, id| query.bind(id.to_string()));
    let rows = query.fetch_all(&app.db().read).await?;
    let standing = |row: &AnyRow| {
        let id: SessionId = row
            .try_get::<String, _>("session_id")?
            .parse()
            .map_err(ApiError::internal)?;
        let standing = Standing {
            tenant: Some(TenantId(row.try_get("tenant_id")?)),
            owner: Some(UserId(row.try_get("user_id")?)),
            machine: machines::permission(row.try_get("permission")?)?,
        };
        Ok((id, standing))
    };
    rows.iter().map(standing).collect()
}

fn no_such_session() -> ApiError {
    Denied::SessionNotFound.into()
}
