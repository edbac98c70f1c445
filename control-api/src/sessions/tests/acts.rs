use ace_policies::session::{Report, State};
use serde_json::{Value, json};
use uuid::Uuid;

use super::at;
use crate::sessions;
use crate::testing::worlds;

#[tokio::test]
async fn a_message_waits_for_the_agent_and_is_kept() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        let said = alice.says(id, "Please review main.py for me").await.ok();
        assert!(said.json["command_id"].is_string());
        assert_eq!(
            world.commands().await,
            ["start_session 1 queued", "send_message 1 queued"]
        );
        assert_eq!(world.last_command().await["content"], "Please review main.py for me");
        let messages = alice.get(&at(id, "/messages")).await.ok().json["messages"].clone();
        assert_eq!(messages[0]["content"], "Please review main.py for me");
        assert_eq!(
            (&messages[0]["username"], &messages[0]["delivery"]),
            (&json!("alice"), &json!("queued"))
        );
        assert_eq!(alice.sees(id).await["message_count"], 1);
        let audit = world
            .number("SELECT COUNT(*) FROM audit_log WHERE after LIKE '%main.py%'")
            .await;
        assert_eq!(audit, 0, "what was said is not in the audit log");
    }
}

#[tokio::test]
async fn a_message_sent_twice_is_said_once() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        world.reports(id, 1, Report::Error, Some("gone")).await;
        let keyed = alice.clone().with("idempotency-key", "m1");
        let (first, second) = tokio::join!(keyed.says(id, "hi"), keyed.says(id, "hi"));
        assert_eq!(first.ok().json["command_id"], second.ok().json["command_id"]);
        assert_eq!(
            world.commands().await,
            [
                "start_session 1 queued",
                "start_session 2 queued",
                "send_message 2 queued"
            ]
        );
        assert_eq!(alice.sees(id).await["message_count"], 1);
        alice
            .clone()
            .with("idempotency-key", "")
            .says(id, "hi")
            .await
            .refused(400, "invalid_idempotency_key");
    }
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        let chat = at(id, "/chat");
        for empty in [json!({}), json!({ "content": " \n" })] {
            alice.post(&chat, empty).await.refused(400, "empty_message");
        }
        let with = |name: &str, kind: &str, data: &str| json!({ "content": "see", "attachments": [{ "name": name, "media_type": kind, "data_base64": data }] });
        for wrong in [
            with("../a.png", "image/png", ""),
            with("", "image/png", ""),
            with("..", "image/png", ""),
            with("a.png", "png", ""),
            with("a.png", "image/png", "?"),
        ] {
            alice.post(&chat, wrong).await.refused(400, "invalid_field");
        }
        let much = vec![json!({ "name": "a", "media_type": "a/b", "data_base64": "" }); 17];
        alice
            .post(&chat, json!({ "content": "x", "attachments": much }))
            .await
            .refused(400, "invalid_field");
        let large = "A".repeat(1_036_000);
        alice
            .post(&chat, with("a", "a/b", &large))
            .await
            .refused(413, "message_too_large");
        // This CLI tells that it takes no attachments.
        alice
            .post(&chat, with("a.png", "image/png", "AAAA"))
            .await
            .refused(400, "unsupported");
        let claude = json!({ "machine_id": machine, "project_path": "/p", "cli_tool": "claude-code" });
        let claude = alice.post("/api/remote/sessions", claude).await.ok().json["session"]["session_id"].clone();
        let claude: ace_policies::SessionId = serde_json::from_value(claude).unwrap();
        alice
            .post(&at(claude, "/chat"), with("a.png", "image/png", "AAAA"))
            .await
            .ok();
        assert_eq!(world.last_command().await["attachments"][0]["name"], "a.png");
    }
}

#[tokio::test]
async fn a_session_runs_pauses_and_ends() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        world.reports(id, 1, Report::Running, None).await;
        let seen = alice.sees(id).await;
        assert_eq!((&seen["status"], &seen["busy"]), (&json!("active"), &json!(true)));
        assert_eq!(alice.act(id, "/pause").await.ok().json["status"], "paused");
        assert_eq!(
            alice.act(id, "/pause").await.ok().json["status"],
            "paused",
            "it is so already"
        );
        let refused = alice.says(id, "hi").await.refused(409, "session_paused");
        assert_eq!(refused.json["session_status"], "paused");
        assert!(alice.sees(id).await["paused_at"].is_string());
        assert_eq!(alice.act(id, "/resume").await.ok().json["status"], "active");
        assert_eq!(alice.act(id, "/abort").await.ok().json["status"], "active");
        assert_eq!(alice.act(id, "/stop").await.ok().json["status"], "stopped");
        for again in ["/stop", "/abort"] {
            assert_eq!(alice.act(id, again).await.ok().json["status"], "stopped");
        }
        alice.act(id, "/pause").await.refused(409, "session_ended");
        assert_eq!(
            world.commands().await,
            [
                "start_session 1 expired",
                "pause_session 1 expired",
                "resume_session 1 expired",
                "abort_request 1 expired",
                "stop_session 1 queued"
            ],
            "what the agent was not handed is not begun any more"
        );
        let states: Vec<Value> = world.events("session.state").await;
        let states: Vec<&str> = states.iter().map(|event| event["status"].as_str().unwrap()).collect();
        assert_eq!(states, ["active", "paused", "active", "stopped"]);
    }
}

