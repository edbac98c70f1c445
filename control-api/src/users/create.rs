//! POST /api/users.

use ace_policies::access::{Action, Role, Standing};
use ace_policies::{Secret, TenantId};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use utoipa::ToSchema;

use super::User;
use crate::App;
use crate::body::{Body, SecretText};
use crate::error::{ApiError, OnConstraint};
use crate::password;
use crate::visitor::Visitor;
use crate::write::{Topic, Write};

/// The user to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// 1 to 64 of a-z, 0-9, `.`, `_`, `-`, `@`; upper case is taken as lower case.
    username: String,
    /// Left out, a password is made and shown once; the user must change it.
    password: Option<SecretText>,
    email: Option<String>,
    /// `user` (the default) or `admin`.
    #[serde(default = "user_role")]
    #[schema(value_type = String)]
    role: Role,
    /// Left out, the creator's own.
    tenant_id: Option<i64>,
    /// Whether the password must be changed at the first login; left out, only when it was made here.
    must_change_password: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Created {
    success: bool,
    user: User,
    /// The password that was made, shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    initial_password: Option<String>,
}

/// What is written into the table.
pub(crate) struct NewUser<'a> {
    pub username: &'a str,
    pub email: Option<&'a str>,
    pub role: Role,
    pub tenant: TenantId,
    pub password_hash: &'a str,
    pub must_change_password: bool,
}

/// Makes a user.
#[utoipa::path(post, path = "/api/users", tag = "users", request_body = Wish,
    responses((status = 200, body = Created), (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn create(
    State(app): State<App>,
    visitor: Visitor,
    Body(wish): Body<Wish>,
) -> Result<Json<Created>, ApiError> {
    let permit = visitor.permit(&app, Action::UsersCreate, &Standing::default()).await?;
    let username = username(&wish.username)?;
    let email = email(wish.email.as_deref())?;
    let made = wish.password.is_none();
    let password = wish
        .password
        .map_or_else(password::generate, |SecretText(password)| password);
    password::judge("password", &password, &username)?;
    let initial_password = made.then(|| password.expose().to_owned());
    let password_hash = app.passwords().hash(Secret::new(password.expose().to_owned())).await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let new = NewUser {
        username: &username,
        email,
        role: wish.role,
        tenant: wish.tenant_id.map_or(visitor.actor.tenant, TenantId),
        password_hash: &password_hash,
        must_change_password: wish.must_change_password.unwrap_or(made),
    };
    refuse_unknown_tenant(&mut write, new.tenant).await?;
    let user = insert(&mut write, &new, app.now()).await?;
    write
        .target(format_args!("user:{}", user.id))
        .after(&user)?
        .wake(Topic::Auth);
    write.commit().await?;
    Ok(Json(Created {
        success: true,
        user,
        initial_password,
    }))
}

pub(crate) async fn insert(write: &mut Write, new: &NewUser<'_>, now: i64) -> Result<User, ApiError> {
    let row = sqlx::query(
        "INSERT INTO users (tenant_id, username, email, password_hash, role, must_change_password, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7) RETURNING *",
    )
    .bind(new.tenant.0)
    .bind(new.username)
    .bind(new.email)
    .bind(new.password_hash)
    .bind(new.role.as_str())
    .bind(i64::from(new.must_change_password))
    .bind(now)
    .fetch_one(write.sql())
    .await
    .on_duplicate(|| ApiError::conflict("username_taken", "there is a user of this name already"))?;
    Ok(User::read(&row)?)
}

/// A name as it is stored. ASCII, so that two names that look alike are one.
fn username(text: &str) -> Result<String, ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(allowed) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(ApiError::field(
        "username",
        "1 to 64 letters a-z, digits, and . _ - @ are allowed",
    ))
}

/// Only so far as to catch a slip: whether an address works is seen when it is used.
pub(super) fn email(text: Option<&str>) -> Result<Option<&str>, ApiError> {
    match text {
        Some(text) if text.len() > 254 || !text.contains('@') || text.contains(char::is_whitespace) => {
            Err(ApiError::field("email", "this is no e-mail address"))
        }
        text => Ok(text),
    }
}

pub(crate) async fn refuse_unknown_tenant(write: &mut Write, tenant: TenantId) -> Result<(), ApiError> {
    let row = sqlx::query("SELECT COUNT(*) FROM tenants WHERE id = $1")
        .bind(tenant.0)
        .fetch_one(write.sql())
        .await?;
    match row.try_get::<i64, _>(0)? {
        0 => Err(ApiError::field("tenant_id", "there is no such tenant")),
        _ => Ok(()),
    }
}

const fn user_role() -> Role {
    Role::User
}
