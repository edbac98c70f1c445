//! PATCH /api/users/{id}.

use ace_policies::UserId;
use ace_policies::access::{Action, Role, Standing};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use utoipa::ToSchema;

use super::create::email;
use super::{One, User};
use crate::App;
use crate::body::{At, Body, SecretText, settable};
use crate::error::ApiError;
use crate::machines;
use crate::password;
use crate::visitor::Visitor;
use crate::write::{Topic, Write};

/// What to change; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Changes {
    /// `null` removes it.
    #[serde(default, deserialize_with = "settable")]
    #[schema(value_type = Option<String>)]
    email: Option<Option<String>>,
    #[schema(value_type = Option<String>)]
    role: Option<Role>,
    /// `false` ends the user's logins, proxy tokens and sessions at once.
    is_active: Option<bool>,
    /// A new password. It ends the user's logins, personal API tokens and proxy tokens.
    password: Option<SecretText>,
    /// Whether the password must be changed at the next login; with a new password, `true` when left out.
    must_change_password: Option<bool>,
}

/// What the audit log keeps of the changes.
#[derive(Serialize)]
struct Recorded<'a> {
    #[serde(flatten)]
    user: &'a User,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    password_reset: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_sessions: Option<usize>,
}

/// Why the sessions of a user end who is disabled.
const DISABLED: &str = "the session's owner was disabled";

/// Changes a user: role, state, password.
#[utoipa::path(patch, path = "/api/users/{id}", tag = "users", params(("id" = i64, Path)), request_body = Changes,
    responses((status = 200, body = One), (status = 404, body = crate::error::ErrorBody),
              (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn update(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<i64>,
    Body(changes): Body<Changes>,
) -> Result<Json<One>, ApiError> {
    let action = if changes.password.is_some() {
        Action::UsersResetPassword
    } else {
        Action::UsersUpdate
    };
    let permit = visitor.permit(&app, action, &Standing::default()).await?;
    let id = UserId(id);
    let before = super::by_id(&app, id).await?;
    email(changes.email.as_ref().and_then(|email| email.as_deref()))?;
    let new_hash = match changes.password {
        Some(SecretText(password)) => {
            password::judge("password", &password, &before.username)?;
            Some(app.passwords().hash(password).await?)
        }
        None => None,
    };
    let password_reset = new_hash.is_some();
    let mut write = app.write(&permit, &visitor.edge).await?;
    // Machines and sessions are locked first.
    let stopped_sessions = match changes.is_active {
        Some(false) => machines::stop_sessions_of(write.record(), id, DISABLED).await?,
        _ => 0,
    };
    let before = lock(&mut write, id).await?;
    let now = app.now();
    if let Some(hash) = new_hash {
        let must_change = changes.must_change_password.unwrap_or(true);
        super::set_password(&mut write, id, &hash, must_change, now).await?;
        super::revoke_logins(&mut write, id, None, now).await?;
        revoke_personal_tokens(&mut write, id, now).await?;
    }
    let mut after = before.clone();
    after.email = changes.email.unwrap_or(after.email);
    after.role = changes.role.map_or(after.role, |role| role.to_string());
    after.is_active = changes.is_active.unwrap_or(after.is_active);
    after.must_change_password = changes
        .must_change_password
        .unwrap_or(after.must_change_password || password_reset);
    store(&mut write, &before, &after, now).await?;
    refuse_no_admin(&mut write).await?;
    write
        .target(format_args!("user:{id}"))
        .before(&before)?
        .after(&Recorded {
            user: &after,
            password_reset,
            stopped_sessions: (stopped_sessions > 0).then_some(stopped_sessions),
        })?
        .wake(Topic::Auth);
    write.commit().await?;
    Ok(Json(One {
        success: true,
        user: after,
    }))
}

/// Holds the user and all admins still, then reads: of two admins who demote each other at once, one must lose.
async fn lock(write: &mut Write, id: UserId) -> Result<User, ApiError> {
    let lock = sqlx::query("UPDATE users SET updated_at = updated_at WHERE role = 'admin' OR id = $1").bind(id.0);
    lock.execute(write.sql()).await?;
    let row = sqlx::query("SELECT * FROM users WHERE id = $1")
        .bind(id.0)
        .fetch_optional(write.sql())
        .await?;
    Ok(User::read(&row.ok_or_else(|| ApiError::not_found("user"))?)?)
}

async fn store(write: &mut Write, before: &User, after: &User, now: i64) -> Result<(), ApiError> {
    // A disabled user's proxy tokens end, and stay ended when the user is enabled again.
    let disabled = before.is_active && !after.is_active;
    sqlx::query(
        "UPDATE users SET email = $1, role = $2, is_active = $3, must_change_password = $4, updated_at = $5,
                          token_generation = token_generation + $6 WHERE id = $7",
    )
    .bind(&after.email)
    .bind(&after.role)
    .bind(i64::from(after.is_active))
    .bind(i64::from(after.must_change_password))
    .bind(now)
    .bind(i64::from(disabled))
    .bind(after.id)
    .execute(write.sql())
    .await?;
    if disabled {
        super::revoke_logins(write, UserId(after.id), None, now).await?;
    }
    Ok(())
}

async fn revoke_personal_tokens(write: &mut Write, id: UserId, now: i64) -> Result<(), ApiError> {
    sqlx::query("UPDATE personal_tokens SET revoked_at = $1 WHERE user_id = $2 AND revoked_at IS NULL")
        .bind(now)
        .bind(id.0)
        .execute(write.sql())
        .await?;
    Ok(())
}

async fn refuse_no_admin(write: &mut Write) -> Result<(), ApiError> {
    let count = sqlx::query("SELECT COUNT(*) FROM users WHERE role = 'admin' AND is_active = 1");
    match count.fetch_one(write.sql()).await?.try_get::<i64, _>(0)? {
        0 => Err(ApiError::conflict(
            "last_admin",
            "this is the last active admin; make another one first",
        )),
        _ => Ok(()),
    }
}
