//! The keys that sign proxy tokens. They do nothing else, lie sealed in the database, and every gateway opens them.

use std::time::Duration;

use ace_policies::token::SigningKey;
use ace_policies::vault::{Sealed, signing_key_aad};
use sqlx::{AnyConnection, Row};

use crate::App;
use crate::audit::{Entry, act};
use crate::chance;
use crate::error::ApiError;
use crate::write::{Topic, Write};

/// From its making until it signs, so that every gateway has seen a key before its first token comes.
const LEAD: Duration = Duration::from_secs(10);

impl App {
    /// The key that signs now.
    pub(crate) async fn signing_key(&self) -> Result<SigningKey, ApiError> {
        let row = sqlx::query(
            "SELECT kid, key_id, sealed FROM signing_keys
             WHERE active_at <= $1 AND (retired_at IS NULL OR retired_at > $1)
             ORDER BY active_at DESC, created_at DESC LIMIT 1",
        )
        .bind(self.now())
        .fetch_optional(&self.db().read)
        .await?
        .ok_or_else(|| ApiError::internal("there is no signing key; `ace-control rotate-signing-key` makes one"))?;
        let kid: String = row.try_get("kid")?;
        let sealed = Sealed {
            key_id: row.try_get("key_id")?,
            bytes: row.try_get("sealed")?,
        };
        let secret = self
            .vault()
            .open(&signing_key_aad(&kid), &sealed)
            .map_err(ApiError::internal)?;
        SigningKey::new(kid, &secret).map_err(ApiError::internal)
    }

    /// Makes a new signing key and returns its name. It signs after a short lead; the older ones verify until the last
    /// token that they may have signed has ended.
    pub async fn rotate_signing_key(&self) -> Result<String, ApiError> {
        let mut write = self
            .write_as(Entry::system("ace-control", act::ROTATE_SIGNING_KEY))
            .await?;
        let active_at = self.now() + millis(LEAD);
        let longest = self.config().token_ttl_max.max(self.config().long_token_ttl);
        let retired_at = active_at + millis(longest);
        let kid = insert(self, &mut write, active_at).await?;
        sqlx::query("UPDATE signing_keys SET retired_at = $1 WHERE kid <> $2 AND retired_at IS NULL")
            .bind(retired_at)
            .bind(&kid)
            .execute(write.sql())
            .await?;
        write.target(format_args!("signing_key:{kid}"));
        write.commit().await?;
        Ok(kid)
    }
}

/// Makes the first key, if there is none that verifies. It signs at once.
pub(crate) async fn ensure(app: &App, write: &mut Write) -> Result<(), ApiError> {
    if count(write.sql()).await? == 0 {
        insert(app, write, app.now()).await?;
    }
    Ok(())
}

async fn count(connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
    let row = sqlx::query("SELECT COUNT(*) FROM signing_keys WHERE retired_at IS NULL")
        .fetch_one(connection)
        .await?;
    row.try_get(0)
}

async fn insert(app: &App, write: &mut Write, active_at: i64) -> Result<String, ApiError> {
    let kid = hex::encode(chance::bytes::<8>());
    let secret = SigningKey::secret_from(&chance::bytes());
    let sealed = app
        .vault()
        .seal(&signing_key_aad(&kid), secret.expose().as_bytes(), chance::bytes());
    sqlx::query("INSERT INTO signing_keys (kid, key_id, sealed, created_at, active_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(&kid)
        .bind(&sealed.key_id)
        .bind(&sealed.bytes)
        .bind(app.now())
        .bind(active_at)
        .execute(write.sql())
        .await?;
    write.wake(Topic::Keys);
    Ok(kid)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
