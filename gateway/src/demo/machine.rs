//! The demo's machine: this very program once more, as the agent, with a CLI that needs no key and no installation.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ace_control_api::App;
use ace_policies::{MachineId, UserId};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::failure::Failure;

/// How a session asks for the CLI.
pub const CLI: &str = "demo-cli";

/// How long the agent has to end its sessions and itself.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long it has to connect, and how often that is looked at.
const CONNECTING: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// A running agent. It ends with this process, whatever ends that.
pub struct Machine {
    guard: Child,
    /// The machine's id.
    pub id: MachineId,
    /// Where its sessions work.
    pub project: PathBuf,
}

impl Machine {
    /// Registers the machine, starts its agent and waits, not for ever, until it is connected.
    pub async fn start(app: &App, url: &str, state: &Path) -> Result<Self, Failure> {
        let dir = state.join("agent");
        let (project, id) = (dir.join("project"), MachineId(uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&project)?;
        let token = app.issue_registration_token(UserId(1)).await;
        let token = token.map_err(|error| Failure::Control(error.to_string()))?;
        let program = std::env::current_exe()?;
        write_cli(&dir, &program)?;
        let config = json!({
            "server_url": url, "machine_id": id, "machine_name": "demo machine", "registration_token": token.expose(),
            "work_dir": project, "log_level": "WARNING",
        });
        std::fs::write(dir.join("config.json"), config.to_string())?;
        let mut command = Command::new(&program);
        // The guard ends everything when its standard input closes, which is when this process is gone.
        command.arg0("ace-agent").args(["guard", "--"]).arg(&program);
        command.args(["agent", "run", "--dir"]).arg(&dir);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let machine = Self {
            guard: command.spawn()?,
            id,
            project,
        };
        machine.connects(app).await?;
        Ok(machine)
    }

    async fn connects(&self, app: &App) -> Result<(), Failure> {
        for _ in 0..CONNECTING.as_millis() / PAUSE.as_millis() {
            let connected = app.is_connected(self.id).await;
            if connected.map_err(|error| Failure::Control(error.to_string()))? {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        tracing::error!("the demo's machine has not come online yet");
        Ok(())
    }

    /// Ends the agent with all that it started.
    pub async fn stop(mut self) {
        drop(self.guard.stdin.take());
        let _killed_then = tokio::time::timeout(FAREWELL, self.guard.wait()).await;
        let _gone_anyway = self.guard.kill().await;
    }
}

/// Adds the CLI to those that the agent knows.
fn write_cli(dir: &Path, program: &Path) -> Result<(), Failure> {
    let row = format!(
        "id = {CLI:?}\nname = \"Demo CLI\"\nexecutable = {program:?}\ndriver = \"stream_json\"\n\
         features = [\"resume\", \"model\", \"abort\"]\n\
         [args]\nstart = [{CLI:?}]\nnew = [\"--session-id\", \"{{session_id}}\"]\nresume = [\"--resume\", \"{{resume_id}}\"]\n\
         model = [\"--model\", \"{{model}}\"]\n\
         [env]\nANTHROPIC_BASE_URL = \"{{url}}\"\nANTHROPIC_API_KEY = \"{{key}}\"\n"
    );
    std::fs::create_dir_all(dir.join("adapters.d"))?;
    std::fs::write(dir.join("adapters.d/demo.toml"), row)?;
    Ok(())
}
