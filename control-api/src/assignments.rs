//! Assignments: who may use a machine, and who manages its users and sessions.

use ace_policies::access::{Action, MachinePermission, Role, Standing};
use ace_policies::{MachineId, TenantId, UserId};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::{At, Body, Params};
use crate::error::ApiError;
use crate::machines::{self, Machine, MachineAt, Tell};
use crate::page::{self, Cursor, Filter};
use crate::visitor::Visitor;
use crate::when::When;
use crate::write::Write;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(assign))
        .routes(routes!(revoke))
        .routes(routes!(list))
}

/// Who is to be assigned.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wish {
    user_id: i64,
    /// `user` (the default), or `admin`, which only a system admin can grant: asked for by a machine admin it is `user`.
    #[serde(default = "plain")]
    permission: String,
}

/// A user's place on a machine.
#[derive(Serialize, ToSchema)]
struct Assignment {
    user_id: i64,
    username: String,
    /// `admin` or `user`.
    permission: String,
    /// Who granted it.
    granted_by: Option<i64>,
    granted_at: When,
}

#[derive(Serialize, ToSchema)]
struct Assigned {
    success: bool,
    /// As it is stored.
    assignment: Assignment,
}

#[derive(Serialize, ToSchema)]
struct Revoked {
    success: bool,
    /// The user's sessions that ran on the machine until now.
    stopped_sessions: usize,
}

/// Which users are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Query {
    /// The `next` of the page before.
    after: Option<Cursor>,
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
struct Page {
    success: bool,
    users: Vec<Assignment>,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}

const SELECT: &str = "SELECT machine_assignments.*, users.username
                      FROM machine_assignments JOIN users ON users.id = machine_assignments.user_id";

/// Assigns a user to a machine, or changes what they are there.
#[utoipa::path(post, path = "/api/remote/machines/{id}/assign", tag = "machines",
    params(("id" = String, Path, description = "The machine's id, a UUID.")), request_body = Wish,
    responses((status = 200, body = Assigned), (status = 400, body = crate::error::ErrorBody),
              (status = 403, body = crate::error::ErrorBody), (status = 404, body = crate::error::ErrorBody)))]
async fn assign(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(machine): MachineAt,
    Body(wish): Body<Wish>,
) -> Result<Json<Assigned>, ApiError> {
    let standing = machines::standing(&app, &visitor, machine).await?;
    let permit = visitor.permit(&app, Action::AssignmentsCreate, &standing).await?;
    let asked = parse(&wish.permission)?;
    let user = UserId(wish.user_id);
    let place = Place { machine, user };
    let permit = match place.permit_for_admin(&app, &visitor, &standing).await? {
        Some(permit) => permit,
        None => permit,
    };
    let mut write = app.write(&permit, &visitor.edge).await?;
    let before = place.lock(&mut write, &permit).await?;
    refuse_strangers(&mut write, &visitor, user, before.machine.tenant()).await?;
    let granted = permit.grantable(asked);
    let after = place.store(&mut write, granted, visitor.actor.user).await?;
    write.target(place.name()).after(&after)?;
    if let Some(assignment) = &before.assignment {
        write.before(assignment)?;
    }
    write.commit().await?;
    Ok(Json(Assigned {
        success: true,
        assignment: after,
    }))
}

