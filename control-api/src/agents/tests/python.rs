use ace_policies::session::State;
use ace_policies::token::Keyring;

use super::*;
use crate::testing::{Answer, NOON, worlds};

const PATH: &str = "/api/remote/agent/message";

/// The older agent.
struct Python {
    client: Client,
    machine: MachineId,
}

impl Python {
    fn of(world: &World, machine: &Machine) -> Self {
        Self {
            client: client(world, machine),
            machine: machine.id,
        }
    }

    async fn say(&self, kind: &str, mut fields: Value) -> Answer {
        fields["type"] = json!(kind);
        fields["machine_id"] = json!(self.machine);
        self.client.post(PATH, fields).await
    }

    /// The commands of the next poll.
    async fn poll(&self) -> Vec<Value> {
        let answer = self.say("poll", json!({})).await.ok().json;
        assert_eq!(answer["type"], "poll_ack");
        answer["pending_commands"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn trap_36_the_older_agent_proves_itself_with_every_message() {
    for world in worlds().await {
        let (mine, other) = (machine(&world, "mine").await, machine(&world, "other").await);
        let agent = client(&world, &mine);
        let says = async |body: Value| agent.post(PATH, body).await;
        for kind in ["register", "heartbeat", "poll", "session_output"] {
            let nobody = world
                .nobody()
                .post(PATH, json!({ "type": kind, "machine_id": mine.id }))
                .await;
            nobody.refused(401, "invalid_agent_token");
            says(json!({ "type": kind, "machine_id": other.id }))
                .await
                .refused(403, "wrong_machine");
        }
        for (body, status, error) in [
            (json!({ "machine_id": mine.id }), 400, "type is required"),
            (json!({ "type": "", "machine_id": mine.id }), 400, "type is required"),
            (json!({ "type": "poll" }), 400, "machine_id is required"),
            (
                json!({ "type": "poll", "machine_id": "x" }),
                400,
                "machine_id must be a valid UUID string",
            ),
            (
                json!({ "type": "poll", "machine_id": 7 }),
                400,
                "machine_id must be a valid UUID string",
            ),
            (
                json!({ "type": "poll", "machine_id": chance::id() }),
                404,
                "Unknown machine_id",
            ),
            (
                json!({ "type": "song", "machine_id": mine.id }),
                400,
                "Unknown message type: song",
            ),
        ] {
            let answer = says(body).await;
            assert_eq!(
                (answer.status.as_u16(), answer.json["error"].as_str()),
                (status, Some(error))
            );
        }
    }
}

#[tokio::test]
async fn the_older_agent_runs_a_session() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Starting).await;
        let agent = Python::of(&world, &mine);
        let details = json!({ "claude-code": { "installed": true } });
        let capabilities = json!({ "cpu_cores": 2, "memory_mb": 2048.0, "cli_details": details });
        let fields = json!({ "capabilities": capabilities, "ip_address": "10.0.0.9" });
        let registered = agent.say("register", fields).await.ok().json;
        assert_eq!(
            registered,
            json!({ "success": true, "type": "register_ack", "pending_commands": [] })
        );
        let begun = push(&world.app, &mine, Some(live), &start(live, 1)).await;
        let said = push(&world.app, &mine, Some(live), &message(live, "hi")).await;
        let ended = push(&world.app, &mine, Some(live), &abort(live)).await;
        let items = agent.poll().await;
        assert_eq!(items.len(), 3);
        let token = items[0]["proxy_token"].as_str().unwrap();
        let keys = Keyring::new(vec![world.app.signing_key().await.unwrap()]);
        let claims = keys.verify(token, NOON / 1000).unwrap();
        assert_eq!(
            (claims.session, claims.exp),
            (Some(live), NOON / 1000 + 604_800),
            "as long as the session"
        );
        assert_eq!(
            items[0],
            json!({ "type": "command", "command": "start_session", "command_id": begun, "session_id": live,
                    "project_path": "/p", "cli_tool": "claude-code", "proxy_token": token, "cli_settings": {} })
        );
        let item = json!({ "type": "command", "command": "send_message", "command_id": said, "session_id": live, "content": "hi" });
        assert_eq!(items[1], item);
        let item = json!({ "type": "command", "command": "abort_request", "command_id": ended, "session_id": live, "reason": "user" });
        assert_eq!(items[2], item);
        assert_eq!(state(&world, ended).await, "done", "it is not acknowledged");
        agent
            .say(
                "session_status",
                json!({ "session_id": live, "status": "running", "pid": 7 }),
            )
            .await
            .ok();
        assert_eq!(of_session::<String>(&world, live, "status").await, "active");
        for id in [begun, said] {
            let fields = json!({ "request_id": id, "result": { "success": true, "pid": 7 } });
            assert_eq!(
                agent.say("command_response", fields).await.ok().json,
                json!({ "success": true })
            );
            assert_eq!(state(&world, id).await, "done");
        }
        for line in ["{\"a\":1}\n", "", "x\u{0}y"] {
            let fields = json!({ "session_id": live, "data": line, "stream": "stdout", "is_complete": false });
            agent.say("session_output", fields).await.ok();
        }
        assert_eq!(of_session::<i64>(&world, live, "last_seq").await, 2);
        let request = json!({ "subtype": "can_use_tool", "tool_name": "Bash", "input": { "command": "ls" } });
        let asked = json!({ "session_id": live, "control_request": { "type": "control_request", "request_id": "q", "request": request } });
        let quiet = agent.say("permission_request", asked).await.ok().json;
        assert_eq!(quiet, json!({ "success": true, "pending_commands": [] }));
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM session_approvals WHERE tool_name = 'Bash' AND run = 1")
                .await,
            1
        );
        agent
            .say(
                "request_state",
                json!({ "session_id": live, "state": "aborted", "reason": "user" }),
            )
            .await
            .ok();
        agent
            .say("request_state", json!({ "session_id": live, "state": "abort_failed" }))
            .await
            .ok();
        assert_eq!(of_session::<i64>(&world, live, "last_seq").await, 3, "people are told");
        agent
            .say("session_status", json!({ "session_id": live, "status": "error" }))
            .await
            .ok();
        assert_eq!(of_session::<String>(&world, live, "status").await, "error");
        assert_eq!(of_session::<i64>(&world, live, "token_generation").await, 1);
        let kept =
            "SELECT COUNT(*) FROM remote_machines WHERE dialect = 'python' AND capabilities LIKE '%\"memory_gb\":2.0%'";
        assert_eq!(world.number(kept).await, 1);
    }
}

