//! A remote machine with the real agent on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Door, PATIENCE, Program, World, program, uuid};

/// A machine whose agent runs. Everything ends when it is dropped.
pub struct Machine {
    pub id: String,
    pub agent: Program,
    path: String,
    // Last: its folder must outlive the program.
    home: TempDir,
}

impl Machine {
    /// Registers a machine that alice may use and starts its agent, with these folders before the usual `PATH`.
    ///
    /// # Panics
    /// When it does not come online.
    pub async fn start(world: &World, path: &[PathBuf]) -> Self {
        Self::prepare(world, &world.door, path, |_| {}).await
    }

    /// The same through another door, after its home was made ready.
    ///
    /// # Panics
    /// When it does not come online.
    pub async fn prepare(world: &World, door: &Door, path: &[PathBuf], ready: impl FnOnce(&Path)) -> Self {
        let home = TempDir::new().expect("a temporary folder");
        let dir = home.path().join(".open-ace-agent");
        std::fs::create_dir_all(home.path().join("project")).expect("a folder of ours");
        std::fs::create_dir(&dir).expect("a folder of ours");
        let said = world
            .admin
            .post("/api/remote/machines/register", json!({"tenant_id": 1}))
            .await
            .ok();
        let id = uuid();
        let config = json!({
            "server_url": format!("http://{}/", door.address), "machine_id": id, "machine_name": "build-1",
            "registration_token": said["registration_token"], "reconnect_base_delay": 0.1, "reconnect_max_delay": 1,
        });
        std::fs::write(dir.join("config.json"), config.to_string()).expect("a folder of ours");
        ready(&dir);
        let path = search_path(path);
        let mut machine = Self {
            agent: run(home.path(), &path),
            id,
            path,
            home,
        };
        machine.comes_online(world).await;
        let assign = format!("/api/remote/machines/{}/assign", machine.id);
        world.admin.post(&assign, json!({"user_id": world.alice.id})).await.ok();
        machine
    }

    async fn comes_online(&mut self, world: &World) {
        let path = format!("/api/remote/machines/{}", self.id);
        let begun = tokio::time::Instant::now();
        loop {
            let said = world.admin.get(&path).await;
            if said.body["machine"]["connected"] == true {
                return;
            }
            let is_late = begun.elapsed() > PATIENCE;
            assert!(
                !is_late && !self.agent.has_ended(),
                "the machine does not come online\n{}",
                self.agent.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The folder that sessions work in.
    pub fn project(&self) -> PathBuf {
        self.home.path().join("project")
    }

    /// Kills the agent and starts it again.
    pub async fn crash_and_restart(&mut self, world: &World) {
        self.agent.crash().await;
        self.agent = run(self.home.path(), &self.path);
        self.comes_online(world).await;
    }

    /// Asks the agent to end.
    pub fn stop(&self) {
        self.agent.signal(Signal::TERM);
    }

    /// Starts a session of Alice's, and gives its path in the API.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn session(&self, world: &World, cli: &str, more: Value) -> String {
        let mut body = json!({"machine_id": self.id, "project_path": self.project(), "cli_tool": cli});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let created = world.alice.post("/api/remote/sessions", body).await.ok();
        format!(
            "/api/remote/sessions/{}",
            created["session"]["session_id"].as_str().expect("an id")
        )
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "where programs are is a setting of the stories"
)]
fn search_path(first: &[PathBuf]) -> String {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let all = first.iter().cloned().chain(std::env::split_paths(&usual));
    std::env::join_paths(all)
        .expect("no colons")
        .into_string()
        .expect("text")
}

fn run(home: &Path, path: &str) -> Program {
    let mut command = program("ace-agent");
    command.arg("run").env("HOME", home).env("PATH", path);
    Program::open(command)
}
