//! The one-line installer as the guide prints it, from the server to the agent that it starts, and away again.

use std::{process::ExitStatus, time::Duration};

use ace_tests::{Program, World, end_agent, eventually};
use serde_json::{Value, json};
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
        let (status, told) = self.tries(command).await;
        assert!(status.success(), "{command}\n{told}");
        told
    }

    async fn tries(&self, command: &str) -> (ExitStatus, String) {
        let mut bash = Command::new("bash");
        bash.args(["-o", "pipefail", "-c", command])
            .env("HOME", self.home.path())
            .env("OPENACE_SERVICE_MANAGER", "script")
            .current_dir(self.home.path());
        Program::run_within(bash, Duration::from_secs(120)).await
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        end_agent(&self.home.path().join("agent"));
    }
}

async fn registration_token(world: &World) -> String {
    let answer = world
        .admin
        .post("/api/remote/machines/register", json!({"tenant_id": 1}));
    let answer = answer.await.ok();
    answer["registration_token"].as_str().expect("a token").to_owned()
}

async fn comes_online(world: &World) -> Value {
    eventually("the machine to come online", async || {
        let machines = world.admin.get("/api/remote/machines").await.ok();
        machines["machines"]
            .as_array()?
            .iter()
            .find(|machine| machine["connected"] == true)
            .cloned()
    })
    .await
}

#[tokio::test]
async fn the_one_line_installer_works_to_its_end_and_nothing_is_left_of_it() {
    let world = World::start().await;
    let url = format!("http://{}", world.door.address);
    let bare = Bare::new();
    let script = format!("curl -fsSL {url}/api/remote/agent/install.sh | bash -s -- --server {url}");
    let token = registration_token(&world).await;
    let options = "--install-cli none --dir ~/agent";
    let told = bare
        .runs(&format!("{script} --token {token} --name build-1 {options}"))
        .await;
    assert!(told.contains("registered build-1"), "{told}");
    let machine = comes_online(&world).await;
    assert_eq!(machine["machine_name"], "build-1");
    let status = "until ~/agent/ace-agent status --dir ~/agent; do sleep 0.1; done";
    let pid = "~/agent/ace-agent status --dir ~/agent --json | grep -o '\"pid\":[0-9]*'";
    assert!(bare.runs(status).await.contains("WebSocket"));
    let first = bare.runs(pid).await;

    // A CLI is installed with what this shell knows of proxies and certificates, and without our token.
    let row = r#"{ echo 'id = "my-tool"'; echo 'executable = "sh"'; echo 'driver = "one_shot"';
        echo '[install]'; echo 'command = ["sh", "-c", "env > ~/seen"]'; } > ~/agent/adapters.d/my-tool.toml"#;
    let install =
        "OPENACE_AGENT_TOKEN=acea_x NODE_EXTRA_CA_CERTS=/ca.pem ~/agent/ace-agent install-cli my-tool --dir ~/agent";
    bare.runs(&format!("mkdir -p ~/agent/adapters.d; {row}; {install}"))
        .await;
    let seen = bare.runs("cat ~/seen").await;
    assert!(
        seen.contains("NODE_EXTRA_CA_CERTS=/ca.pem") && !seen.contains("acea_"),
        "{seen}"
    );

    // An upgrade in place: the machine stays who it is.
    bare.runs(&format!("{script} {options}")).await;
    bare.runs(status).await;
    let second = bare.runs(pid).await;
    assert_ne!(first, second, "the new program runs");
    let config = std::fs::read_to_string(bare.home.path().join("agent/config.json")).expect("a file");
    assert!(
        !config.contains("acer_"),
        "the registration token is forgotten: {config}"
    );
    let id = std::fs::read_to_string(bare.home.path().join("agent/machine_id")).expect("a file");
    assert_eq!(id.trim(), machine["machine_id"]);

    // A token that is wrong changes nothing, and the agent goes on; a new one registers the same machine again.
    let (_status, told) = bare.tries(&format!("{script} --token acer_wrong {options}")).await;
    assert!(told.contains("was not registered"), "{told}");
    bare.runs(status).await;
    let token = registration_token(&world).await;
    bare.runs(&format!("{script} --token {token} {options}")).await;
    bare.runs(status).await;
    assert_eq!(comes_online(&world).await["machine_id"], machine["machine_id"]);

    bare.runs(&format!(
        "curl -fsSL {url}/api/remote/agent/uninstall.sh | bash -s -- --dir ~/agent"
    ))
    .await;
    assert!(!bare.home.path().join("agent").exists());
    eventually("the machine to go", async || {
        let said = world
            .admin
            .get(&format!("/api/remote/machines/{}", machine["machine_id"].as_str()?))
            .await
            .ok();
        (said["machine"]["connected"] == false).then_some(())
    })
    .await;
}