#[tokio::test]
async fn trap_38_the_older_agent_gets_again_what_it_did_not_acknowledge() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let agent = Python::of(&world, &mine);
        agent.say("register", json!({})).await.ok();
        push(&world.app, &mine, Some(live), &message(live, "hi")).await;
        push(&world.app, &mine, Some(live), &abort(live)).await;
        assert_eq!(agent.poll().await.len(), 2);
        assert_eq!(agent.poll().await.len(), 0);
        world.clock.advance(Duration::from_secs(31));
        let again = agent.poll().await;
        assert_eq!(
            (again.len(), &again[0]["command"]),
            (1, &json!("send_message")),
            "no abort is replayed"
        );
        let registered = agent.say("register", json!({})).await.ok().json;
        let pending = registered["pending_commands"].as_array().unwrap();
        assert_eq!(
            (pending.len(), &pending[0]["content"]),
            (1, &json!("hi")),
            "its process is a new one"
        );
    }
}

#[tokio::test]
async fn what_fails_before_the_answer_is_not_taken_for_done() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let (live, ended) = (
            session(&world, &mine, State::Starting).await,
            session(&world, &mine, State::Stopped).await,
        );
        let agent = Python::of(&world, &mine);
        agent.say("register", json!({})).await.ok();
        let stop = push(
            &world.app,
            &mine,
            Some(ended),
            &Command::StopSession { session_id: ended },
        )
        .await;
        push(&world.app, &mine, Some(live), &start(live, 1)).await;
        // No token can be made meanwhile.
        world.run("ALTER TABLE signing_keys RENAME TO hidden", &[]).await;
        agent.say("poll", json!({})).await.refused(500, "internal");
        world.run("ALTER TABLE hidden RENAME TO signing_keys", &[]).await;
        assert_eq!(state(&world, stop).await, "delivered");
        world.clock.advance(Duration::from_secs(31));
        let again = agent.poll().await;
        let names: Vec<&str> = again.iter().filter_map(|item| item["command"].as_str()).collect();
        assert_eq!(names, ["stop_session", "start_session"]);
        assert_eq!(state(&world, stop).await, "done");
    }
}

