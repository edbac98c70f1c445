//! Stands where the sessions' runner goes until that is merged: this build has none, and says so to every command.

use std::sync::Arc;

use ace_policies::wire::{Cli, Failure, FailureCode, FromAgent, ToAgent};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    uplink::{Up, Uplink},
};

/// Runs the sessions until the agent ends. `stop` asks for that: the sessions' processes are to be ended by the time it returns.
pub async fn run(mut uplink: Uplink, _config: Arc<Config>, stop: CancellationToken) {
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => return,
            message = uplink.down.recv() => message,
        };
        let command_id = match message {
            Some(ToAgent::Command { command_id, .. }) => command_id,
            Some(_) => continue,
            None => return,
        };
        let error = Failure {
            code: FailureCode::Unsupported,
            message: "this agent was built without sessions".to_owned(),
        };
        let done = FromAgent::Done {
            command_id,
            result: None,
            error: Some(error),
        };
        for message in [FromAgent::Ack { command_id }, done] {
            if uplink.out.send(Up::Say(message)).await.is_err() {
                return;
            }
        }
    }
}

/// The CLIs of this machine.
pub async fn clis(_config: &Config) -> Vec<Cli> {
    Vec::new()
}

/// Installs a CLI by its name.
pub fn install(tool: &str, _config: &Config) -> anyhow::Result<()> {
    anyhow::bail!("this agent was built without `{tool}` and all other CLIs")
}
