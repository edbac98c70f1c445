//! Provider keys: the real ones. Sealed in the database, opened by the gateway, never shown again.

mod change;
mod probe;
mod store;

use ace_policies::access::{Action, Standing};
use ace_policies::provider::Provider;
use ace_policies::vault::{Sealed, api_key_aad};
use ace_policies::{Secret, TenantId};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::error::ApiError;
use crate::visitor::Visitor;
use crate::when::When;

pub use store::NewProviderKey;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, store::create))
        .routes(routes!(change::update, change::delete))
        .routes(routes!(probe::test))
}

/// A provider key as people see it: everything but its value.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct Key {
    id: i64,
    tenant_id: i64,
    provider: String,
    key_name: String,
    /// Such as `sk-…abcd`.
    key_hint: String,
    base_url: String,
    /// The models it is for; `null` is all.
    models: Option<Vec<String>>,
    /// Of the keys for a model, those with the highest priority are used.
    priority: i64,
    /// Its share among keys of the same priority.
    weight: i64,
    /// How many requests may use it at once; `null` is no limit.
    max_parallel: Option<i64>,
    is_active: bool,
    /// `ok`, or what the gateway found wrong with it.
    status: String,
    created_at: When,
    updated_at: When,
    last_used_at: Option<When>,
}

#[derive(Serialize, ToSchema)]
struct List {
    success: bool,
    keys: Vec<Key>,
}

/// One key.
#[derive(Serialize, ToSchema)]
struct One {
    success: bool,
    key: Key,
}

/// Lists the provider keys. Their values are in no answer.
#[utoipa::path(get, path = "/api/remote/api-keys", tag = "api-keys", responses((status = 200, body = List)))]
async fn list(State(app): State<App>, visitor: Visitor) -> Result<Json<List>, ApiError> {
    visitor.permit(&app, Action::ApiKeysList, &Standing::default()).await?;
    let rows = sqlx::query("SELECT * FROM api_key_store ORDER BY tenant_id, provider, key_name")
        .fetch_all(&app.db().read)
        .await?;
    let keys = rows.iter().map(Key::read).collect::<Result<_, _>>()?;
    Ok(Json(List { success: true, keys }))
}

impl Key {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let models: Option<String> = row.try_get("models")?;
        Ok(Self {
            id: row.try_get("id")?,
            tenant_id: row.try_get("tenant_id")?,
            provider: row.try_get("provider")?,
            key_name: row.try_get("key_name")?,
            key_hint: row.try_get("key_hint")?,
            base_url: row.try_get("base_url")?,
            models: models
                .map(|models| serde_json::from_str(&models))
                .transpose()
                .map_err(ApiError::internal)?,
            priority: row.try_get("priority")?,
            weight: row.try_get("weight")?,
            max_parallel: row.try_get("max_parallel")?,
            is_active: row.try_get::<i64, _>("is_active")? != 0,
            status: row.try_get("status")?,
            created_at: When(row.try_get("created_at")?),
            updated_at: When(row.try_get("updated_at")?),
            last_used_at: row.try_get::<Option<i64>, _>("last_used_at")?.map(When),
        })
    }

    fn provider(&self) -> Result<Provider, ApiError> {
        self.provider.parse().map_err(ApiError::internal)
    }

    /// The place that the sealed value is bound to.
    fn aad(&self) -> Result<String, ApiError> {
        Ok(api_key_aad(TenantId(self.tenant_id), self.provider()?, &self.key_name))
    }
}

/// Reads a key for a change, and keeps others from changing it meanwhile.
async fn lock(connection: &mut AnyConnection, id: i64) -> Result<(Key, Sealed), ApiError> {
    let lock = sqlx::query("UPDATE api_key_store SET updated_at = updated_at WHERE id = $1").bind(id);
    lock.execute(&mut *connection).await?;
    let row = sqlx::query("SELECT * FROM api_key_store WHERE id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    let row = row.ok_or_else(|| ApiError::not_found("provider key"))?;
    let sealed = Sealed {
        key_id: row.try_get("key_id")?,
        bytes: row.try_get("sealed")?,
    };
    Ok((Key::read(&row)?, sealed))
}

/// Opens a key's value.
fn open(app: &App, key: &Key, sealed: &Sealed) -> Result<Secret, ApiError> {
    app.vault().open(&key.aad()?, sealed).map_err(ApiError::internal)
}

/// What a gateway would send.
#[cfg(test)]
pub(crate) async fn opened(app: &App, id: i64) -> Secret {
    let mut connection = app.db().write.acquire().await.unwrap();
    let (key, sealed) = lock(&mut connection, id).await.unwrap();
    open(app, &key, &sealed).unwrap()
}

#[cfg(test)]
mod tests;
