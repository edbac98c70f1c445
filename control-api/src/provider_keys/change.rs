//! PATCH and DELETE /api/remote/api-keys/{id}.

use ace_policies::KeyId;
use ace_policies::access::{Action, Standing};
use ace_policies::quota::Account;
use ace_policies::secret;
use ace_policies::vault::Sealed;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::store::{base_url_of, judge_limits, judge_value, models_of};
use super::{Key, One, lock};
use crate::App;
use crate::body::{At, Body, SecretText, settable};
use crate::chance;
use crate::error::ApiError;
use crate::login::Done;
use crate::quotas;
use crate::visitor::Visitor;
use crate::when::When;
use crate::write::{Topic, Write};

/// What to change; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Changes {
    is_active: Option<bool>,
    /// A new value: the key is rotated.
    api_key: Option<SecretText>,
    base_url: Option<String>,
    /// `null` is all models.
    #[serde(default, deserialize_with = "settable")]
    #[schema(value_type = Option<Vec<String>>)]
    models: Option<Option<Vec<String>>>,
    priority: Option<i64>,
    weight: Option<i64>,
    /// `null` is no limit.
    #[serde(default, deserialize_with = "settable")]
    #[schema(value_type = Option<i64>)]
    max_parallel: Option<Option<i64>>,
}

/// What the audit log keeps of the changes.
#[derive(Serialize)]
struct Recorded<'a> {
    #[serde(flatten)]
    key: &'a Key,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rotated: bool,
}

/// Enables, disables, rotates or reprioritises a provider key.
#[utoipa::path(patch, path = "/api/remote/api-keys/{id}", tag = "api-keys", params(("id" = i64, Path)),
    request_body = Changes, responses((status = 200, body = One), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn update(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<i64>,
    Body(changes): Body<Changes>,
) -> Result<Json<One>, ApiError> {
    let permit = visitor
        .permit(&app, Action::ApiKeysUpdate, &Standing::default())
        .await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let (before, sealed) = lock(write.sql(), id).await?;
    let (after, sealed, rotated) = apply(&app, &before, sealed, changes)?;
    store(&mut write, &after, &sealed).await?;
    write
        .target(format_args!("api_key:{id}"))
        .before(&before)?
        .after(&Recorded { key: &after, rotated })?
        .wake(Topic::Keys);
    write.commit().await?;
    Ok(Json(One {
        success: true,
        key: after,
    }))
}

/// Deletes a provider key. Requests under way end with it in hand; the next finds it gone.
#[utoipa::path(delete, path = "/api/remote/api-keys/{id}", tag = "api-keys", params(("id" = i64, Path)),
    responses((status = 200, body = Done), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn delete(State(app): State<App>, visitor: Visitor, At(id): At<i64>) -> Result<Json<Done>, ApiError> {
    let permit = visitor
        .permit(&app, Action::ApiKeysDelete, &Standing::default())
        .await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let (before, _) = lock(write.sql(), id).await?;
    sqlx::query("DELETE FROM api_key_store WHERE id = $1")
        .bind(id)
        .execute(write.sql())
        .await?;
    quotas::forget(&mut write, Account::ProviderKey(KeyId(id))).await?;
    write
        .target(format_args!("api_key:{id}"))
        .before(&before)?
        .wake(Topic::Keys);
    write.commit().await?;
    Ok(Done::YES)
}

/// The key with its changes, and whether its value is a new one.
fn apply(app: &App, before: &Key, sealed: Sealed, changes: Changes) -> Result<(Key, Sealed, bool), ApiError> {
    let mut after = before.clone();
    after.is_active = changes.is_active.unwrap_or(after.is_active);
    after.priority = changes.priority.unwrap_or(after.priority);
    after.weight = changes.weight.unwrap_or(after.weight);
    after.max_parallel = changes.max_parallel.unwrap_or(after.max_parallel);
    judge_limits(after.priority, after.weight, after.max_parallel)?;
    if let Some(base_url) = changes.base_url {
        after.base_url = base_url_of(app, &base_url)?;
    }
    if let Some(models) = changes.models {
        models_of(models.as_deref())?;
        after.models = models;
    }
    after.updated_at = When(app.now());
    let Some(SecretText(value)) = changes.api_key else {
        return Ok((after, sealed, false));
    };
    judge_value(&value)?;
    after.key_hint = secret::hint(value.expose());
    "ok".clone_into(&mut after.status);
    let sealed = app
        .vault()
        .seal(&after.aad()?, value.expose().as_bytes(), chance::bytes());
    Ok((after, sealed, true))
}

async fn store(write: &mut Write, key: &Key, sealed: &Sealed) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE api_key_store SET key_hint = $1, key_id = $2, sealed = $3, base_url = $4, models = $5, priority = $6,
                                  weight = $7, max_parallel = $8, is_active = $9, status = $10, updated_at = $11
         WHERE id = $12",
    )
    .bind(&key.key_hint)
    .bind(&sealed.key_id)
    .bind(&sealed.bytes)
    .bind(&key.base_url)
    .bind(models_of(key.models.as_deref())?)
    .bind(key.priority)
    .bind(key.weight)
    .bind(key.max_parallel)
    .bind(i64::from(key.is_active))
    .bind(&key.status)
    .bind(key.updated_at.0)
    .bind(key.id)
    .execute(write.sql())
    .await?;
    Ok(())
}
