//! Where the configuration comes from: the file, the environment and the flags of this process. What is in it is decided in
//! `ace_policies::config`.

use std::io;
use std::path::{Path, PathBuf};

use ace_policies::Secret;
use ace_policies::config::{Config, ConfigError, Flag, SecretRef};

/// A file larger than this is not a configuration.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The configuration and where this process keeps its state.
pub struct Settings {
    /// The effective configuration.
    pub config: Config,
    /// The state directory; it may not exist yet.
    pub state_dir: PathBuf,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// What is wrong in it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that was named cannot be read.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    File(PathBuf, io::Error),
    /// No home directory to keep the state in.
    #[error("no state directory: set --state-dir, OPENACE_STATE_DIR or HOME")]
    NoStateDir,
    /// A secret that is configured by reference cannot be had. It is never replaced by another source.
    #[error("secret_ref_unavailable: {0}: {1}")]
    Secret(&'static str, String),
}

impl Settings {
    /// Reads the configuration: `--config`, else `OPENACE_CONFIG`, else `gateway.toml` in the state directory, else
    /// `/etc/ace-gateway/gateway.toml`; what is named must exist, what is not named need not.
    pub fn read(file: Option<PathBuf>, state_dir: Option<PathBuf>, flags: &[Flag]) -> Result<Self, SettingsError> {
        let state_dir = state_dir.or_else(|| env("OPENACE_STATE_DIR").map(PathBuf::from));
        let named = file.or_else(|| env("OPENACE_CONFIG").map(PathBuf::from));
        let default_dir = state_dir.clone().or_else(default_state_dir);
        let found = match named {
            Some(path) => Some((read_file(&path)?, path)),
            None => find_file(default_dir.as_deref())?,
        };
        let name = found.as_ref().map(|(_, path)| path.display().to_string());
        let source = found
            .as_ref()
            .zip(name.as_ref())
            .map(|((text, _), name)| (name.as_str(), text.as_str()));
        let config = Config::from_sources(source, environment(), flags)?;
        let configured = Some(&config.gateway.state_dir)
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from);
        let state_dir = state_dir
            .or(configured)
            .or(default_dir)
            .ok_or(SettingsError::NoStateDir)?;
        Ok(Self { config, state_dir })
    }
}

fn find_file(state_dir: Option<&Path>) -> Result<Option<(String, PathBuf)>, SettingsError> {
    let candidates = state_dir
        .map(|dir| dir.join("gateway.toml"))
        .into_iter()
        .chain([PathBuf::from("/etc/ace-gateway/gateway.toml")]);
    for path in candidates {
        match read_file(&path) {
            Ok(text) => return Ok(Some((text, path))),
            Err(SettingsError::File(_, error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn read_file(path: &Path) -> Result<String, SettingsError> {
    let failed = |error| SettingsError::File(path.to_owned(), error);
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE_BYTES {
        return Err(failed(io::Error::other("too large for a configuration")));
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn default_state_dir() -> Option<PathBuf> {
    let base = env("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env("HOME")?).join(".local/state")))?;
    Some(base.join("ace-gateway"))
}

/// Fetches a secret from where the configuration says it is; `None` where nothing is configured.
pub fn fetch(key: &'static str, secret: &SecretRef) -> Result<Option<Secret>, SettingsError> {
    let text = match secret {
        SecretRef::Unset => return Ok(None),
        SecretRef::Literal(secret) => secret.expose().to_owned(),
        SecretRef::Env(name) => env(name).ok_or_else(|| SettingsError::Secret(key, format!("{name} is not set")))?,
        SecretRef::File(path) => {
            std::fs::read_to_string(path).map_err(|error| SettingsError::Secret(key, format!("{path}: {error}")))?
        }
    };
    match text.trim() {
        "" => Err(SettingsError::Secret(key, "it is empty".to_owned())),
        text => Ok(Some(Secret::new(text.to_owned()))),
    }
}

/// A secret of the environment, trimmed; empty is unset.
pub fn secret_env(name: &str) -> Option<Secret> {
    env(name).map(Secret::new)
}

#[expect(clippy::disallowed_methods, reason = "the configuration is read here")]
fn env(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

#[expect(clippy::disallowed_methods, reason = "the configuration is read here")]
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
