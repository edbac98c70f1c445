//! The agent's settings: environment, then `config.json`, then defaults; and the files of its directory.
//!
//! Environment and file are read here once, at the start. What the agent itself changes later (its token, the machine's id) goes
//! through [`ConfigFile`], which keeps whatever else stands in the file.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use ace_policies::{MachineId, Secret};
use tracing::level_filters::LevelFilter;
use uuid::Uuid;

use crate::transport::{BREAK_GLASS, BreakGlass, GatewayUrl, Pin, Proxies, Trust};

mod file;
mod values;

pub(crate) use file::sync_dir;
pub use file::{ConfigFile, private_dir, write_private};
use values::Values;
pub(crate) use values::level_named;

/// The settings of one agent. Times are durations, sizes bytes.
pub struct Config {
    /// Where everything of the agent is.
    pub dir: PathBuf,
    /// The server as it was written, for messages.
    pub server_url: String,
    /// The server, checked: the way to it, and whom to trust there.
    pub server: GatewayUrl,
    /// What people call the machine.
    pub machine_name: String,
    /// Registers the machine once; then it is forgotten.
    pub registration_token: Option<Secret>,
    /// `OPENACE_AGENT_TOKEN`; it goes before what the file holds.
    pub env_token: Option<Secret>,
    /// `OPENACE_MACHINE_ID`, or `machine_id` of the file where it is not empty.
    pub machine_id: Option<MachineId>,
    /// The CLI that was asked for at installation.
    pub cli_tool: String,
    /// Where sessions begin when nothing is said.
    pub work_dir: PathBuf,
    /// The home of the user the agent runs as.
    pub home: PathBuf,
    /// CLIs that are run by their name alone although the agent does not know them.
    pub generic_clis: Vec<String>,
    /// What people may look into from afar.
    pub roots: Vec<PathBuf>,
    /// The directories that sessions may be in: the `roots` that were named. Empty means anywhere the agent's user may go.
    pub project_roots: Vec<PathBuf>,
    /// What AI CLIs get of the agent's environment.
    pub cli_environment: crate::process::environment::CliEnvironment,
    /// How often a sign of life is sent.
    pub heartbeat_interval: Duration,
    /// The first wait after a lost connection.
    pub reconnect_base_delay: Duration,
    /// The longest one.
    pub reconnect_max_delay: Duration,
    /// How many sessions may run at once.
    pub max_sessions: u32,
    /// From which level on things are logged.
    pub log_level: LevelFilter,
    /// How much unacknowledged output is kept on disk, all sessions together.
    pub spool_bytes: u64,
}

/// A setting that cannot be used. Nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{place}: {problem}")]
    Value { place: String, problem: String },
    #[error("{path}: {error}; {hint}")]
    File {
        path: String,
        error: String,
        hint: &'static str,
    },
    #[error(transparent)]
    Server(#[from] crate::transport::TransportError),
}

/// The environment as it was when the program started.
pub struct Environment(HashMap<String, String>);

impl Environment {
    /// This process' own.
    #[expect(clippy::disallowed_methods, reason = "the agent's one look at its environment")]
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    fn all(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|(name, value)| (name.clone(), value.clone()))
    }

    /// A value that is set and not blank.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// Whether plaintext to private addresses was allowed for this process.
    pub fn break_glass(&self) -> BreakGlass {
        BreakGlass::from_env_value(self.0.get(BREAK_GLASS).map(String::as_str))
    }

    /// The home directory of the user.
    pub fn home(&self) -> PathBuf {
        self.get("HOME")
            .or_else(|| self.get("USERPROFILE"))
            .map_or_else(|| PathBuf::from("/"), PathBuf::from)
    }

    /// Where the agent's files are: what was typed, `OPENACE_AGENT_DIR`, `~/.open-ace-agent`.
    pub fn dir(&self, typed: Option<&Path>) -> PathBuf {
        let named = typed
            .map(Path::to_owned)
            .or_else(|| self.get("OPENACE_AGENT_DIR").map(PathBuf::from));
        let dir = named.unwrap_or_else(|| self.home().join(DIR));
        std::path::absolute(&dir).unwrap_or(dir)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }
}

/// The agent's directory in its user's home.
pub const DIR: &str = ".open-ace-agent";
/// The settings in it.
pub const FILE: &str = "config.json";
const DEFAULT_SERVER: &str = "http://localhost:5000";
const DEFAULT_CLI: &str = "qwen-code-cli";
const DEFAULT_SPOOL_BYTES: u64 = 256 << 20;
const MIN_SPOOL_BYTES: u64 = 4 << 20;
/// Longer than a day between two signs of life, or attempts, is a slip of the pen.
const MAX_SECONDS: f64 = 86_400.0;

