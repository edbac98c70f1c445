//! `config.json`: read tolerantly, rewritten whole or not at all, by nobody but its owner to be read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::ConfigError;

/// Larger than any settings of ours.
const MAX_BYTES: u64 = 1 << 20;

/// Every key that the agent knows; others are kept, and told once.
const KNOWN: [&str; 25] = [
    "server_url",
    "machine_id",
    "machine_name",
    "registration_token",
    "agent_token",
    "agent_token_next",
    "agent_token_origin",
    "agent_token_supersedes",
    "cli_tool",
    "work_dir",
    "generic_clis",
    "roots",
    "ca_file",
    "pin_sha256",
    "https_proxy",
    "no_proxy",
    "heartbeat_interval",
    "reconnect_base_delay",
    "reconnect_max_delay",
    "reconnect_backoff_max",
    "max_sessions",
    "log_level",
    "spool_bytes",
    "capabilities",
    "agent_version",
];

/// The settings file as it is on disk.
#[derive(Clone)]
pub struct ConfigFile {
    path: PathBuf,
    values: Map<String, Value>,
}

impl ConfigFile {
    /// Reads the file; one that is not there is empty. A line that starts with `#` behind the JSON (a checksum that other agents
    /// write) is left out.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let path = path.to_owned();
        let wrong = |error: String, hint| ConfigError::File {
            path: path.display().to_string(),
            error,
            hint,
        };
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    path,
                    values: Map::new(),
                });
            }
            Err(error) => return Err(wrong(error.to_string(), "the agent must be able to read it")),
        };
        let values = serde_json::from_str(without_comments(&text))
            .map_err(|error| wrong(error.to_string(), "expected one JSON object"))?;
        Ok(Self { path, values })
    }

    /// A value of the file.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A text of the file that is not blank.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str().map(str::trim).filter(|text| !text.is_empty())
    }

    /// How messages name a key of it.
    pub fn place(&self, key: &str) -> String {
        format!("{key} in {}", self.path.display())
    }

    /// Keys that mean nothing to this agent.
    pub fn unknown_keys(&self) -> Vec<&str> {
        let keys = self.values.keys().map(String::as_str);
        keys.filter(|key| !KNOWN.contains(key)).collect()
    }

    /// Sets a value, or with `None` takes it out. It is on disk after [`Self::write`].
    pub fn set(&mut self, key: &str, value: Option<Value>) {
        match value {
            Some(value) => self.values.insert(key.to_owned(), value),
            None => self.values.remove(key),
        };
    }

    /// Replaces the file on disk.
    pub fn write(&self) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(&self.values)?;
        text.push('\n');
        write_private(&self.path, text.as_bytes())
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is too large for settings"));
    }
    fs::read_to_string(path)
}

fn without_comments(text: &str) -> &str {
    let mut text = text.trim_start_matches('\u{feff}').trim_end();
    while let Some(at) = text
        .rfind('\n')
        .filter(|at| text[at + 1..].trim_start().starts_with('#'))
    {
        text = text[..at].trim_end();
    }
    text
}

/// Writes a file that only its owner may read: a new one beside it first, then in its place, so that a reader sees the old or the
/// new text and a crash leaves one of them.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path
        .parent()
        .ok_or_else(|| io::Error::other("a file needs a directory"))?;
    private_dir(dir)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = dir.join(name);
    let written = write_new(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_dir(dir)
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes a directory that only its owner may enter, if it is not there.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Makes names in a directory outlive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(dir)?.sync_all()
    } else {
        Ok(())
    }
}
