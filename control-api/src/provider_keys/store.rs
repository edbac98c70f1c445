//! POST /api/remote/api-keys.

use ace_policies::access::{Action, Standing};
use ace_policies::ssrf::check_base_url;
use ace_policies::vault::api_key_aad;
use ace_policies::{KeyId, Provider, Secret, TenantId, hygiene, secret};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Key, One};
use crate::App;
use crate::audit::{Entry, act};
use crate::body::{Body, SecretText};
use crate::chance;
use crate::error::ApiError;
use crate::users::refuse_unknown_tenant;
use crate::visitor::Visitor;
use crate::write::{Topic, Write};

/// A provider key to store.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// `openai`, `anthropic` or `google`.
    provider: String,
    /// 1 to 100 characters; a key of the same provider and name is replaced.
    key_name: String,
    api_key: SecretText,
    /// Left out, the provider's own.
    base_url: Option<String>,
    models: Option<Vec<String>>,
    #[serde(default)]
    priority: i64,
    #[serde(default = "default_weight")]
    weight: i64,
    max_parallel: Option<i64>,
    /// Left out, the admin's own.
    tenant_id: Option<i64>,
}

/// A provider key as a program stores it.
pub struct NewProviderKey {
    pub tenant: TenantId,
    pub provider: Provider,
    pub key_name: String,
    pub api_key: Secret,
    /// `None` is the provider's own.
    pub base_url: Option<String>,
    pub models: Option<Vec<String>>,
    pub priority: i64,
    pub weight: i64,
    pub max_parallel: Option<i64>,
}

impl NewProviderKey {
    /// A key with nothing special about it.
    pub fn new(provider: Provider, key_name: &str, api_key: Secret, base_url: Option<String>) -> Self {
        Self {
            tenant: TenantId::DEFAULT,
            provider,
            key_name: key_name.to_owned(),
            api_key,
            base_url,
            models: None,
            priority: 0,
            weight: default_weight(),
            max_parallel: None,
        }
    }
}

impl App {
    /// Stores a provider key for the program itself, as the demo does.
    pub async fn store_provider_key(&self, new: NewProviderKey) -> Result<KeyId, ApiError> {
        let rules = judge(self, &new)?;
        let mut write = self.write_as(Entry::system("ace-gateway", act::BOOTSTRAP)).await?;
        let key = upsert(self, &mut write, &new, &rules, None).await?;
        write.commit().await?;
        Ok(KeyId(key.id))
    }
}

/// Stores a provider key, or replaces the one of the same tenant, provider and name.
#[utoipa::path(post, path = "/api/remote/api-keys", tag = "api-keys", request_body = Wish,
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody)))]
pub(super) async fn create(
    State(app): State<App>,
    visitor: Visitor,
    Body(wish): Body<Wish>,
) -> Result<Json<One>, ApiError> {
    let permit = visitor
        .permit(&app, Action::ApiKeysCreate, &Standing::default())
        .await?;
    let new = NewProviderKey {
        tenant: wish.tenant_id.map_or(visitor.actor.tenant, TenantId),
        provider: wish
            .provider
            .parse()
            .map_err(|error| ApiError::bad("unknown_provider", format!("provider: {error}")))?,
        key_name: wish.key_name,
        api_key: wish.api_key.0,
        base_url: wish.base_url.filter(|url| !url.trim().is_empty()),
        models: wish.models,
        priority: wish.priority,
        weight: wish.weight,
        max_parallel: wish.max_parallel,
    };
    let rules = judge(&app, &new)?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let key = upsert(&app, &mut write, &new, &rules, Some(visitor.actor.user.0)).await?;
    write.commit().await?;
    Ok(Json(One { success: true, key }))
}

/// What came out of judging: the normal form of the base URL, and the models as they are stored.
struct Rules {
    base_url: String,
    models: Option<String>,
}

