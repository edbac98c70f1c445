//! The CLIs that this agent knows: one row of data each, built in or from `adapters.d`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use serde::Deserialize;

pub mod detect;
pub mod install;
mod launch;
mod template;

pub use launch::{Given, Mismatch, is_plain_name};
use template::Template;

/// How a CLI is found, started and spoken to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// What a session asks for, such as `claude-code`.
    pub id: String,
    /// For people; the id where there is none.
    #[serde(default)]
    pub name: String,
    /// A name in `PATH`, or an absolute path.
    pub executable: String,
    /// The protocol that it speaks.
    pub driver: DriverKind,
    /// What it can.
    #[serde(default)]
    pub features: BTreeSet<Feature>,
    /// The arguments that make it tell its version.
    #[serde(default = "version_args")]
    pub version: Vec<String>,
    /// How it comes onto a machine.
    pub install: Option<Install>,
    /// The arguments of a session.
    #[serde(default)]
    pub args: Args,
    /// The environment of a session, on top of the common one.
    #[serde(default)]
    pub env: BTreeMap<String, Template>,
    /// Files in the session's private directory (`{dir}`), written before each start.
    #[serde(default)]
    pub files: BTreeMap<String, Template>,
    /// For the driver `stream_json`.
    #[serde(default)]
    pub stream_json: StreamJson,
    /// For the driver `one_shot`.
    #[serde(default)]
    pub one_shot: OneShot,
}

/// A protocol between the agent and a CLI.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverKind {
    /// A JSON object a line both ways, in the vocabulary of Claude Code.
    StreamJson,
    /// The Agent Client Protocol: JSON-RPC a line.
    Acp,
    /// Codex's app server: JSON-RPC a line.
    AppServer,
    /// A process a turn.
    OneShot,
}

/// What a CLI can.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Going on with a conversation in a new process.
    Resume,
    /// Another model.
    Model,
    /// Another permission mode.
    PermissionMode,
    /// Asking before it uses a tool.
    Approvals,
    /// Ending a turn.
    Abort,
    /// Files that go with a message.
    Attachments,
}

impl Feature {
    /// Its name in [`ace_policies::wire::Cli`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resume => "resume",
            Self::Model => "model",
            Self::PermissionMode => "permission_mode",
            Self::Approvals => "approvals",
            Self::Abort => "abort",
            Self::Attachments => "attachments",
        }
    }
}

/// How a CLI comes onto a machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// The oldest version of Node that will do, such as `22` or `24.16`. An older one would make npm install something else, silently.
    pub node: Option<String>,
}

/// The arguments of a CLI. Those that name what is not there are left out, as a whole list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Always.
    #[serde(default)]
    pub start: Vec<Template>,
    /// For a new conversation.
    #[serde(default)]
    pub new: Vec<Template>,
    /// To go on with a conversation.
    #[serde(default)]
    pub resume: Vec<Template>,
    /// For a model.
    #[serde(default)]
    pub model: Vec<Template>,
    /// For a permission mode.
    #[serde(default)]
    pub permission_mode: Vec<Template>,
    /// The permission mode where none is asked for; none leaves it to the CLI.
    #[serde(default)]
    pub default_permission_mode: Option<String>,
    /// For `one_shot`: the message. Without it the message goes to the standard input.
    #[serde(default)]
    pub prompt: Vec<Template>,
}

/// What is particular to a CLI with the driver `stream_json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamJson {
    /// Whether it answers the first word, `initialize`. One that does not is taken to be ready at once.
    #[serde(default = "yes")]
    pub initialize: bool,
}

impl Default for StreamJson {
    fn default() -> Self {
        Self { initialize: true }
    }
}

/// What is particular to a CLI with the driver `one_shot`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneShot {
    /// What it prints.
    #[serde(default)]
    pub output: Output,
    /// Where the answer is in a JSON object; the first that is a text counts.
    #[serde(default)]
    pub answer: Vec<String>,
    /// Where the reason of a failure is.
    #[serde(default)]
    pub failure: Vec<String>,
    /// Where its name for the conversation is.
    #[serde(default)]
    pub conversation: Vec<String>,
}

/// What a CLI prints that runs for one turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Text for people: it becomes one answer.
    #[default]
    Text,
    /// One JSON object at its end.
    Json,
    /// Events as Claude Code prints them, a JSON object a line.
    Events,
}

fn version_args() -> Vec<String> {
    vec!["--version".to_owned()]
}

const fn yes() -> bool {
    true
}

/// All adapters of a machine.
#[derive(Clone, Debug)]
pub struct Adapters {
    rows: BTreeMap<String, Adapter>,
    generic: Vec<String>,
}

/// Why an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The file cannot be read.
    #[error("{file}: {error}")]
    Unreadable {
        /// Which.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// It is not what an adapter looks like.
    #[error("{file}: {message}")]
    Malformed {
        /// Which.
        file: String,
        /// What is wrong, with the line where it is known.
        message: String,
    },
}

