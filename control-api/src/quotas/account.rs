//! Whom a path names: an account, and the row behind it.

use ace_policies::quota::Account;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::Deserialize;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection};
use utoipa::IntoParams;

use crate::error::ApiError;

/// An account as a path names it.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Named {
    /// `users`, `tenants`, `sessions`, `machines` or `api-keys`.
    kind: String,
    /// A number; of sessions and machines a UUID.
    id: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(named)| named)
            .map_err(|_| ApiError::not_found("account"))
    }
}

impl Named {
    /// Errors: 404 for a kind that there is not, 400 for what cannot be an id.
    pub fn account(&self) -> Result<Account, ApiError> {
        let kind = match self.kind.as_str() {
            "users" => "user",
            "tenants" => "tenant",
            "sessions" => "session",
            "machines" => "machine",
            "api-keys" => "api_key",
            _ => {
                return Err(ApiError::not_found(
                    "kind of account; there are users, tenants, sessions, machines and api-keys",
                ));
            }
        };
        parse(kind, &self.id, "id")
    }
}

/// The account of a kind and an id. Errors: 400 naming the field of the id.
pub(super) fn parse(kind: &str, id: &str, field: &str) -> Result<Account, ApiError> {
    let form = if matches!(kind, "session" | "machine") {
        "a UUID"
    } else {
        "a number"
    };
    let problem = || format!("of a {} must be {form}", kind.replace('_', " "));
    Account::parse(kind, id).ok_or_else(|| ApiError::field(field, problem()))
}

/// Looks whether there is such an account. Errors: 404.
pub(super) async fn find(connection: &mut AnyConnection, account: Account) -> Result<(), ApiError> {
    let sql = match account {
        Account::User(_) => "SELECT 1 FROM users WHERE id = $1",
        Account::Tenant(_) => "SELECT 1 FROM tenants WHERE id = $1",
        Account::Session(_) => "SELECT 1 FROM agent_sessions WHERE session_id = $1",
        Account::Machine(_) => "SELECT 1 FROM remote_machines WHERE machine_id = $1",
        Account::ProviderKey(_) => "SELECT 1 FROM api_key_store WHERE id = $1",
    };
    let found = keyed(sql, account).fetch_optional(connection).await?;
    found.map(drop).ok_or_else(|| missing(account))
}

/// Holds the account still, so that changes of its limits come one after another. Errors: 404.
pub(super) async fn lock(connection: &mut AnyConnection, account: Account) -> Result<(), ApiError> {
    let sql = match account {
        Account::User(_) => "UPDATE users SET created_at = created_at WHERE id = $1",
        Account::Tenant(_) => "UPDATE tenants SET created_at = created_at WHERE id = $1",
        Account::Session(_) => "UPDATE agent_sessions SET created_at = created_at WHERE session_id = $1",
        Account::Machine(_) => "UPDATE remote_machines SET created_at = created_at WHERE machine_id = $1",
        Account::ProviderKey(_) => "UPDATE api_key_store SET created_at = created_at WHERE id = $1",
    };
    let locked = keyed(sql, account).execute(connection).await?;
    if locked.rows_affected() == 0 {
        return Err(missing(account));
    }
    Ok(())
}

/// Binds the id as its table holds it.
fn keyed(sql: &'static str, account: Account) -> Query<'static, Any, AnyArguments> {
    let query = sqlx::query(sql);
    match account {
        Account::User(id) => query.bind(id.0),
        Account::Tenant(id) => query.bind(id.0),
        Account::ProviderKey(id) => query.bind(id.0),
        Account::Session(_) | Account::Machine(_) => query.bind(account.id()),
    }
}

fn missing(account: Account) -> ApiError {
    ApiError::not_found(match account {
        Account::User(_) => "user",
        Account::Tenant(_) => "tenant",
        Account::Session(_) => "session",
        Account::Machine(_) => "machine",
        Account::ProviderKey(_) => "provider key",
    })
}
