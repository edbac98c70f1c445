//! The guide's command lines, in its order and as it prints them: only hosts, tokens and ids are filled in.

use ace_tests::{Door, Program, PythonAgent, Registered, Shell, program};
use serde_json::{Value, json};
use tempfile::TempDir;

const LOGIN: &str = r#"curl -c cookies.txt -X POST http://<server>:5000/api/auth/login \
    -H "Content-Type: application/json" \
    -d '{"username":"admin","password":"admin123"}'"#;

const STORE_KEY: &str = r#"curl -b cookies.txt -X POST http://<server>:5000/api/remote/api-keys \
    -H "Content-Type: application/json" \
    -d '{
        "provider": "openai",
        "key_name": "production",
        "api_key": "sk-xxx...",
        "base_url": "https://api.openai.com/v1"
    }'"#;

const GENERATE_TOKEN: &str = r#"curl -b cookies.txt -X POST http://<server>:5000/api/remote/machines/register \
    -H "Content-Type: application/json" \
    -d '{"tenant_id": 1}'"#;

const REGISTER_BY_HAND: &str = r#"SERVER_URL=http://<server>:5000
    MACHINE_ID=$(python3 -c "import uuid; print(uuid.uuid4())")
    curl -X POST "${SERVER_URL}/api/remote/agent/register" \
    -H "Content-Type: application/json" \
    -d "{
        \"registration_token\": \"<token>\",
        \"machine_id\": \"${MACHINE_ID}\",
        \"machine_name\": \"$(hostname)\",
        \"hostname\": \"$(hostname)\",
        \"os_type\": \"$(uname -s | tr '[:upper:]' '[:lower:]')\",
        \"os_version\": \"$(uname -r)\",
        \"capabilities\": {},
        \"agent_version\": \"1.0.0\"
    }""#;

const LIST_MACHINES: &str = "curl -b cookies.txt http://<server>:5000/api/remote/machines";

const ASSIGN: &str = r#"curl -b cookies.txt -X POST \
    http://<server>:5000/api/remote/machines/<machine_id>/assign \
    -H "Content-Type: application/json" \
    -d '{"user_id": <user_id>, "permission": "user"}'"#;

const LOGIN_AS_MACHINE_ADMIN: &str = r#"curl -c cookies.txt -X POST http://<server>:5000/api/auth/login \
    -H "Content-Type: application/json" \
    -d '{"username":"<username>","password":"<password>"}'"#;

const LIST_USERS: &str = "curl -b cookies.txt http://<server>:5000/api/remote/machines/<machine_id>/users";

const ASSIGN_AS_ADMIN: &str = r#"curl -b cookies.txt -X POST \
    http://<server>:5000/api/remote/machines/<machine_id>/assign \
    -H "Content-Type: application/json" \
    -d '{"user_id": <user_id>, "permission": "admin"}'"#;

const REVOKE: &str = r#"curl -b cookies.txt -X DELETE \
    http://<server>:5000/api/remote/machines/<machine_id>/assign/<user_id>"#;

const AVAILABLE: &str = "curl -b cookies.txt http://localhost:5000/api/remote/machines/available";

const CREATE_SESSION: &str = r#"curl -b cookies.txt -X POST http://localhost:5000/api/remote/sessions \
    -H "Content-Type: application/json" \
    -d '{
        "machine_id": "<machine_id>",
        "project_path": "/home/user/my-project",
        "cli_tool": "qwen-code-cli",
        "model": "qwen3-coder-plus",
        "title": "Fix login bug"
    }'"#;

const CHAT: &str = r#"curl -b cookies.txt -X POST \
    http://localhost:5000/api/remote/sessions/<session_id>/chat \
    -H "Content-Type: application/json" \
    -d '{"content": "Please review main.py for me"}'"#;

const VIEW_SESSION: &str = r"curl -b cookies.txt \
    http://localhost:5000/api/remote/sessions/<session_id>";

const PAUSE: &str = r"curl -b cookies.txt -X POST \
    http://localhost:5000/api/remote/sessions/<session_id>/pause";

const RESUME: &str = r"curl -b cookies.txt -X POST \
    http://localhost:5000/api/remote/sessions/<session_id>/resume";

const STOP: &str = r"curl -b cookies.txt -X POST \
    http://localhost:5000/api/remote/sessions/<session_id>/stop";

const UNREGISTER: &str = r"curl -b cookies.txt -X DELETE \
    http://localhost:5000/api/remote/machines/<machine_id>";

/// The demo, whose admin is the guide's, and a terminal in front of it.
async fn terminal() -> (Program, TempDir, Door, Shell) {
    let home = TempDir::new().expect("a temporary folder");
    let mut command = program("ace-gateway");
    command.args(["demo", "--port", "0", "--json"]).env("HOME", home.path());
    let (demo, ready) = Program::start(command).await;
    let address = ready["url"]
        .as_str()
        .and_then(|url| url.strip_prefix("http://"))
        .expect("a URL");
    let mut shell = Shell::default();
    shell.replace("<server>:5000", address);
    shell.replace("localhost:5000", address);
    let door = Door::plain(address.parse().expect("an address"));
    (demo, home, door, shell)
}

/// Runs the agent that was registered by hand.
async fn agent(door: &Door, registered: &Value) -> PythonAgent {
    let text = |field: &str| registered["machine"][field].as_str().expect("a text").to_owned();
    PythonAgent::starts(Registered {
        door: door.clone(),
        machine: text("machine_id"),
        token: text("agent_token"),
    })
    .await
}

