//! Users: the people who may log in.

mod create;
mod update;

use ace_policies::UserId;
use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::{At, Params};
use crate::error::ApiError;
use crate::page::{self, Cursor, Filter};
use crate::visitor::Visitor;
use crate::when::When;
use crate::write::Write;

pub(crate) use create::{NewUser, insert, refuse_unknown_tenant};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create::create))
        .routes(routes!(read, update::update))
}

/// A user, without anything secret.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct User {
    pub id: i64,
    pub username: String,
    pub email: Option<String>,
    /// `admin` or `user`.
    pub role: String,
    pub is_active: bool,
    pub must_change_password: bool,
    pub tenant_id: i64,
    pub created_at: When,
    pub last_login_at: Option<When>,
}

impl User {
    pub(crate) fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            username: row.try_get("username")?,
            email: row.try_get("email")?,
            role: row.try_get("role")?,
            is_active: row.try_get::<i64, _>("is_active")? != 0,
            must_change_password: row.try_get::<i64, _>("must_change_password")? != 0,
            tenant_id: row.try_get("tenant_id")?,
            created_at: When(row.try_get("created_at")?),
            last_login_at: row.try_get::<Option<i64>, _>("last_login_at")?.map(When),
        })
    }
}

/// A user and the hash of the password.
pub(crate) struct Found {
    pub user: User,
    pub password_hash: String,
}

/// Which users are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Query {
    tenant_id: Option<i64>,
    /// `admin` or `user`.
    role: Option<String>,
    /// The `next` of the page before.
    after: Option<Cursor>,
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
struct Page {
    success: bool,
    users: Vec<User>,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}

/// One user.
#[derive(Serialize, ToSchema)]
struct One {
    success: bool,
    user: User,
}

/// Lists users, the newest first.
#[utoipa::path(get, path = "/api/users", tag = "users", params(Query), responses((status = 200, body = Page)))]
async fn list(State(app): State<App>, visitor: Visitor, Params(query): Params<Query>) -> Result<Json<Page>, ApiError> {
    visitor.permit(&app, Action::UsersList, &Standing::default()).await?;
    let mut filter = Filter::default();
    filter
        .and_if("tenant_id =", query.tenant_id)
        .and_if("role =", query.role.as_deref())
        .below("(created_at, id)", query.after);
    let limit = page::limit(query.limit)?;
    let found = filter
        .page(&app.db().read, "SELECT * FROM users", "created_at DESC, id DESC", limit)
        .await?;
    let users = found.rows.iter().map(User::read).collect::<Result<Vec<_>, _>>()?;
    let next = users.last().filter(|_| found.more).map(|last| Cursor {
        key: last.created_at.0,
        id: last.id,
    });
    Ok(Json(Page {
        success: true,
        users,
        next,
    }))
}

/// Shows one user.
#[utoipa::path(get, path = "/api/users/{id}", tag = "users", params(("id" = i64, Path)),
    responses((status = 200, body = One), (status = 404, body = crate::error::ErrorBody)))]
async fn read(State(app): State<App>, visitor: Visitor, At(id): At<i64>) -> Result<Json<One>, ApiError> {
    visitor.permit(&app, Action::UsersRead, &Standing::default()).await?;
    Ok(Json(One {
        success: true,
        user: by_id(&app, UserId(id)).await?,
    }))
}

/// Finds a user by name, in whatever case it is written.
pub(crate) async fn by_name(app: &App, username: &str) -> Result<Option<Found>, ApiError> {
    let row = sqlx::query("SELECT * FROM users WHERE username = $1").bind(username.to_ascii_lowercase());
    let Some(row) = row.fetch_optional(&app.db().read).await? else {
        return Ok(None);
    };
    Ok(Some(Found {
        user: User::read(&row)?,
        password_hash: row.try_get("password_hash")?,
    }))
}

/// Finds a user. Errors: 404.
pub(crate) async fn by_id(app: &App, id: UserId) -> Result<User, ApiError> {
    let row = sqlx::query("SELECT * FROM users WHERE id = $1")
        .bind(id.0)
        .fetch_optional(&app.db().read)
        .await?;
    Ok(User::read(&row.ok_or_else(|| ApiError::not_found("user"))?)?)
}

pub(crate) async fn password_hash(app: &App, id: UserId) -> Result<String, ApiError> {
    let hash = sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1").bind(id.0);
    Ok(hash.fetch_one(&app.db().read).await?)
}

/// Sets a password and ends all proxy tokens of the user: whoever knew the old one may hold some.
pub(crate) async fn set_password(
    write: &mut Write,
    id: UserId,
    hash: &str,
    must_change: bool,
    now: i64,
) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE users SET password_hash = $1, must_change_password = $2, updated_at = $3,
                          token_generation = token_generation + 1 WHERE id = $4",
    )
    .bind(hash)
    .bind(i64::from(must_change))
    .bind(now)
    .bind(id.0)
    .execute(write.sql())
    .await?;
    Ok(())
}

/// Ends the user's logins but the one to keep.
pub(crate) async fn revoke_logins(write: &mut Write, id: UserId, keep: Option<i64>, now: i64) -> Result<(), ApiError> {
    sqlx::query("UPDATE logins SET revoked_at = $1 WHERE user_id = $2 AND revoked_at IS NULL AND id <> $3")
        .bind(now)
        .bind(id.0)
        .bind(keep.unwrap_or(0))
        .execute(write.sql())
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