#[tokio::test]
async fn what_goes_on_while_its_machine_is_away_goes_on() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        world.reports(id, 1, Report::Running, None).await;
        alice.act(id, "/pause").await.ok();
        world.reports(id, 1, Report::Paused, None).await;
        assert_eq!(alice.sees(id).await["status"], "paused");
        world.disconnect(machine).await;
        assert_eq!(alice.act(id, "/resume").await.ok().json["status"], "active");
        world.connect(machine).await;
        // It says first how it left the session, and hears only then that it goes on.
        world.reports(id, 1, Report::Paused, None).await;
        assert_eq!(alice.sees(id).await["status"], "active");
        alice.says(id, "hi").await.ok();
        world.reports(id, 1, Report::Running, None).await;
        assert_eq!(alice.sees(id).await["status"], "active");
    }
}

#[tokio::test]
async fn trap_41_and_43_resume_starts_the_same_conversation_again() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        world.reports(id, 1, Report::Running, None).await;
        for (run, end) in [(2, "stop"), (3, "completed"), (4, "error")] {
            match end {
                "stop" => drop(alice.act(id, "/stop").await.ok()),
                "completed" => drop(world.reports(id, run - 1, Report::Completed, None).await),
                _ => drop(world.reports(id, run - 1, Report::Error, Some("it broke")).await),
            }
            assert_eq!(alice.act(id, "/resume").await.ok().json["status"], "starting", "{end}");
            let start = world.last_command().await;
            assert_eq!(
                (&start["run"], &start["resume_id"]),
                (&json!(run), &json!("conversation-1"))
            );
            assert_eq!(start["session_id"], id.to_string(), "the same session");
            world.reports(id, run, Report::Running, None).await;
        }
        let seen = alice.sees(id).await;
        assert_eq!(
            (&seen["status"], &seen["error"], &seen["ended_at"]),
            (&json!("active"), &Value::Null, &Value::Null)
        );
    }
}

#[tokio::test]
async fn trap_42_a_message_starts_a_broken_session_again() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        world.reports(id, 1, Report::Running, None).await;
        world.reports(id, 1, Report::Error, Some("the CLI died")).await;
        assert_eq!(alice.sees(id).await["error"], "the CLI died");
        alice.says(id, "go on").await.ok();
        assert_eq!(alice.sees(id).await["status"], "starting");
        assert_eq!(
            world.commands().await[1..],
            ["start_session 2 queued".to_owned(), "send_message 2 queued".to_owned()]
        );
        alice.act(id, "/stop").await.ok();
        alice.says(id, "go on").await.refused(409, "session_ended");
    }
}

#[tokio::test]
async fn trap_31_reports_of_an_earlier_run_change_nothing() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        alice.act(id, "/stop").await.ok();
        alice.act(id, "/resume").await.ok();
        let generation = world.number("SELECT token_generation FROM agent_sessions").await;
        for late in [Report::Error, Report::Stopped, Report::Completed] {
            assert_eq!(world.reports(id, 1, late, Some("late")).await.status, State::Starting);
        }
        let mut record = world.app.record().await.unwrap();
        let row = sessions::lock(&mut record, id).await.unwrap().unwrap();
        sessions::command_failed(&mut record, &row, 1, Uuid::nil(), true, "failed", "late")
            .await
            .unwrap();
        record.commit().await.unwrap();
        assert_eq!(alice.sees(id).await["status"], "starting");
        assert_eq!(
            world.number("SELECT token_generation FROM agent_sessions").await,
            generation
        );
    }
}

