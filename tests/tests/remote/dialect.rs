//! A whole session of the older agent, message by message.

use ace_tests::{Ask, Door, Person, PythonAgent, Registered, Script, World, eventually};
use serde_json::{Value, json};

struct Story {
    world: World,
    agent: PythonAgent,
    session: String,
    start: Value,
}

impl Story {
    /// Alice has started a session on a machine with the older agent.
    async fn begins() -> Self {
        let world = World::start().await;
        let registered = Registered::by(&world.admin, &world.door, "build-1").await;
        let mut agent = PythonAgent::starts(registered).await;
        let assign = format!("/api/remote/machines/{}/assign", agent.machine());
        world
            .admin
            .post(&assign, json!({"user_id": world.alice.id, "permission": "user"}))
            .await
            .ok();
        let session = creates(&world.alice, agent.machine()).await;
        let start = agent.hears("start_session").await;
        agent.did(&start).await;
        agent.status(&session, "running").await;
        Self {
            world,
            agent,
            session,
            start,
        }
    }

    fn path(&self, rest: &str) -> String {
        format!("/api/remote/sessions/{}{rest}", self.session)
    }

    async fn session(&self) -> Value {
        self.world.alice.get(&self.path("")).await.ok()["session"].clone()
    }

    async fn acts(&self, act: &str) {
        self.world.alice.post(&self.path(act), json!({})).await.ok();
    }
}

async fn creates(person: &Person, machine: &str) -> String {
    let body = json!({"machine_id": machine, "project_path": "/home/user/my-project", "cli_tool": "claude-code", "model": "claude-sonnet-4-5"});
    let created = person.post("/api/remote/sessions", body).await.ok();
    created["session"]["session_id"].as_str().expect("an id").to_owned()
}