/// Revokes a user's access to a machine. Their sessions there end with it.
#[utoipa::path(delete, path = "/api/remote/machines/{id}/assign/{user_id}", tag = "machines",
    params(("id" = String, Path, description = "The machine's id, a UUID."), ("user_id" = i64, Path)),
    responses((status = 200, body = Revoked), (status = 403, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
async fn revoke(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(machine): MachineAt,
    At(AtUser { user_id: user }): At<AtUser>,
) -> Result<Json<Revoked>, ApiError> {
    let standing = machines::standing(&app, &visitor, machine).await?;
    let permit = visitor.permit(&app, Action::AssignmentsRevoke, &standing).await?;
    let place = Place { machine, user };
    let permit = match place.permit_for_admin(&app, &visitor, &standing).await? {
        Some(permit) => permit,
        None => permit,
    };
    let mut write = app.write(&permit, &visitor.edge).await?;
    let before = place.lock(&mut write, &permit).await?;
    let before = before.assignment.ok_or_else(not_assigned)?;
    place.remove(&mut write).await?;
    let reason = "the owner may not use the machine any more";
    let stopped_sessions = machines::stop_sessions(write.record(), machine, Some(user), reason, Tell::Agent).await?;
    write
        .target(place.name())
        .before(&before)?
        .after(&serde_json::json!({ "stopped_sessions": stopped_sessions }))?;
    write.commit().await?;
    Ok(Json(Revoked {
        success: true,
        stopped_sessions,
    }))
}

/// Lists the users of a machine, the last assigned first.
#[utoipa::path(get, path = "/api/remote/machines/{id}/users", tag = "machines",
    params(("id" = String, Path, description = "The machine's id, a UUID."), Query),
    responses((status = 200, body = Page), (status = 403, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
async fn list(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(machine): MachineAt,
    Params(query): Params<Query>,
) -> Result<Json<Page>, ApiError> {
    let standing = machines::standing(&app, &visitor, machine).await?;
    visitor.permit(&app, Action::MachinesListUsers, &standing).await?;
    if standing.tenant.is_none() {
        return Err(machines::absent());
    }
    let mut filter = Filter::default();
    filter
        .and("machine_id =", machine.to_string().as_str())
        .below("(granted_at, user_id)", query.after);
    let order = "granted_at DESC, user_id DESC";
    let found = filter
        .page(&app.db().read, SELECT, order, page::limit(query.limit)?)
        .await?;
    let users = found.rows.iter().map(Assignment::read).collect::<Result<Vec<_>, _>>()?;
    let next = users.last().filter(|_| found.more).map(|last| Cursor {
        key: last.granted_at.0,
        id: last.user_id,
    });
    Ok(Json(Page {
        success: true,
        users,
        next,
    }))
}

#[derive(Deserialize)]
struct AtUser {
    user_id: UserId,
}

/// A user on a machine.
#[derive(Clone, Copy)]
struct Place {
    machine: MachineId,
    user: UserId,
}

/// How it was before an act.
struct Before {
    machine: Machine,
    assignment: Option<Assignment>,
}

impl Place {
    /// What it takes to change the place of one of the machine's admins; `None` where the user is none.
    ///
    /// It is asked for before the write: a refusal is a write of its own.
    async fn permit_for_admin(
        self,
        app: &App,
        visitor: &Visitor,
        standing: &Standing,
    ) -> Result<Option<ace_policies::access::Permit>, ApiError> {
        let mut connection = app.db().read.acquire().await?;
        let is_admin = self.read(&mut connection).await?.is_some_and(|held| held.is_admin());
        drop(connection);
        if !is_admin {
            return Ok(None);
        }
        let action = Action::AssignmentsRevokeAdmin;
        visitor.permit(app, action, standing).await.map(Some)
    }

    /// Holds the machine and its assignments still. Errors: 404 for the machine, 409 when the user became an admin of it after
    /// the permit was given.
    async fn lock(self, write: &mut Write, permit: &ace_policies::access::Permit) -> Result<Before, ApiError> {
        let now = write.record().app().now();
        let machine = machines::lock(write.sql(), self.machine, now).await?;
        let assignment = self.read(write.sql()).await?;
        let is_admin = assignment.as_ref().is_some_and(Assignment::is_admin);
        if is_admin && permit.action() != Action::AssignmentsRevokeAdmin {
            let message = "the user has just become an admin of this machine; look again";
            return Err(ApiError::conflict("changed_meanwhile", message));
        }
        Ok(Before { machine, assignment })
    }

    async fn read(self, connection: &mut AnyConnection) -> Result<Option<Assignment>, ApiError> {
        let row = sqlx::query(
            "SELECT machine_assignments.*, users.username
             FROM machine_assignments JOIN users ON users.id = machine_assignments.user_id
             WHERE machine_id = $1 AND user_id = $2",
        )
        .bind(self.machine.to_string())
        .bind(self.user.0)
        .fetch_optional(connection)
        .await?;
        Ok(row.as_ref().map(Assignment::read).transpose()?)
    }

    async fn store(self, write: &mut Write, permission: MachinePermission, by: UserId) -> Result<Assignment, ApiError> {
        let now = write.record().app().now();
        sqlx::query(
            "INSERT INTO machine_assignments (machine_id, user_id, permission, granted_by, granted_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (machine_id, user_id) DO UPDATE SET
                 permission = excluded.permission, granted_by = excluded.granted_by, granted_at = excluded.granted_at",
        )
        .bind(self.machine.to_string())
        .bind(self.user.0)
        .bind(permission.as_str())
        .bind(by.0)
        .bind(now)
        .execute(write.sql())
        .await?;
        let stored = self.read(write.sql()).await?;
        stored.ok_or_else(|| ApiError::internal("an assignment that was just stored is not there"))
    }

    async fn remove(self, write: &mut Write) -> Result<(), ApiError> {
        sqlx::query("DELETE FROM machine_assignments WHERE machine_id = $1 AND user_id = $2")
            .bind(self.machine.to_string())
            .bind(self.user.0)
            .execute(write.sql())
            .await?;
        Ok(())
    }

    /// How the audit log calls it.
    fn name(self) -> String {
        format!("machine:{} user:{}", self.machine, self.user)
    }
}

impl Assignment {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            user_id: row.try_get("user_id")?,
            username: row.try_get("username")?,
            permission: row.try_get("permission")?,
            granted_by: row.try_get("granted_by")?,
            granted_at: When(row.try_get("granted_at")?),
        })
    }

    fn is_admin(&self) -> bool {
        self.permission == MachinePermission::Admin.as_str()
    }
}

fn parse(permission: &str) -> Result<MachinePermission, ApiError> {
    permission
        .parse()
        .map_err(|error: ace_policies::access::UnknownPermission| {
            ApiError::bad(
                "unknown_permission",
                format!("permission: {error}; `user` and `admin` are known"),
            )
        })
}

/// Only users of the machine's tenant can be assigned. Machine admins do not learn who there is elsewhere.
async fn refuse_strangers(
    write: &mut Write,
    visitor: &Visitor,
    user: UserId,
    tenant: TenantId,
) -> Result<(), ApiError> {
    let row = sqlx::query("SELECT tenant_id FROM users WHERE id = $1").bind(user.0);
    let row = row.fetch_optional(write.sql()).await?;
    let theirs = row.map(|row| row.try_get(0).map(TenantId)).transpose()?;
    match theirs {
        Some(theirs) if theirs == tenant => Ok(()),
        Some(_) if visitor.actor.role == Role::Admin => Err(ApiError::bad(
            "user_of_another_tenant",
            "user_id: this user belongs to another tenant than the machine",
        )),
        _ => Err(ApiError::bad("unknown_user", "user_id: there is no such user")),
    }
}

fn not_assigned() -> ApiError {
    ApiError::not_found("assignment")
}

fn plain() -> String {
    MachinePermission::User.to_string()
}

#[cfg(test)]
mod tests;