#[tokio::test]
async fn a_failed_command_is_told_and_a_failed_start_is_the_end() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        let fails = async |is_start: bool, message: &str| {
            let mut record = world.app.record().await.unwrap();
            let row = sessions::lock(&mut record, id).await.unwrap().unwrap();
            let failed = sessions::command_failed(&mut record, &row, 1, Uuid::nil(), is_start, "failed", message);
            failed.await.unwrap();
            record.commit().await.unwrap();
        };
        fails(false, "the CLI did not take it").await;
        let seen = alice.sees(id).await;
        assert_eq!(
            (&seen["status"], &seen["problem"]["message"]),
            (&json!("starting"), &json!("the CLI did not take it"))
        );
        alice.says(id, "again").await.ok();
        assert!(
            alice.sees(id).await["problem"].is_null(),
            "a new message is a new beginning"
        );
        fails(true, "claude: command not found").await;
        let seen = alice.sees(id).await;
        assert_eq!(
            (&seen["status"], &seen["error"]),
            (&json!("error"), &json!("claude: command not found"))
        );
        assert_eq!(world.events("session.command_failed").await.len(), 2);
    }
}

#[tokio::test]
async fn an_end_revokes_the_sessions_proxy_tokens_and_gateways_hear_of_it() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let version = async || world.number("SELECT version FROM wakeups WHERE topic = 'auth'").await;
        let generation = async || world.number("SELECT token_generation FROM agent_sessions").await;
        let before = version().await;
        let id = alice.starts(machine).await;
        assert_eq!(
            (version().await - before, generation().await),
            (1, 0),
            "gateways know live sessions only"
        );
        alice.act(id, "/pause").await.ok();
        assert_eq!((version().await - before, generation().await), (1, 0));
        alice.act(id, "/stop").await.ok();
        assert_eq!((version().await - before, generation().await), (2, 1));
        alice.act(id, "/resume").await.ok();
        assert_eq!(
            (version().await - before, generation().await),
            (3, 1),
            "old tokens stay ended"
        );
        world.reports(id, 2, Report::Completed, None).await;
        assert_eq!((version().await - before, generation().await), (4, 2));
    }
}

#[tokio::test]
async fn trap_38_an_abort_does_not_wait_for_long() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        alice.act(id, "/abort").await.ok();
        let life = world
            .number("SELECT expires_at - created_at FROM agent_commands WHERE type = 'abort_request'")
            .await;
        assert_eq!(life, 60_000);
    }
}

#[tokio::test]
async fn model_and_permission_mode_change_while_it_runs() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        let model = alice.put(&at(id, "/model"), json!({ "model": "qwen3-max" })).await.ok();
        assert_eq!(model.json["session"]["model"], "qwen3-max");
        let mode = alice
            .put(&at(id, "/permission-mode"), json!({ "permission_mode": "plan" }))
            .await
            .ok();
        assert_eq!(
            (&mode.json["session"]["model"], &mode.json["session"]["permission_mode"]),
            (&json!("qwen3-max"), &json!("plan"))
        );
        assert_eq!(
            world.commands().await[1..],
            [
                "update_model 1 queued".to_owned(),
                "update_permission_mode 1 queued".to_owned()
            ]
        );
        for wrong in ["", " ", "-x", "a b"] {
            alice
                .put(&at(id, "/model"), json!({ "model": wrong }))
                .await
                .refused(400, "invalid_field");
        }
        alice.act(id, "/stop").await.ok();
        let refused = alice
            .put(&at(id, "/model"), json!({ "model": "x" }))
            .await
            .refused(409, "session_ended");
        assert_eq!(refused.json["session_status"], "stopped");
    }
}

#[tokio::test]
async fn others_do_not_know_of_a_session_but_admins_steer_it() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let bob = world.assigned("bob", machine, "user").await;
        let carol = world.assigned("carol", machine, "admin").await;
        let id = alice.starts(machine).await;
        for path in [
            "",
            "/messages",
            "/approvals",
            "/approval-rules",
            "/transcript",
            "/stream",
        ] {
            bob.get(&at(id, path)).await.refused(404, "session_not_found");
        }
        for act in ["/stop", "/pause", "/resume", "/abort"] {
            bob.act(id, act).await.refused(404, "session_not_found");
        }
        bob.says(id, "hi").await.refused(404, "session_not_found");
        bob.patch(&at(id, ""), json!({ "title": "mine" }))
            .await
            .refused(404, "session_not_found");
        bob.delete(&at(id, "")).await.refused(404, "session_not_found");
        assert_eq!(carol.sees(id).await["owner"], "alice");
        carol.says(id, "hi").await.ok();
        carol.act(id, "/stop").await.ok();
        world.admin().await.act(id, "/resume").await.ok();
        for path in [
            "/api/remote/sessions/x",
            "/api/remote/sessions/00000000-0000-0000-0000-000000000001",
        ] {
            let code = alice.get(path).await;
            assert_eq!(code.status, 404, "{code}");
        }
    }
}