/// The CLI's own call.
async fn calls(door: &Door, token: &str) -> u16 {
    let body = json!({"model": "claude-sonnet-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]});
    door.call(&Ask::post("/api/remote/llm-proxy/v1/messages").bearer(token).json(&body))
        .await
        .status
}

#[tokio::test]
async fn a_whole_session() {
    let mut story = Story::begins().await;
    let session = story.session.clone();
    for (field, value) in [
        ("session_id", session.as_str()),
        ("cli_tool", "claude-code"),
        ("model", "claude-sonnet-4-5"),
    ] {
        assert_eq!(story.start[field], value, "{}", story.start);
    }
    assert!(story.start["cli_settings"].is_object(), "{}", story.start);
    assert_eq!(story.session().await["status"], "active");

    // A turn: the message goes down, the CLI calls the provider and prints.
    story
        .world
        .alice
        .post(&story.path("/chat"), json!({"content": "Fix it 🛠️"}))
        .await
        .ok();
    let message = story.agent.hears("send_message").await;
    assert_eq!(
        (&message["session_id"], &message["content"]),
        (&json!(session), &json!("Fix it 🛠️"))
    );
    story.agent.did(&message).await;
    story.world.provider.plays(Script::json(
        200,
        &json!({"usage": {"input_tokens": 11, "output_tokens": 7}}),
    ));
    let token = story.start["proxy_token"].as_str().expect("a proxy token").to_owned();
    assert_eq!(calls(&story.world.door, &token).await, 200);
    let lines: Vec<Value> = (0..50)
        .map(|number| json!({"type": "assistant", "number": number}))
        .collect();
    story.agent.prints(&session, &lines).await;
    let row = story.world.alice.request_log(1).await.remove(0);
    assert_eq!(
        (&row["session_id"], &row["input_tokens"]),
        (&json!(session), &json!(11)),
        "{row}"
    );
    let seen = eventually("the session's totals", async || {
        let seen = story.session().await;
        (seen["total_tokens"] == 18).then_some(seen)
    })
    .await;
    let printed: Vec<_> = seen["output"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|line| line["data"].clone())
        .collect();
    assert_eq!(
        printed,
        lines.iter().map(|line| json!(format!("{line}\n"))).collect::<Vec<_>>()
    );

    // What the agent counts is advice: it is taken once, and nothing is metered by it.
    let report = json!({"type": "usage_report", "report_id": "r-1", "session_id": session, "tokens": {"input": 5000, "output": 5000}, "requests": 9});
    assert_eq!(story.agent.says(report.clone()).await["duplicate"], false);
    assert_eq!(story.agent.says(report).await["duplicate"], true);
    assert_eq!(story.session().await["total_tokens"], 18);

    // A question, and its answer.
    let request = json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}});
    let question = json!({"type": "permission_request", "session_id": session,
        "control_request": {"type": "control_request", "request_id": "q-1", "request": request}});
    story.agent.says(question).await;
    let approvals = story.world.alice.get(&story.path("/approvals")).await.ok();
    assert_eq!(
        (
            &approvals["approvals"][0]["request_id"],
            &approvals["approvals"][0]["tool_name"]
        ),
        (&json!("q-1"), &json!("Bash"))
    );
    let answer = json!({"request_id": "q-1", "behavior": "allow"});
    story
        .world
        .alice
        .post(&story.path("/permission"), answer.clone())
        .await
        .ok();
    let response = story.agent.hears("permission_response").await;
    assert_eq!(
        (&response["request_id"], &response["behavior"], &response["tool_name"]),
        (&json!("q-1"), &json!("allow"), &json!("Bash"))
    );
    assert_eq!(
        story.world.alice.post(&story.path("/permission"), answer).await.status,
        409
    );

    // The turn is ended, once.
    story.acts("/abort").await;
    let abort = story.agent.hears("abort_request").await;
    assert_eq!(abort["session_id"], json!(session));
    story
        .agent
        .says(json!({"type": "request_state", "session_id": session, "state": "aborted", "reason": "user"}))
        .await;
    story.agent.hears_nothing().await;
    assert_eq!(story.session().await["status"], "active");

    // Pause and resume.
    story.acts("/pause").await;
    story.agent.hears("pause_session").await;
    story.agent.status(&session, "paused").await;
    assert_eq!(story.session().await["status"], "paused");
    assert_eq!(
        story
            .world
            .alice
            .post(&story.path("/chat"), json!({"content": "hello?"}))
            .await
            .status,
        409
    );
    story.acts("/resume").await;
    story.agent.hears("resume_session").await;
    story.agent.status(&session, "running").await;
    assert_eq!(story.session().await["status"], "active");

    // The end: its tokens are worth nothing any more.
    story.acts("/stop").await;
    story.agent.hears("stop_session").await;
    story.agent.status(&session, "stopped").await;
    assert_eq!(story.session().await["status"], "stopped");
    eventually("the token to be revoked", async || {
        (calls(&story.world.door, &token).await == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_is_rotated_without_locking_the_agent_out() {
    let mut story = Story::begins().await;
    let rotate = format!("/api/remote/machines/{}/token/rotate", story.agent.machine());
    story.world.admin.post(&rotate, json!({})).await.ok();
    let command = story.agent.hears("rotate_token").await;
    // The old one works until the new one is used.
    story
        .agent
        .says(json!({"type": "heartbeat", "status": "online", "active_sessions": 1}))
        .await;
    let old = story.agent.registered.token.clone();
    story.agent.registered.token = command["new_token"].as_str().expect("a token").to_owned();
    let ack = json!({"type": "token_rotation_ack", "rotation_id": command["rotation_id"], "success": true});
    story.agent.says(ack).await;
    let new = std::mem::replace(&mut story.agent.registered.token, old);
    story.agent.tries(json!({"type": "poll"})).await.expect(401);
    story.agent.registered.token = new;
    story.agent.says(json!({"type": "poll"})).await;
}

#[tokio::test]
async fn what_is_wrong_is_said_as_the_agent_knows_it() {
    let mut story = Story::begins().await;
    let said = async |message: Value| {
        let answer = story.agent.registered.message(&message).await;
        (
            answer.status,
            answer.json()["error"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let machine = story.agent.machine().to_owned();
    assert_eq!(
        said(json!({"machine_id": machine})).await,
        (400, "type is required".to_owned())
    );
    let bad = said(json!({"type": "poll", "machine_id": "build-1"})).await;
    assert_eq!(bad, (400, "machine_id must be a valid UUID string".to_owned()));
    let unknown = said(json!({"type": "dance", "machine_id": machine})).await;
    assert_eq!(unknown, (400, "Unknown message type: dance".to_owned()));
    // Another machine's agent sees and changes nothing of it.
    let other = PythonAgent::starts(Registered::by(&story.world.admin, &story.world.door, "build-2").await).await;
    let line = json!({"type": "session_output", "session_id": story.session, "data": "x\n", "stream": "stdout", "is_complete": false});
    other.tries(line).await.expect(403);
    let mut stolen = other.registered.clone();
    stolen.machine = machine;
    let forged = stolen
        .message(&json!({"type": "poll", "machine_id": stolen.machine}))
        .await;
    assert!([401, 403].contains(&forged.status), "{}", forged.status);
    assert_eq!(story.session().await["output"], json!([]));
    story.agent.hears_nothing().await;
}