impl Config {
    /// Puts the settings together. `file` is `config.json` of `dir`, empty where there is none.
    pub fn new(dir: &Path, environment: &Environment, file: &ConfigFile) -> Result<Self, ConfigError> {
        let values = Values { environment, file };
        let home = environment.home();
        let work_dir = values.path("OPENACE_WORK_DIR", "work_dir", &home)?;
        let base = values.seconds("OPENACE_RECONNECT_BASE_DELAY", &["reconnect_base_delay"], 1.0)?;
        let max_names = ["reconnect_max_delay", "reconnect_backoff_max"];
        let (server_url, server) = server(&values, &home)?;
        Ok(Self {
            dir: dir.to_owned(),
            server_url,
            server,
            machine_name: values
                .text("OPENACE_MACHINE_NAME", "machine_name")?
                .unwrap_or_else(crate::machine::hostname),
            registration_token: values
                .text("OPENACE_REGISTRATION_TOKEN", "registration_token")?
                .map(Secret::new),
            env_token: environment
                .get("OPENACE_AGENT_TOKEN")
                .map(|token| Secret::new(token.to_owned())),
            machine_id: machine_id(&values)?,
            cli_tool: values
                .text("OPENACE_CLI_TOOL", "cli_tool")?
                .unwrap_or_else(|| DEFAULT_CLI.to_owned()),
            generic_clis: values.list("OPENACE_GENERIC_CLIS", "generic_clis")?,
            roots: roots(&values, &home, work_dir.as_deref())?,
            project_roots: named_roots(&values, &home)?.unwrap_or_default(),
            cli_environment: crate::process::environment::CliEnvironment::of(environment.all()),
            work_dir: work_dir.unwrap_or_else(|| home.clone()),
            home,
            heartbeat_interval: values.seconds("OPENACE_HEARTBEAT_INTERVAL", &["heartbeat_interval"], 60.0)?,
            reconnect_base_delay: base,
            reconnect_max_delay: values
                .seconds("OPENACE_RECONNECT_MAX_DELAY", &max_names, 60.0)?
                .max(base),
            max_sessions: values.whole("OPENACE_MAX_SESSIONS", "max_sessions", 5, 1..=1000)? as u32,
            log_level: values.level("OPENACE_LOG_LEVEL", "log_level")?,
            spool_bytes: values.whole(
                "OPENACE_SPOOL_BYTES",
                "spool_bytes",
                DEFAULT_SPOOL_BYTES,
                MIN_SPOOL_BYTES..=1 << 40,
            )?,
        })
    }

    /// Where all sessions' files are.
    pub fn sessions_dir(&self) -> PathBuf {
        self.dir.join("sessions")
    }

    /// The server's scheme, host and port: what a stored token is bound to.
    pub fn origin(&self) -> String {
        self.server.url().origin().ascii_serialization()
    }
}

fn server(values: &Values<'_>, home: &Path) -> Result<(String, GatewayUrl), ConfigError> {
    let (text, place) = values
        .text_and_place("OPENACE_SERVER_URL", "server_url")?
        .unwrap_or_else(|| (DEFAULT_SERVER.to_owned(), "the default server_url".to_owned()));
    let url = GatewayUrl::parse(&text, &place, values.environment.break_glass())?;
    let pin = values.text_and_place("OPENACE_PIN_SHA256", "pin_sha256")?;
    let pin = pin.map(|(text, place)| Pin::parse(&text).map_err(|error| value_error(&place, &error)));
    let trust = Trust {
        ca_file: values.path("OPENACE_CA_FILE", "ca_file", home)?,
        pin: pin.transpose()?,
    };
    // The file has them for services, which are not started from the shell that knows the proxy.
    let proxies = Proxies::from_lookup(|name| {
        let found = values.environment.get(name).or_else(|| values.file.text(name));
        found.map(str::to_owned)
    });
    let url = url.trusting(trust).map_err(|error| value_error("TLS", &error))?;
    let url = url.through(&proxies).map_err(|error| value_error("proxy", &error))?;
    Ok((text, url))
}

fn machine_id(values: &Values<'_>) -> Result<Option<MachineId>, ConfigError> {
    let Some((text, place)) = values.text_and_place("OPENACE_MACHINE_ID", "machine_id")? else {
        return Ok(None);
    };
    let id = text
        .parse::<Uuid>()
        .map_err(|_| value_error(&place, &format!("`{text}` is not a UUID")))?;
    Ok(Some(MachineId(id)))
}

fn roots(values: &Values<'_>, home: &Path, work_dir: Option<&Path>) -> Result<Vec<PathBuf>, ConfigError> {
    if let Some(named) = named_roots(values, home)? {
        return Ok(named);
    }
    Ok([Some(home), work_dir]
        .into_iter()
        .flatten()
        .map(Path::to_owned)
        .collect())
}

/// The `roots` of the settings; none where nothing is said.
fn named_roots(values: &Values<'_>, home: &Path) -> Result<Option<Vec<PathBuf>>, ConfigError> {
    let named = values.list("OPENACE_ROOTS", "roots")?;
    let absolute = |text: String| match values::expand(&text, home) {
        path if path.is_absolute() => Ok(path),
        _ => Err(value_error("roots", &format!("`{text}` is not an absolute path"))),
    };
    let roots: Vec<_> = named.into_iter().map(absolute).collect::<Result<_, _>>()?;
    Ok(Some(roots).filter(|roots| !roots.is_empty()))
}

fn value_error(place: &str, problem: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Value {
        place: place.to_owned(),
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests;
