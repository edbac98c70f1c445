//! The guide to installing the agent by hand: its commands as they are written, in their order.

use ace_tests::{Person, Shell, World, eventually, program};
use serde_json::{Value, json};

const GUIDE: &str = include_str!("../../../docs/agent-manual-install.md");

/// The fenced blocks of the guide.
fn blocks() -> [&'static str; 6] {
    let found: Vec<_> = GUIDE.split("```").skip(1).step_by(2).collect();
    let found: Vec<_> = found
        .iter()
        .map(|block| block.strip_prefix("bash\n").expect("a command"))
        .collect();
    found.try_into().expect("six blocks")
}

/// A machine of one's own behind `ssh` and `scp`, which has no service manager.
async fn machine(world: &World) -> Shell {
    let mut shell = Shell::default();
    shell.replace("https://ace.example.com", format!("http://{}", world.door.address));
    shell.set("OPENACE_SERVICE_MANAGER", "script");
    shell.stands_for("ssh", r#"exec bash -c "$2""#);
    shell.stands_for("scp", r#"exec cp "$1" "$HOME/${2#*:~/}""#);
    let gateway = program("ace-gateway");
    shell
        .prints(&format!("cp {} ace-agent", gateway.as_std().get_program().display()))
        .await;
    shell.replace("cookies.txt", format!("'{}'", world.admin.cookie()));
    shell
}

async fn token(shell: &Shell, generate: &str) -> String {
    let answer = shell.answers(generate).await;
    answer["registration_token"].as_str().expect("a token").to_owned()
}

/// Waits until a machine of this name is connected.
async fn comes_online(admin: &Person, name: &str) -> Value {
    eventually("the machine to come online", async || {
        let answer = admin.get("/api/remote/machines").await.ok();
        let machines = answer["machines"].as_array()?;
        machines
            .iter()
            .find(|machine| machine["connected"] == true && machine["machine_name"] == name)
            .cloned()
    })
    .await
}

async fn goes(shell: &Shell, admin: &Person, machine: &Value) {
    shell.prints("ace-agent uninstall").await;
    let left = shell.prints("ls -A").await;
    assert!(!left.contains("open-ace-agent"), "{left}");
    eventually("the machine to go", async || {
        let id = machine["machine_id"].as_str()?;
        let said = admin.get(&format!("/api/remote/machines/{id}")).await.ok();
        (said["machine"]["connected"] == false).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_guide_works_as_it_is_written() {
    let world = World::start().await;
    let admin = &world.admin;
    let [copy, generate, register, settings, by_curl, service] = blocks();
    let mut shell = machine(&world).await;
    assert!(shell.prints(copy).await.contains("ace-agent "));

    // In one step.
    let token_of_one = token(&shell, generate).await;
    let told = shell.prints(&format!("TOKEN={token_of_one}\n{register}")).await;
    assert!(told.contains("registered My Server"), "{told}");
    let told = shell.prints(service).await;
    assert!(told.contains("start-agent.sh"), "{told}");
    let machine = comes_online(admin, "My Server").await;
    let told = shell.prints("until ace-agent status; do sleep 0.1; done").await;
    assert!(told.contains("WebSocket"), "{told}");
    goes(&shell, admin, &machine).await;

    // With a file.
    shell.replace("<from admin>", token(&shell, generate).await);
    shell.prints(settings).await;
    shell.prints(service).await;
    let machine = comes_online(admin, "My Server").await;
    let kept = shell.prints("cat ~/.open-ace-agent/config.json").await;
    assert!(!kept.contains("acer_"), "the registration token is forgotten: {kept}");
    goes(&shell, admin, &machine).await;

    // With curl alone.
    let token_of_three = token(&shell, generate).await;
    let answer = shell.answers(&format!("TOKEN={token_of_three}\n{by_curl}")).await;
    let registered = &answer["machine"];
    let settings = json!({
        "server_url": "https://ace.example.com",
        "machine_id": registered["machine_id"],
        "machine_name": "by curl",
        "agent_token": registered["agent_token"],
    });
    shell
        .prints(&format!(
            "umask 077; mkdir -p ~/.open-ace-agent; echo '{settings}' > ~/.open-ace-agent/config.json"
        ))
        .await;
    shell.prints(service).await;
    let connected = eventually("the machine to come online", async || {
        let id = registered["machine_id"].as_str()?;
        let said = admin.get(&format!("/api/remote/machines/{id}")).await.ok();
        (said["machine"]["connected"] == true).then(|| said["machine"].clone())
    })
    .await;
    goes(&shell, admin, &connected).await;
}