const BUILT_IN: [(&str, &str); 6] = [
    ("claude-code", include_str!("../adapters/claude-code.toml")),
    ("codex", include_str!("../adapters/codex.toml")),
    ("gemini-cli", include_str!("../adapters/gemini-cli.toml")),
    ("openclaw", include_str!("../adapters/openclaw.toml")),
    ("opencode", include_str!("../adapters/opencode.toml")),
    ("qwen-code-cli", include_str!("../adapters/qwen-code-cli.toml")),
];

const GENERIC: &str = include_str!("../adapters/generic.toml");

impl Adapters {
    /// The built-in rows and those of `dir`, a directory of `*.toml` that need not be there. A file with the id of a row changes what
    /// it names. `generic` are the names of CLIs that are run although no row knows them; `*` stands for any.
    pub fn load(dir: &Path, generic: &[String]) -> Result<Self, AdapterError> {
        let mut tables = BTreeMap::new();
        for (id, text) in BUILT_IN {
            tables.insert(id.to_owned(), (parse(id, text)?, format!("built-in {id}")));
        }
        for (file, text) in files(dir)? {
            let table = parse(&file, &text)?;
            let id = id_of(&file, &table)?;
            let row = tables.entry(id).or_insert_with(|| (toml::Table::new(), String::new()));
            merge(&mut row.0, table);
            row.1 = file;
        }
        let rows = tables
            .into_iter()
            .map(|(id, (table, file))| Ok((id, read(&file, table)?)));
        Ok(Self {
            rows: rows.collect::<Result<_, _>>()?,
            generic: generic.to_vec(),
        })
    }

    /// The built-in rows alone.
    pub fn built_in(generic: &[String]) -> Self {
        let rows = BUILT_IN
            .iter()
            .filter_map(|(id, text)| read(id, parse(id, text).ok()?).ok());
        Self {
            rows: rows.map(|row| (row.id.clone(), row)).collect(),
            generic: generic.to_vec(),
        }
    }

    /// The row for a name, or the generic one where that is allowed.
    pub fn find(&self, id: &str) -> Option<Adapter> {
        if let Some(adapter) = self.rows.get(id) {
            return Some(adapter.clone());
        }
        let plain = id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let allowed = self.generic.iter().any(|name| name == id || name == "*");
        if id.is_empty() || !plain || !allowed || id.starts_with(['-', '.']) {
            return None;
        }
        let mut adapter = read("generic", parse("generic", GENERIC).ok()?).ok()?;
        (adapter.id, adapter.name, adapter.executable) = (id.to_owned(), id.to_owned(), id.to_owned());
        Some(adapter)
    }

    /// All rows, in the order of their ids.
    pub fn rows(&self) -> impl Iterator<Item = &Adapter> {
        self.rows.values()
    }

    /// The names that are run without a row.
    pub fn generic(&self) -> &[String] {
        &self.generic
    }
}

fn files(dir: &Path) -> Result<Vec<(String, String)>, AdapterError> {
    let unreadable = |path: &Path, error| AdapterError::Unreadable {
        file: path.display().to_string(),
        error,
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| unreadable(dir, error))?,
    };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let read = |path: std::path::PathBuf| {
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
        Ok((path.display().to_string(), text))
    };
    paths.into_iter().map(read).collect()
}

fn parse(file: &str, text: &str) -> Result<toml::Table, AdapterError> {
    toml::from_str(text).map_err(|error| malformed(file, &error))
}

fn id_of(file: &str, table: &toml::Table) -> Result<String, AdapterError> {
    let id = table.get("id").and_then(toml::Value::as_str).unwrap_or_default();
    if id.is_empty() {
        return Err(malformed(
            file,
            &"`id` is missing: the name by which sessions ask for this CLI",
        ));
    }
    Ok(id.to_owned())
}

fn read(file: &str, table: toml::Table) -> Result<Adapter, AdapterError> {
    let mut adapter: Adapter = table.try_into().map_err(|error| malformed(file, &error))?;
    if adapter.name.is_empty() {
        adapter.name.clone_from(&adapter.id);
    }
    if adapter
        .install
        .as_ref()
        .is_some_and(|install| install.command.is_empty())
    {
        return Err(malformed(file, &"`install.command` is empty"));
    }
    if let Some(name) = adapter.files.keys().find(|name| !is_inside(name)) {
        return Err(malformed(
            file,
            &format!("`files.{name}` is not a path inside of the session's directory"),
        ));
    }
    Ok(adapter)
}

fn is_inside(name: &str) -> bool {
    let parts = Path::new(name).components();
    parts.clone().count() > 0
        && parts
            .into_iter()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
}

fn malformed(file: &str, message: &dyn std::fmt::Display) -> AdapterError {
    AdapterError::Malformed {
        file: file.to_owned(),
        message: message.to_string().trim_end().to_owned(),
    }
}

/// Tables are merged name by name; everything else is replaced.
fn merge(below: &mut toml::Table, above: toml::Table) {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => {
                below.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
