//! The simulated provider of the conformance suite: it answers SDKs and CLIs as they expect it, and writes down what each answer costs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::Program;

/// A running simulated provider.
pub struct Mock {
    address: SocketAddr,
    log: PathBuf,
    _program: Program,
    _folder: TempDir,
}

impl Mock {
    /// # Panics
    /// When there is no Node on this machine.
    pub async fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let log = folder.path().join("mock.jsonl");
        let mut command = Command::new("node");
        command
            .arg(conformance("mock_provider.mjs"))
            .args(["--port", "0", "--log"])
            .arg(&log);
        let (program, address) = Program::start_until(command, address_of).await;
        Self {
            address,
            log,
            _program: program,
            _folder: folder,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Forgets what it saw.
    pub fn forget(&self) {
        std::fs::write(&self.log, "").expect("a file that can be written");
    }

    /// What it saw, in the order of arrival.
    pub fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).expect("a file that can be read");
        let mut all: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        all.sort_by_key(|line: &Value| line["id"].as_i64());
        all
    }
}

/// The address in its first line: `mock-llm on http://127.0.0.1:PORT log=…`.
fn address_of(line: &str) -> Option<SocketAddr> {
    let rest = line.strip_prefix("mock-llm on http://")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A file of the conformance suite.
pub fn conformance(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(file)
}

/// The tokens of a row of the request log, by class, in the order of [`classes`].
pub fn classes_of_row(row: &Value) -> [i64; 6] {
    [
        "input",
        "cache_read",
        "cache_write_5m",
        "cache_write_1h",
        "output",
        "reasoning",
    ]
    .map(|name| row[format!("{name}_tokens")].as_i64().unwrap_or(-1))
}

/// A provider's usage object in our classes: uncached input, cache read, cache written for 5 minutes and for an hour,
/// output with its reasoning, reasoning.
pub fn classes(usage: &Value) -> [i64; 6] {
    let number = |pointer: &str| usage.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    if usage.get("promptTokenCount").is_some() {
        let (cached, thoughts) = (number("/cachedContentTokenCount"), number("/thoughtsTokenCount"));
        [
            number("/promptTokenCount") - cached,
            cached,
            0,
            0,
            number("/candidatesTokenCount") + thoughts,
            thoughts,
        ]
    } else if usage.get("prompt_tokens").is_some() {
        let cached = number("/prompt_tokens_details/cached_tokens");
        let reasoning = number("/completion_tokens_details/reasoning_tokens");
        [
            number("/prompt_tokens") - cached,
            cached,
            0,
            0,
            number("/completion_tokens"),
            reasoning,
        ]
    } else if usage.get("cache_read_input_tokens").is_some() {
        let hour = number("/cache_creation/ephemeral_1h_input_tokens");
        let written = number("/cache_creation_input_tokens");
        let read = number("/cache_read_input_tokens");
        [
            number("/input_tokens"),
            read,
            written - hour,
            hour,
            number("/output_tokens"),
            0,
        ]
    } else {
        let cached = number("/input_tokens_details/cached_tokens");
        let reasoning = number("/output_tokens_details/reasoning_tokens");
        [
            number("/input_tokens") - cached,
            cached,
            0,
            0,
            number("/output_tokens"),
            reasoning,
        ]
    }
}
