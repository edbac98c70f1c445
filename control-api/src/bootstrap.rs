//! The first start: an admin who can log in, and a key that signs proxy tokens.

use ace_policies::access::Role;
use ace_policies::{Secret, TenantId, hygiene};
use sqlx::Row;

use crate::App;
use crate::audit::{Entry, act};
use crate::error::ApiError;
use crate::users::{self, NewUser};
use crate::write::{Topic, Write};
use crate::{password, signing_keys};

/// The name of the first admin.
const ADMIN: &str = "admin";

/// The first admin's password in the documentation of older systems.
const PUBLISHED_PASSWORD: &str = "admin123";

/// The shortest password that an operator may set for the first admin.
const MIN_OPERATOR_CHARS: usize = 8;

/// How the first admin is made.
pub struct FirstAdmin {
    /// Set by the operator or the demo; `None` generates one, which must be changed at the first login.
    pub password: Option<Secret>,
}

/// What came of it.
pub struct Bootstrap {
    /// The password that was generated now: the only time that anybody sees it.
    pub admin_password: Option<Secret>,
    /// Whether the first admin was made now, and not at an earlier start.
    pub admin_created: bool,
}

/// Makes what is missing of the first admin and the first signing key. Safe to call at every start, by many nodes at
/// once.
///
/// Errors: 400 when the operator's password is a placeholder or too short.
pub async fn bootstrap(app: &App, first: FirstAdmin) -> Result<Bootstrap, ApiError> {
    if is_done(app).await? {
        return Ok(Bootstrap {
            admin_password: None,
            admin_created: false,
        });
    }
    let generated = first.password.is_none();
    let password = match first.password {
        Some(password) => judged(password)?,
        None => password::generate(),
    };
    // Hashing takes long, and the write transaction must not.
    let hash = app.passwords().hash(Secret::new(password.expose().to_owned())).await?;
    let mut write = app.write_as(Entry::system("ace-gateway", act::BOOTSTRAP)).await?;
    lock(&mut write).await?;
    signing_keys::ensure(app, &mut write).await?;
    let admin_created = count_users(&mut write).await? == 0;
    if admin_created {
        insert_admin(app, &mut write, &hash, generated).await?;
    }
    write.commit().await?;
    let admin_password = (admin_created && generated).then_some(password);
    Ok(Bootstrap {
        admin_password,
        admin_created,
    })
}

impl App {
    /// Whether any active admin has the password that is published in documentation.
    pub async fn has_published_admin_password(&self) -> Result<bool, ApiError> {
        let rows = sqlx::query("SELECT password_hash FROM users WHERE role = 'admin' AND is_active = 1")
            .fetch_all(&self.db().read)
            .await?;
        for row in rows {
            let hash: String = row.try_get(0)?;
            if self
                .passwords()
                .matches(Some(hash), Secret::new(PUBLISHED_PASSWORD.to_owned()))
                .await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether there is nothing to do, which is so at every start but the first.
async fn is_done(app: &App) -> Result<bool, ApiError> {
    let row = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM users) AS users,
                (SELECT COUNT(*) FROM signing_keys WHERE retired_at IS NULL) AS signing_keys",
    )
    .fetch_one(&app.db().read)
    .await?;
    Ok(row.try_get::<i64, _>("users")? > 0 && row.try_get::<i64, _>("signing_keys")? > 0)
}

/// One node at a time, on PostgreSQL too, where a transaction would not see another's new admin.
async fn lock(write: &mut Write) -> Result<(), ApiError> {
    sqlx::query("UPDATE wakeups SET version = version + 1 WHERE topic = 'auth'")
        .execute(write.sql())
        .await?;
    Ok(())
}

async fn count_users(write: &mut Write) -> Result<i64, ApiError> {
    Ok(sqlx::query("SELECT COUNT(*) FROM users")
        .fetch_one(write.sql())
        .await?
        .try_get(0)?)
}

async fn insert_admin(app: &App, write: &mut Write, hash: &str, must_change: bool) -> Result<(), ApiError> {
    let new = NewUser {
        username: ADMIN,
        email: None,
        role: Role::Admin,
        tenant: TenantId::DEFAULT,
        password_hash: hash,
        must_change_password: must_change,
    };
    let user = users::insert(write, &new, app.now()).await?;
    write
        .target(format_args!("user:{}", user.id))
        .after(&user)?
        .wake(Topic::Auth);
    Ok(())
}

/// An operator may know what they do; a placeholder is always a mistake.
fn judged(password: Secret) -> Result<Secret, ApiError> {
    let text = password.expose();
    if hygiene::is_placeholder(text) || text.chars().count() < MIN_OPERATOR_CHARS {
        let message = format!("OPENACE_ADMIN_PASSWORD: at least {MIN_OPERATOR_CHARS} characters, and no placeholder");
        return Err(ApiError::bad("weak_password", message));
    }
    if password::judge("OPENACE_ADMIN_PASSWORD", &password, ADMIN).is_err() {
        tracing::warn!("the first admin's password is among those that anybody would try; change it after logging in");
    }
    Ok(password)
}

#[cfg(test)]
mod tests;
