//! Putting a CLI onto this machine.

use std::process::{Command, Stdio};

use super::{Adapter, detect};
use crate::process::environment::CliEnvironment;

/// Why a CLI was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The row has no command.
    #[error("the agent does not know how to install {0}")]
    NoCommand(String),
    /// npm would install an old version, or an empty one, and say nothing.
    #[error("{name} needs Node {needed} or newer, this machine has {}: see https://nodejs.org/en/download", .found.as_deref().unwrap_or("none"))]
    Node {
        /// The CLI.
        name: String,
        /// The oldest version that will do.
        needed: String,
        /// What `node --version` says.
        found: Option<String>,
    },
    /// The command is not there or did not work.
    #[error("`{command}` failed: {reason}")]
    Command {
        /// What was run.
        command: String,
        /// The exit code, or why it could not be run.
        reason: String,
    },
    /// The command was content, and yet the executable is not there.
    #[error("`{command}` ended well, but there is no `{executable}` in PATH")]
    NotThere {
        /// What was run.
        command: String,
        /// What is missing.
        executable: String,
    },
}

/// Installs a CLI with its own command, after a look at Node. What the command prints goes where the caller's output goes.
pub fn install(adapter: &Adapter, common: &CliEnvironment) -> Result<(), InstallError> {
    let known = adapter
        .install
        .as_ref()
        .and_then(|install| Some((install, install.command.split_first()?)));
    let Some((install, (program, args))) = known else {
        return Err(InstallError::NoCommand(adapter.name.clone()));
    };
    if let Some(needed) = &install.node {
        check_node(&adapter.name, needed, node_version(common))?;
    }
    let line = install.command.join(" ");
    let failed = |reason: String| InstallError::Command {
        command: line.clone(),
        reason,
    };
    let program = common
        .find(program)
        .ok_or_else(|| failed(format!("there is no `{program}` in PATH")))?;
    // The caller's environment: what it says of proxies, registries and certificates is meant for this.
    let status = Command::new(program)
        .args(args)
        .env("PATH", common.get("PATH").unwrap_or_default())
        .env_remove("OPENACE_AGENT_TOKEN")
        .env_remove("OPENACE_REGISTRATION_TOKEN")
        .status();
    let status = status.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(status.to_string()));
    }
    common
        .find(&adapter.executable)
        .map(drop)
        .ok_or_else(|| InstallError::NotThere {
            command: line.clone(),
            executable: adapter.executable.clone(),
        })
}

fn node_version(common: &CliEnvironment) -> Option<String> {
    let node = common.find("node")?;
    let mut command = Command::new(node);
    command
        .arg("--version")
        .env_clear()
        .envs(common.with([]))
        .stdin(Stdio::null());
    detect::find(&String::from_utf8_lossy(&command.output().ok()?.stdout))
}

fn check_node(name: &str, needed: &str, found: Option<String>) -> Result<(), InstallError> {
    if found.as_deref().is_some_and(|found| numbers(found) >= numbers(needed)) {
        return Ok(());
    }
    Err(InstallError::Node {
        name: name.to_owned(),
        needed: needed.to_owned(),
        found,
    })
}

fn numbers(version: &str) -> Vec<u64> {
    version
        .split(['.', '-', '+'])
        .map_while(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_node_is_refused_before_npm_can_install_something_else() {
        let check = |found: Option<&str>| check_node("OpenClaw", "24.16", found.map(str::to_owned));
        for good in ["24.16", "24.16.0", "24.21.0", "26.1.0"] {
            check(Some(good)).unwrap();
        }
        for bad in [Some("20.20.2"), Some("24.9.0"), Some("9.99"), None] {
            check(bad).unwrap_err();
        }
        assert_eq!(
            check(Some("20.20.2")).unwrap_err().to_string(),
            "OpenClaw needs Node 24.16 or newer, this machine has 20.20.2: see https://nodejs.org/en/download"
        );
    }
}
