//! What a start must know about the credentials here: the master key, where it comes from, and whether an admin is safe.

use std::net::SocketAddr;
use std::path::Path;

use ace_control_api::App;
use ace_control_api::keys::{Generate, KeyMaterial, MasterKeys, resolve};
use ace_gateway::config::{fetch, secret_env};
use ace_migrations::Db;
use ace_policies::bind::{AdminAccount, EncryptionKey};
use ace_policies::config::Config;

use crate::failure::Failure;

/// Finds the master key; nodes that share a database never make one.
pub fn master_keys(config: &Config, state_dir: &Path, several_nodes: bool) -> Result<MasterKeys, Failure> {
    let material = KeyMaterial {
        vault_key: fetch("vault.key", &config.vault.key)?,
        encryption_key: secret_env("OPENACE_ENCRYPTION_KEY"),
        previous: secret_env("OPENACE_ENCRYPTION_KEY_PREVIOUS"),
        secret_key: secret_env("SECRET_KEY"),
    };
    let generate = if several_nodes { Generate::No } else { Generate::Yes };
    Ok(resolve(&material, state_dir, generate)?)
}

/// Where the master key comes from.
pub fn key_source(config: &Config, state_dir: &Path) -> EncryptionKey {
    if !config.vault.key.is_unset() || secret_env("OPENACE_ENCRYPTION_KEY").is_some() {
        EncryptionKey::Explicit
    } else if secret_env("SECRET_KEY").is_some() {
        EncryptionKey::SecretKey
    } else if state_dir.join(ace_control_api::keys::FILE).exists() {
        EncryptionKey::GeneratedFile
    } else {
        EncryptionKey::Missing
    }
}

/// Whether there is an admin whose password nobody else can know.
pub async fn admin_account(db: &Db, app: Option<&App>, addresses: &[SocketAddr]) -> Result<AdminAccount, Failure> {
    // Passwords are slow to compare, and on loopback nobody asks.
    let is_exposed = addresses.iter().any(|address| !address.ip().is_loopback());
    if let Some(app) = app.filter(|_| is_exposed)
        && app
            .has_published_admin_password()
            .await
            .map_err(|error| Failure::Control(error.to_string()))?
    {
        return Ok(AdminAccount::PublishedPassword);
    }
    let safe: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM users WHERE role = 'admin' AND is_active = 1 AND must_change_password = 0",
    )
    .fetch_one(&db.read)
    .await
    .map_err(|error| Failure::Control(error.to_string()))?;
    Ok(if safe > 0 {
        AdminAccount::Safe
    } else {
        AdminAccount::NotSafe
    })
}