fn judge(app: &App, new: &NewProviderKey) -> Result<Rules, ApiError> {
    if !(1..=100).contains(&new.key_name.chars().count()) || new.key_name.contains(char::is_control) {
        return Err(ApiError::field("key_name", "1 to 100 characters are needed"));
    }
    judge_value(&new.api_key)?;
    judge_limits(new.priority, new.weight, new.max_parallel)?;
    let base_url = new.base_url.as_deref().unwrap_or(new.provider.default_base_url());
    Ok(Rules {
        base_url: base_url_of(app, base_url)?,
        models: models_of(new.models.as_deref())?,
    })
}

/// Refuses a value that cannot be sent as a header, or was never meant to be one.
pub(super) fn judge_value(api_key: &Secret) -> Result<(), ApiError> {
    let text = api_key.expose();
    if hygiene::is_placeholder(text) {
        return Err(ApiError::field("api_key", "this is a placeholder, not a key"));
    }
    if text.len() > 8192 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ApiError::field(
            "api_key",
            "up to 8192 visible ASCII characters without spaces are allowed",
        ));
    }
    Ok(())
}

pub(super) fn judge_limits(priority: i64, weight: i64, max_parallel: Option<i64>) -> Result<(), ApiError> {
    if !(-1000..=1000).contains(&priority) {
        return Err(ApiError::field("priority", "must be between -1000 and 1000"));
    }
    if !(0..=10_000).contains(&weight) {
        return Err(ApiError::field("weight", "must be between 0 and 10000"));
    }
    if max_parallel.is_some_and(|limit| !(1..=100_000).contains(&limit)) {
        return Err(ApiError::field("max_parallel", "must be between 1 and 100000, or null"));
    }
    Ok(())
}

/// The base URL in its normal form. Errors: 400 where the gateway would not send a key to.
pub(super) fn base_url_of(app: &App, url: &str) -> Result<String, ApiError> {
    let url = check_base_url(url, &app.config().egress);
    url.map(|url| url.as_str().trim_end_matches('/').to_owned())
        .map_err(|error| ApiError::bad(error.code(), format!("base_url: {error}")))
}

/// The list of models as it is stored.
pub(super) fn models_of(models: Option<&[String]>) -> Result<Option<String>, ApiError> {
    let Some(models) = models else { return Ok(None) };
    let good = |model: &String| (1..=200).contains(&model.len()) && !model.contains(char::is_control);
    if models.is_empty() || models.len() > 1000 || !models.iter().all(good) {
        return Err(ApiError::field("models", "name 1 to 1000 models, or null for all"));
    }
    serde_json::to_string(models).map(Some).map_err(ApiError::internal)
}

async fn upsert(
    app: &App,
    write: &mut Write,
    new: &NewProviderKey,
    rules: &Rules,
    by: Option<i64>,
) -> Result<Key, ApiError> {
    refuse_unknown_tenant(write, new.tenant).await?;
    let aad = api_key_aad(new.tenant, new.provider, &new.key_name);
    let sealed = app.vault().seal(&aad, new.api_key.expose().as_bytes(), chance::bytes());
    let row = sqlx::query(
        "INSERT INTO api_key_store (tenant_id, provider, key_name, key_hint, key_id, sealed, base_url, models, priority,
                                    weight, max_parallel, created_by, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)
         ON CONFLICT (tenant_id, provider, key_name) DO UPDATE SET
             key_hint = excluded.key_hint, key_id = excluded.key_id, sealed = excluded.sealed,
             base_url = excluded.base_url, models = excluded.models, priority = excluded.priority,
             weight = excluded.weight, max_parallel = excluded.max_parallel, is_active = 1, status = 'ok',
             updated_at = excluded.updated_at
         RETURNING *",
    )
    .bind(new.tenant.0)
    .bind(new.provider.as_str())
    .bind(&new.key_name)
    .bind(secret::hint(new.api_key.expose()))
    .bind(&sealed.key_id)
    .bind(&sealed.bytes)
    .bind(&rules.base_url)
    .bind(&rules.models)
    .bind(new.priority)
    .bind(new.weight)
    .bind(new.max_parallel)
    .bind(by)
    .bind(app.now())
    .fetch_one(write.sql())
    .await?;
    let key = Key::read(&row)?;
    write
        .target(format_args!("api_key:{}", key.id))
        .after(&key)?
        .wake(Topic::Keys);
    Ok(key)
}

const fn default_weight() -> i64 {
    100
}