#[tokio::test]
async fn every_command_of_the_guide_works_as_printed() {
    let (_demo, _home, door, mut shell) = terminal().await;

    // Deployment check-list.
    let script = shell
        .prints("curl -s http://localhost:5000/api/remote/agent/install.sh | head -5")
        .await;
    assert!(script.starts_with("#!"), "{script}");
    let admin = shell.answers(LOGIN).await;
    assert_eq!(admin["user"]["role"], "admin", "{admin}");
    let stored = shell.answers(STORE_KEY).await;
    assert_eq!(stored["key"]["key_name"], "production", "{stored}");
    let generated = shell.answers(GENERATE_TOKEN).await;
    shell.replace("<token>", generated["registration_token"].as_str().expect("a token"));

    // Manual installation, in place of the installer.
    let registered = shell.answers(REGISTER_BY_HAND).await;
    let mut agent = agent(&door, &registered).await;
    shell.replace("<machine_id>", agent.machine());
    shell.fails(REGISTER_BY_HAND).await;

    let machines = shell.answers(LIST_MACHINES).await;
    let machine = machines["machines"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|machine| machine["machine_id"] == agent.machine());
    let machine = machine.unwrap_or_else(|| panic!("{machines}"));
    assert_eq!(
        (&machine["status"], &machine["connected"]),
        (&json!("online"), &json!(true)),
        "{machine}"
    );

    // Users: as the user management page does.
    for name in ["alice", "bob"] {
        let body = json!({"username": name, "password": "correct horse battery"});
        let create = format!(
            "curl -b cookies.txt http://<server>:5000/api/users -H 'Content-Type: application/json' -d '{body}'"
        );
        let user = shell.answers(&create).await;
        shell.replace(&format!("<{name}>"), &user["user"]["id"]);
    }
    shell.answers(&ASSIGN_AS_ADMIN.replace("<user_id>", "<alice>")).await;

    // Alice is the machine's admin now.
    shell.replace("<username>", "alice");
    shell.replace("<password>", "correct horse battery");
    shell.answers(LOGIN_AS_MACHINE_ADMIN).await;
    let mine = shell.answers(LIST_MACHINES).await;
    assert_eq!(mine["machines"][0]["current_user_permission"], "admin", "{mine}");
    shell.answers(&ASSIGN_AS_ADMIN.replace("<user_id>", "<bob>")).await;
    let users = shell.answers(LIST_USERS).await;
    let bob = users["users"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|user| user["username"] == "bob");
    assert_eq!(bob.unwrap_or_else(|| panic!("{users}"))["permission"], "user");
    shell.answers(&REVOKE.replace("<user_id>", "<bob>")).await;
    let refusal = shell.fails(&REVOKE.replace("<user_id>", "1")).await;
    assert!(refusal.contains("machine_admin_protected"), "{refusal}");
    shell.answers(&ASSIGN.replace("<user_id>", "<bob>")).await;

    // Bob uses it.
    shell.replace("<username>", "bob");
    shell.answers(LOGIN_AS_MACHINE_ADMIN).await;
    let available = shell.answers(AVAILABLE).await;
    assert_eq!(available["machines"][0]["machine_id"], agent.machine(), "{available}");
    let created = shell.answers(CREATE_SESSION).await;
    let session = created["session"]["session_id"]
        .as_str()
        .unwrap_or_else(|| panic!("{created}"))
        .to_owned();
    shell.replace("<session_id>", &session);
    let start = agent.hears("start_session").await;
    assert_eq!(start["project_path"], "/home/user/my-project", "{start}");
    agent.did(&start).await;
    agent.status(&session, "running").await;
    shell.answers(CHAT).await;
    let message = agent.hears("send_message").await;
    assert_eq!(message["content"], "Please review main.py for me");
    agent.did(&message).await;
    let (thinking, assistant) = (json!({"type": "thinking"}), json!({"type": "assistant"}));
    agent.prints(&session, &[thinking.clone(), assistant]).await;
    let view = shell.answers(VIEW_SESSION).await["session"].clone();
    assert_eq!(
        (&view["status"], &view["message_count"], &view["model"]),
        (&json!("active"), &json!(1), &json!("qwen3-coder-plus"))
    );
    assert_eq!(view["output"][0]["data"], format!("{thinking}\n"), "{view}");
    assert_eq!(
        (&view["output"][1]["stream"], view["output"].as_array().map(Vec::len)),
        (&json!("stdout"), Some(2))
    );
    shell.answers(PAUSE).await;
    agent.hears("pause_session").await;
    assert_eq!(shell.answers(VIEW_SESSION).await["session"]["status"], "paused");
    shell.answers(RESUME).await;
    agent.hears("resume_session").await;
    assert_eq!(shell.answers(VIEW_SESSION).await["session"]["status"], "active");

    // The machine's admin looks at it, and ends it.
    shell.replace("<username>", "alice");
    shell.answers(LOGIN_AS_MACHINE_ADMIN).await;
    assert_eq!(shell.answers(VIEW_SESSION).await["session"]["owner"], "bob");
    shell.answers(STOP).await;
    agent.hears("stop_session").await;
    assert_eq!(shell.answers(VIEW_SESSION).await["session"]["status"], "stopped");
    let refusal = shell.fails(UNREGISTER).await;
    assert!(refusal.contains("system_admin_only"), "{refusal}");
    shell.answers(LOGIN).await;
    shell.answers(UNREGISTER).await;
    agent.tries(json!({"type": "poll"})).await.expect(401);
}
