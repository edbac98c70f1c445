//! A terminal: commands as a guide prints them.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, path::Path};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{Program, program};

/// Runs commands one after another in a folder of their own. What stands in angle brackets is filled in.
pub struct Shell {
    folder: TempDir,
    names: BTreeMap<String, String>,
    variables: BTreeMap<&'static str, &'static str>,
}

impl Default for Shell {
    fn default() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        // What a person sees anyway: no progress bar, and an error where the server says no.
        std::fs::write(folder.path().join(".curlrc"), "silent\nshow-error\nfail-with-body\n")
            .expect("a folder of ours");
        Self {
            folder,
            names: BTreeMap::new(),
            variables: BTreeMap::new(),
        }
    }
}

impl Shell {
    /// Has `text` stand for something else from now on, such as `<machine_id>` for an id.
    pub fn replace(&mut self, text: &str, by: impl ToString) {
        self.names.insert(text.to_owned(), by.to_string());
    }

    /// Sets a variable of its environment.
    pub fn set(&mut self, variable: &'static str, value: &'static str) {
        self.variables.insert(variable, value);
    }

    /// Has a script stand for a program that cannot be had here, such as one that reaches another machine.
    pub fn stands_for(&self, program: &str, script: &str) {
        let bin = self.folder.path().join("bin");
        std::fs::create_dir_all(&bin).expect("a folder of ours");
        let path = bin.join(program);
        std::fs::write(&path, format!("#!/bin/bash\n{script}\n")).expect("a folder of ours");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a file of ours");
    }

    /// Runs a command and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn prints(&self, command: &str) -> String {
        let (succeeded, printed) = self.runs(command).await;
        assert!(succeeded, "{command}\n{printed}");
        printed
    }

    /// Runs a command that prints JSON.
    ///
    /// # Panics
    /// When it fails, or prints something else.
    pub async fn answers(&self, command: &str) -> Value {
        let printed = self.prints(command).await;
        serde_json::from_str(&printed).unwrap_or_else(|_| panic!("no JSON: {command}\n{printed}"))
    }

    /// Runs a command that must fail, and gives what it printed.
    ///
    /// # Panics
    /// When it does not fail.
    pub async fn fails(&self, command: &str) -> String {
        let (succeeded, printed) = self.runs(command).await;
        assert!(!succeeded, "{command}\n{printed}");
        printed
    }

    async fn runs(&self, command: &str) -> (bool, String) {
        let filled = self
            .names
            .iter()
            .fold(command.to_owned(), |text, (name, value)| text.replace(name, value));
        let mut bash = Command::new("bash");
        bash.args(["-o", "pipefail", "-c", &filled])
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("PATH", self.path())
            .envs(&self.variables);
        let (status, printed) = Program::run(bash).await;
        (status.success(), printed)
    }

    /// As a login shell has it: a user's own programs first.
    #[expect(
        clippy::disallowed_methods,
        reason = "a story's terminal finds the machine's programs"
    )]
    fn path(&self) -> String {
        let (home, path) = (self.folder.path().display(), std::env::var("PATH").unwrap_or_default());
        format!("{home}/.local/bin:{home}/bin:{path}")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        end_agent(&self.folder.path().join(".open-ace-agent"));
    }
}

/// Ends an agent that a story started by its script, where the story did not come to its end.
pub fn end_agent(dir: &Path) {
    if dir.exists() {
        let mut stop = program("ace-agent").into_std();
        drop(
            stop.args(["stop", "--dir"])
                .arg(dir)
                .env("OPENACE_SERVICE_MANAGER", "script")
                .status(),
        );
    }
}
