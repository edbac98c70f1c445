//! The one-line installer as the guide prints it, from the server to the agent that it starts, and away again.

use std::time::Duration;

use ace_tests::{PATIENCE, Program, World, eventually};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

/// A new user's machine without a service manager.
struct Bare {
    home: TempDir,
}

impl Bare {
    fn new() -> Self {
        Self {
            home: TempDir::new().expect("a temporary folder"),
        }
    }

    async fn runs(&self, command: &str) -> String {
        let mut bash = Command::new("bash");
        bash.args(["-o", "pipefail", "-c", command])
            .env("HOME", self.home.path())
            .current_dir(self.home.path());
        let (status, told) = Program::run_within(bash, Duration::from_secs(120)).await;
        assert!(status.success(), "{command}\n{told}");
        told
    }
}

#[tokio::test]
async fn the_one_line_installer_works_to_its_end_and_nothing_is_left_of_it() {
    let world = World::start().await;
    let url = format!("http://{}", world.door.address);
    let bare = Bare::new();
    let token = world
        .admin
        .post("/api/remote/machines/register", json!({"tenant_id": 1}))
        .await
        .ok();
    let token = token["registration_token"].as_str().expect("a token");
    let script = format!("curl -fsSL {url}/api/remote/agent/install.sh | bash -s -- --server {url}");
    let told = bare
        .runs(&format!(
            "{script} --token {token} --name build-1 --install-cli none --no-service --dir ~/agent"
        ))
        .await;
    assert!(told.contains("registered build-1"), "{told}");
    bare.runs("nohup ~/agent/ace-agent run --dir ~/agent >/dev/null 2>&1 &")
        .await;
    let machine = eventually("the machine to come online", async || {
        let machines = world.admin.get("/api/remote/machines").await.ok();
        machines["machines"]
            .as_array()?
            .iter()
            .find(|machine| machine["connected"] == true)
            .cloned()
    })
    .await;
    assert_eq!(machine["machine_name"], "build-1");
    let status = "until ~/agent/ace-agent status --dir ~/agent; do sleep 0.1; done";
    assert!(bare.runs(status).await.contains("WebSocket"));

    // An upgrade in place: the machine stays who it is.
    bare.runs(&format!("{script} --install-cli none --no-service --dir ~/agent"))
        .await;
    let config = std::fs::read_to_string(bare.home.path().join("agent/config.json")).expect("a file");
    assert!(
        !config.contains("acer_"),
        "the registration token is forgotten: {config}"
    );
    let id = std::fs::read_to_string(bare.home.path().join("agent/machine_id")).expect("a file");
    assert_eq!(id.trim(), machine["machine_id"]);

    bare.runs(&format!(
        "curl -fsSL {url}/api/remote/agent/uninstall.sh | bash -s -- --dir ~/agent"
    ))
    .await;
    assert!(!bare.home.path().join("agent").exists());
    let begun = std::time::Instant::now();
    eventually("the machine to go", async || {
        let said = world
            .admin
            .get(&format!("/api/remote/machines/{}", machine["machine_id"].as_str()?))
            .await
            .ok();
        (said["machine"]["connected"] == false).then_some(())
    })
    .await;
    assert!(begun.elapsed() < PATIENCE);
}