#[tokio::test]
async fn the_older_agent_gets_a_backlog_in_pieces() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let agent = Python::of(&world, &mine);
        let large = "x".repeat(600 << 10);
        for _ in 0..2 {
            push(&world.app, &mine, Some(live), &message(live, &large)).await;
        }
        assert_eq!([agent.poll().await.len(), agent.poll().await.len()], [1, 1]);
    }
}

#[tokio::test]
async fn commands_are_not_lost_in_answers_that_are_not_read() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let agent = Python::of(&world, &mine);
        push(&world.app, &mine, Some(live), &message(live, "hi")).await;
        let quiet = agent
            .say("request_state", json!({ "session_id": live, "state": "done" }))
            .await
            .ok();
        assert_eq!(quiet.json["pending_commands"], json!([]));
        let probe = json!({ "type": "heartbeat", "machine_id": mine.id });
        let probed = agent.client.post("/api/remote/heartbeat", probe).await.ok();
        assert_eq!(probed.json["pending_commands"], json!([]));
        let beat = agent
            .say("heartbeat", json!({ "status": "idle", "active_sessions": 0 }))
            .await
            .ok();
        assert_eq!(beat.json["type"], "heartbeat_ack");
        assert_eq!(beat.json["pending_commands"][0]["content"], "hi");
    }
}

#[tokio::test]
async fn trap_37_the_older_agent_writes_its_own_machines_sessions_alone() {
    for world in worlds().await {
        let (mine, other) = (machine(&world, "mine").await, machine(&world, "other").await);
        let theirs = session(&world, &other, State::Active).await;
        let agent = Python::of(&world, &mine);
        let asked = json!({ "request_id": "q", "request": { "tool_name": "Bash", "input": {} } });
        for session in [json!(theirs), json!(chance::id()), json!("x"), Value::Null] {
            for (kind, fields) in [
                ("session_output", json!({ "data": "x", "stream": "stdout" })),
                ("session_output", json!({ "data": "" })),
                ("session_status", json!({ "status": "error" })),
                ("permission_request", json!({ "control_request": asked })),
                ("request_state", json!({ "state": "aborted" })),
                ("request_state", json!({ "state": "abort_failed" })),
            ] {
                let mut fields = fields;
                fields["session_id"] = session.clone();
                agent.say(kind, fields).await.refused(403, "not_this_machine");
            }
        }
        let usage = agent
            .say("usage_report", json!({ "session_id": theirs, "report_id": "r" }))
            .await;
        usage.refused(403, "not_this_machine");
        assert_eq!(world.number("SELECT COUNT(*) FROM session_output").await, 0);
        assert_eq!(of_session::<String>(&world, theirs, "status").await, "active");
    }
}

#[tokio::test]
async fn trap_31_the_older_agents_error_of_an_earlier_run_changes_nothing() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Starting).await;
        let agent = Python::of(&world, &mine);
        push(&world.app, &mine, Some(live), &start(live, 1)).await;
        agent
            .say("session_status", json!({ "session_id": live, "status": "error" }))
            .await
            .ok();
        assert_eq!(of_session::<String>(&world, live, "status").await, "starting");
        assert_eq!(agent.poll().await.len(), 1);
        agent
            .say("session_status", json!({ "session_id": live, "status": "error" }))
            .await
            .ok();
        assert_eq!(of_session::<String>(&world, live, "status").await, "error");
    }
}

