//! Whether there is a provider key that serves the model.

use ace_policies::{KeyId, Provider, TenantId};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::Check;
use crate::App;
use crate::error::ApiError;

/// The key that wins, or one of those that take turns, and what is to be said of it.
pub(super) async fn find(
    app: &App,
    tenant: TenantId,
    provider: Provider,
    model: Option<&str>,
) -> Result<(Option<KeyId>, Check), ApiError> {
    let rows =
        sqlx::query("SELECT * FROM api_key_store WHERE tenant_id = $1 AND provider = $2 ORDER BY priority DESC, id")
            .bind(tenant.0)
            .bind(provider.as_str())
            .fetch_all(&app.db().read)
            .await?;
    let keys = rows.iter().map(Key::read).collect::<Result<Vec<_>, _>>()?;
    let details = json!({ "keys": keys.iter().map(|key| key.told(model)).collect::<Vec<_>>() });
    let winner = keys.iter().find(|key| key.is_active && key.serves(model));
    let check = match (winner, model) {
        (Some(key), _) => Check::yes(
            "key",
            format!("'{}' would be used, or one of the same priority", key.name),
        ),
        (None, _) if keys.is_empty() => {
            Check::no("key", 400, format!("no API key configured for provider '{provider}'"))
        }
        (None, _) if keys.iter().all(|key| !key.is_active) => {
            Check::no("key", 400, format!("every key for {provider} is disabled"))
        }
        (None, Some(model)) => Check::no("key", 400, format!("no key for {provider} is for the model {model}")),
        (None, None) => Check::no("key", 400, format!("no key for {provider} serves this")),
    };
    Ok((winner.map(|key| key.id), check.with(details)))
}

struct Key {
    id: KeyId,
    name: String,
    is_active: bool,
    status: String,
    models: Option<Vec<String>>,
}

impl Key {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let models: Option<String> = row.try_get("models")?;
        Ok(Self {
            id: KeyId(row.try_get("id")?),
            name: row.try_get("key_name")?,
            is_active: row.try_get::<i64, _>("is_active")? != 0,
            status: row.try_get("status")?,
            models: models
                .map(|models| serde_json::from_str(&models))
                .transpose()
                .map_err(ApiError::internal)?,
        })
    }

    /// As the gateway chooses: a request that names no model goes to any key.
    fn serves(&self, model: Option<&str>) -> bool {
        match (&self.models, model) {
            (Some(models), Some(model)) => models.iter().any(|one| one == model),
            _ => true,
        }
    }

    fn told(&self, model: Option<&str>) -> Value {
        json!({
            "id": self.id,
            "key_name": self.name,
            "is_active": self.is_active,
            "status": self.status,
            "serves_model": self.serves(model),
        })
    }
}
