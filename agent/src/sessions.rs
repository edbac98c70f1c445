//! From the agent's settings to what its sessions and their CLIs need.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use ace_policies::{MachineId, wire::Cli};
use anyhow::anyhow;
use tokio_util::sync::CancellationToken;

use crate::{
    adapter::{AdapterError, Adapters, detect, install},
    config::Config,
    daemon::World,
    runner,
    supervisor::Limits,
    uplink::Uplink,
};

/// Rows for CLIs that a user adds, in the agent's directory.
const ADAPTERS: &str = "adapters.d";
/// For a CLI to tell its version.
const VERSION_PATIENCE: Duration = Duration::from_secs(20);

/// What this machine can run, and with what.
#[derive(Clone)]
pub struct Sessions {
    config: Arc<Config>,
    adapters: Adapters,
    /// Guards the CLIs.
    executable: PathBuf,
}

/// The sessions cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error("the agent cannot find its own executable: {0}")]
    Executable(#[source] io::Error),
}

impl Sessions {
    pub fn new(config: Arc<Config>) -> Result<Self, SessionsError> {
        let adapters = Adapters::load(&config.dir.join(ADAPTERS), &config.generic_clis)?;
        let executable = std::env::current_exe().map_err(SessionsError::Executable)?;
        Ok(Self {
            config,
            adapters,
            executable,
        })
    }

    /// The CLI that was asked for at installation.
    pub fn cli_tool(&self) -> String {
        self.config.cli_tool.clone()
    }

    /// The CLIs of this machine, at once and without their versions.
    pub fn installed(&self) -> Vec<Cli> {
        detect::installed(&self.adapters, &self.config.cli_environment)
    }

    /// The CLIs of this machine. Each is started to tell its version, which takes its time.
    pub async fn clis(&self) -> Vec<Cli> {
        detect::clis(
            &self.adapters,
            &self.config.cli_environment,
            &self.executable,
            VERSION_PATIENCE,
        )
        .await
    }

    /// Installs a CLI with its own command.
    pub fn install(&self, tool: &str) -> anyhow::Result<()> {
        let known = || {
            let ids: Vec<_> = self.adapters.rows().map(|row| row.id.as_str()).collect();
            ids.join(", ")
        };
        let adapter = self.adapters.find(tool);
        let adapter = adapter.ok_or_else(|| anyhow!("no CLI is called `{tool}`; this agent knows {}", known()))?;
        Ok(install::install(&adapter, &self.config.cli_environment)?)
    }

    /// Runs the sessions until `stop`. Their processes have ended when it returns.
    pub async fn run(self, machine: MachineId, world: World, uplink: Uplink, stop: CancellationToken) {
        let config = runner::Config {
            executable: self.executable,
            dir: self.config.dir.clone(),
            adapters: self.adapters,
            environment: self.config.cli_environment.clone(),
            roots: self.config.project_roots.clone(),
            limits: Limits {
                max_sessions: self.config.max_sessions as usize,
                ..Limits::default()
            },
            gateway: self.config.server.clone(),
            machine: Some(machine),
            new_key: world.new_key,
            clock: world.clock,
        };
        runner::run(config, uplink, stop).await;
    }
}
