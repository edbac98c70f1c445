//! What `ace-control` was told: its configuration, its secrets, and where it keeps its state.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ace_control_api::keys::{self, Generate, KeyError, KeyMaterial, MasterKeys};
use ace_control_api::{ControlConfig, ControlConfigError};
use ace_migrations::{Engine, Options};
use ace_policies::Secret;
use ace_policies::config::{Config, ConfigError, SecretRef};

/// The configuration file in a folder.
const FILE: &str = "gateway.toml";

/// Where the operator's file is when nothing else is said.
const SYSTEM_FOLDER: &str = "/etc/ace-gateway";

pub struct Settings {
    pub config: Config,
    pub state_dir: PathBuf,
}

/// Why the program cannot start as it was told. The way out is always a change of its settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    File(PathBuf, #[source] io::Error),
    #[error("no state directory: give --state-dir, or set OPENACE_STATE_DIR or HOME")]
    NoStateDir,
    #[error("{0}: {1}")]
    Secret(&'static str, String),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Control(#[from] ControlConfigError),
}

impl Settings {
    /// Reads the file that a flag or `OPENACE_CONFIG` names, else the one in the state directory or in `/etc`; then the
    /// environment over it.
    pub fn read(file: Option<PathBuf>, state_dir: Option<PathBuf>) -> Result<Self, SettingsError> {
        let told = state_dir.or_else(|| variable("OPENACE_STATE_DIR").map(PathBuf::from));
        let usual = told.clone().or_else(usual_state_dir);
        let file = match file.or_else(|| variable("OPENACE_CONFIG").map(PathBuf::from)) {
            Some(named) => Some(named),
            None => usual
                .iter()
                .map(|dir| dir.join(FILE))
                .chain([Path::new(SYSTEM_FOLDER).join(FILE)])
                .find(|path| path.exists()),
        };
        let text = file.as_ref().map(|path| read_file(path)).transpose()?;
        let name = file.as_ref().map(|path| path.display().to_string());
        let config = Config::from_sources(name.as_deref().zip(text.as_deref()), environment(), &[])?;
        let configured = Some(&config.gateway.state_dir)
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from);
        let state_dir = told.or(configured).or(usual).ok_or(SettingsError::NoStateDir)?;
        Ok(Self { config, state_dir })
    }

    /// The database: the one configured, else a file in the state directory.
    pub fn database_url(&self) -> Result<Secret, SettingsError> {
        let configured = fetch("database.url", &self.config.database.url)?;
        let file = || Secret::new(ace_migrations::sqlite_url(&self.state_dir.join("ace.db")));
        Ok(configured.unwrap_or_else(file))
    }

    pub fn database_options(&self) -> Options {
        let database = &self.config.database;
        let busy_timeout = Duration::from_millis(database.busy_timeout_ms);
        Options {
            max_connections: database.max_connections,
            busy_timeout,
        }
    }

    /// The master key. On PostgreSQL it must be configured: each node would make its own.
    pub fn master_keys(&self, engine: Engine) -> Result<MasterKeys, SettingsError> {
        let material = KeyMaterial {
            vault_key: fetch("vault.key", &self.config.vault.key)?,
            encryption_key: secret("OPENACE_ENCRYPTION_KEY"),
            previous: secret("OPENACE_ENCRYPTION_KEY_PREVIOUS"),
            secret_key: secret("SECRET_KEY"),
        };
        let generate = if engine == Engine::Sqlite {
            Generate::Yes
        } else {
            Generate::No
        };
        Ok(keys::resolve(&material, &self.state_dir, generate)?)
    }

    pub fn control(&self) -> Result<ControlConfig, SettingsError> {
        let ca_file = Some(&self.config.upstream.ca_file)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let read = |path: PathBuf| std::fs::read(&path).map_err(|error| SettingsError::File(path, error));
        Ok(ControlConfig::new(&self.config, ca_file.map(read).transpose()?)?)
    }

    /// `OPENACE_ADMIN_PASSWORD`: the first admin's.
    pub fn admin_password(&self) -> Option<Secret> {
        secret("OPENACE_ADMIN_PASSWORD")
    }
}

/// Fetches a secret from where the configuration says it is. A reference that leads nowhere is an error: falling back to
/// something else would hide it.
fn fetch(key: &'static str, reference: &SecretRef) -> Result<Option<Secret>, SettingsError> {
    let missing = |problem: String| SettingsError::Secret(key, problem);
    let text = match reference {
        SecretRef::Unset => return Ok(None),
        SecretRef::Literal(secret) => secret.expose().to_owned(),
        SecretRef::Env(name) => variable(name).ok_or_else(|| missing(format!("the variable {name} is not set")))?,
        SecretRef::File(path) => std::fs::read_to_string(path).map_err(|error| missing(format!("{path}: {error}")))?,
    };
    match text.trim() {
        "" => Err(missing("it is empty".to_owned())),
        text => Ok(Some(Secret::new(text.to_owned()))),
    }
}

fn read_file(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path).map_err(|error| SettingsError::File(path.to_owned(), error))
}

fn usual_state_dir() -> Option<PathBuf> {
    let base = variable("XDG_STATE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/state")))?;
    Some(base.join("ace-gateway"))
}

fn secret(name: &str) -> Option<Secret> {
    variable(name).map(Secret::new)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the program reads its environment here and nowhere else"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the program reads its environment here and nowhere else"
)]
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