#[tokio::test]
async fn trap_01_what_the_older_agent_counts_is_written_down_once_and_never_charged() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let agent = Python::of(&world, &mine);
        let report =
            json!({ "report_id": "r1", "session_id": live, "tokens": { "input": 5, "output": 7 }, "requests": 1 });
        let first = agent.say("usage_report", report.clone()).await.ok().json;
        assert_eq!(first, json!({ "success": true, "duplicate": false, "report_id": "r1" }));
        let mut report = report;
        report["machine_id"] = json!(mine.id);
        let second = agent.client.post("/api/remote/usage-report", report).await.ok().json;
        assert_eq!(second, json!({ "success": true, "duplicate": true, "report_id": "r1" }));
        assert_eq!(world.number("SELECT COUNT(*) FROM usage_reports").await, 1);
        assert_eq!(world.number("SELECT COUNT(*) FROM quota_usage").await, 0);
    }
}

#[tokio::test]
async fn tokens_that_last_can_be_forbidden() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Starting).await;
        sqlx::query("UPDATE remote_machines SET allow_long_tokens = 0")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let agent = Python::of(&world, &mine);
        let id = push(&world.app, &mine, Some(live), &start(live, 1)).await;
        assert_eq!(agent.poll().await.len(), 0);
        assert_eq!(state(&world, id).await, "failed");
        assert_eq!(of_session::<String>(&world, live, "status").await, "error");
        assert!(
            of_session::<String>(&world, live, "error")
                .await
                .contains("cannot renew proxy tokens")
        );
    }
}

#[tokio::test]
async fn trap_35_the_older_agent_tries_a_new_token_out_and_keeps_it() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        sqlx::query("UPDATE remote_machines SET rotation_id = 'r1'")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let agent = Python::of(&world, &mine);
        let rotate = Command::RotateToken {
            rotation_id: "r1".to_owned(),
            new_token: String::new(),
        };
        push(&world.app, &mine, None, &rotate).await;
        let items = agent.poll().await;
        let fields = [
            &items[0]["command"],
            &items[0]["rotation_id"],
            &items[0]["token_version"],
        ];
        assert_eq!(fields, [&json!("rotate_token"), &json!("r1"), &json!(2)]);
        let renewed = Machine {
            id: mine.id,
            token: items[0]["new_token"].as_str().unwrap().to_owned(),
        };
        let renewed = Python::of(&world, &renewed);
        let body = json!({ "machine_id": mine.id });
        renewed.client.post("/api/remote/heartbeat", body.clone()).await.ok();
        let ack = json!({ "rotation_id": "r1", "signature": "s", "timestamp": 1 });
        renewed.say("token_rotation_ack", ack).await.ok();
        let info = renewed.client.post("/api/remote/token_info", body).await.ok();
        assert_eq!(info.json, json!({ "success": true, "token_version": 2 }));
        agent.say("poll", json!({})).await.refused(401, "invalid_agent_token");
        world.clock.advance(Duration::from_secs(31));
        assert_eq!(renewed.poll().await.len(), 0, "the rotation is over");
    }
}

#[tokio::test]
async fn what_is_not_offered_is_accepted() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let agent = Python::of(&world, &mine);
        for kind in ["terminal_status", "vscode_status", "session_sync"] {
            assert_eq!(agent.say(kind, json!({})).await.ok().json, json!({ "success": true }));
        }
        let failed = json!({ "machine_id": mine.id, "command_type": "rotate_token", "status": "failed" });
        agent.client.post("/api/remote/command_response", failed).await.ok();
        let nothing = json!({ "machine_id": mine.id });
        agent
            .client
            .post("/api/remote/command_response", nothing)
            .await
            .refused(400, "invalid_field");
    }
}

#[tokio::test]
async fn a_poll_is_not_worth_a_write_each_time() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let agent = Python::of(&world, &mine);
        agent.say("register", json!({})).await.ok();
        let seen = "SELECT MAX(seen_at) FROM agent_connections";
        for (seconds, seen_after) in [(1, 0), (3, 0), (1, 5)] {
            world.clock.advance(Duration::from_secs(seconds));
            agent.poll().await;
            assert_eq!(world.number(seen).await, NOON + seen_after * 1000);
        }
        assert_eq!(told(&world).await, ["machine.online"]);
    }
}
