//! Seals everything anew after a change of master key, while gateways go on working.

use ace_policies::vault::{Sealed, api_key_aad, signing_key_aad, vapid_key_aad, webhook_aad};
use ace_policies::{Provider, TenantId};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::App;
use crate::audit::{Entry, act};
use crate::chance;
use crate::error::ApiError;
use crate::write::{Topic, Write};

/// Rows of one transaction: others wait meanwhile.
const BATCH: i64 = 100;

/// Seals with the current master key what an older one sealed, and returns how many secrets that were.
///
/// Can be stopped at any time and run again; each secret can be opened before, during and after.
pub async fn rewrap(app: &App) -> Result<u64, ApiError> {
    let mut total = 0;
    for table in [
        Table::ProviderKeys,
        Table::SigningKeys,
        Table::Webhooks,
        Table::VapidKeys,
    ] {
        loop {
            let count = rewrap_batch(app, table).await?;
            total += count;
            if count == 0 {
                break;
            }
        }
    }
    Ok(total)
}

#[derive(Clone, Copy)]
enum Table {
    ProviderKeys,
    SigningKeys,
    Webhooks,
    VapidKeys,
}

impl Table {
    const fn name(self) -> &'static str {
        match self {
            Self::ProviderKeys => "api_key_store",
            Self::SigningKeys => "signing_keys",
            Self::Webhooks => "webhooks",
            Self::VapidKeys => "vapid_keys",
        }
    }

    /// Holds a batch of rows still: nobody may rotate a key while its old value is sealed anew.
    const fn lock(self) -> &'static str {
        match self {
            Self::ProviderKeys => {
                "UPDATE api_key_store SET key_id = key_id
                 WHERE id IN (SELECT id FROM api_key_store WHERE key_id <> $1 ORDER BY id LIMIT $2) RETURNING *"
            }
            Self::SigningKeys => {
                "UPDATE signing_keys SET key_id = key_id
                 WHERE kid IN (SELECT kid FROM signing_keys WHERE key_id <> $1 ORDER BY kid LIMIT $2) RETURNING *"
            }
            Self::Webhooks => {
                "UPDATE webhooks SET key_id = key_id
                 WHERE id IN (SELECT id FROM webhooks WHERE key_id <> $1 ORDER BY id LIMIT $2) RETURNING *"
            }
            Self::VapidKeys => {
                "UPDATE vapid_keys SET key_id = key_id
                 WHERE id IN (SELECT id FROM vapid_keys WHERE key_id <> $1 ORDER BY id LIMIT $2) RETURNING *"
            }
        }
    }

    async fn store(self, write: &mut Write, row: &AnyRow, sealed: &Sealed) -> Result<(), ApiError> {
        let query = match self {
            Self::ProviderKeys => sqlx::query("UPDATE api_key_store SET key_id = $1, sealed = $2 WHERE id = $3")
                .bind(&sealed.key_id)
                .bind(&sealed.bytes)
                .bind(row.try_get::<i64, _>("id")?),
            Self::SigningKeys => sqlx::query("UPDATE signing_keys SET key_id = $1, sealed = $2 WHERE kid = $3")
                .bind(&sealed.key_id)
                .bind(&sealed.bytes)
                .bind(row.try_get::<String, _>("kid")?),
            Self::Webhooks => sqlx::query("UPDATE webhooks SET key_id = $1, sealed = $2 WHERE id = $3")
                .bind(&sealed.key_id)
                .bind(&sealed.bytes)
                .bind(row.try_get::<i64, _>("id")?),
            Self::VapidKeys => sqlx::query("UPDATE vapid_keys SET key_id = $1, sealed = $2 WHERE id = $3")
                .bind(&sealed.key_id)
                .bind(&sealed.bytes)
                .bind(row.try_get::<i64, _>("id")?),
        };
        query.execute(write.sql()).await?;
        Ok(())
    }

    fn aad(self, row: &AnyRow) -> Result<String, ApiError> {
        match self {
            Self::ProviderKeys => {
                let provider: Provider = row
                    .try_get::<String, _>("provider")?
                    .parse()
                    .map_err(ApiError::internal)?;
                let name: String = row.try_get("key_name")?;
                Ok(api_key_aad(TenantId(row.try_get("tenant_id")?), provider, &name))
            }
            Self::SigningKeys => Ok(signing_key_aad(&row.try_get::<String, _>("kid")?)),
            Self::Webhooks => Ok(webhook_aad(row.try_get("id")?)),
            Self::VapidKeys => Ok(vapid_key_aad()),
        }
    }
}

async fn rewrap_batch(app: &App, table: Table) -> Result<u64, ApiError> {
    let mut write = app.write_as(Entry::system("ace-control", act::REWRAP)).await?;
    let rows = sqlx::query(table.lock())
        .bind(app.vault().key_id())
        .bind(BATCH)
        .fetch_all(write.sql())
        .await?;
    if rows.is_empty() {
        return Ok(0);
    }
    for row in &rows {
        let aad = table.aad(row)?;
        let old = Sealed {
            key_id: row.try_get("key_id")?,
            bytes: row.try_get("sealed")?,
        };
        let secret = app.vault().open(&aad, &old).map_err(ApiError::internal)?;
        let new = app.vault().seal(&aad, secret.expose().as_bytes(), chance::bytes());
        table.store(&mut write, row, &new).await?;
    }
    let count = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    write
        .target(table.name())
        .after(&serde_json::json!({ "count": count, "key_id": app.vault().key_id() }))?;
    write.wake(Topic::Keys);
    write.commit().await?;
    Ok(count)
}

#[cfg(test)]
mod tests;
