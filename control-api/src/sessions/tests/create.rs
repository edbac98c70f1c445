use insta::{allow_duplicates, assert_snapshot};
use serde_json::json;

use super::{at, wish};
use crate::testing::worlds;

const SESSIONS: &str = "/api/remote/sessions";

#[tokio::test]
async fn a_session_starts_on_a_machine() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let made = alice
            .post(
                SESSIONS,
                json!({ "machine_id": machine, "project_path": " /srv/app ", "title": "Fix login bug" }),
            )
            .await
            .ok();
        let id = made.json["session"]["session_id"].as_str().unwrap().to_owned();
        let text = made.to_string().replace(&id, "<id>");
        allow_duplicates!(assert_snapshot!(text, @r#"
        200
        {
          "session": {
            "archived": false,
            "busy": false,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
            "cli_tool": "qwen-code-cli",
            "cost_usd": "0.000000",
            "created_at": "2026-01-31T12:00:00.000Z",
            "ended_at": null,
            "error": null,
            "input_tokens": 0,
            "last_seq": 0,
            "machine_id": "00000000-0000-0000-0000-000000000007",
            "machine_name": "box",
            "message_count": 0,
            "model": null,
            "output_tokens": 0,
            "owner": "alice",
            "paused_at": null,
            "permission_mode": null,
            "problem": null,
            "project_path": "/srv/app",
            "request_count": 0,
            "run": 1,
            "session_id": "<id>",
            "status": "starting",
            "tenant_id": 1,
            "title": "Fix login bug",
            "total_tokens": 0,
            "updated_at": "2026-01-31T12:00:00.000Z",
            "user_id": 2,
            "workspace_type": "remote"
          },
          "success": true
        }
        "#));
        let command = world.last_command().await.to_string().replace(&id, "<id>");
        allow_duplicates!(
            assert_snapshot!(command, @r#"{"cli_tool":"qwen-code-cli","last_seq":0,"project_path":"/srv/app","proxy_token":"","proxy_token_expires_at_s":0,"run":1,"session_id":"<id>","type":"start_session"}"#)
        );
        assert_eq!(world.commands().await, ["start_session 1 queued"]);
        assert_eq!(world.events("session.created").await.len(), 1);
        assert!(
            world
                .audit()
                .await
                .contains(&format!("alice sessions.create session:{id} ok"))
        );
    }
}

#[tokio::test]
async fn every_refusal_has_its_own_code() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let (alice, bob) = (world.assigned("alice", machine, "user").await, world.user("bob").await);
        let refused = async |field: &str, value: serde_json::Value, code: &str| {
            let mut body = wish(machine);
            body[field] = value;
            alice.post(SESSIONS, body).await.refused(400, code);
        };
        refused("machine_id", json!(null), "machine_id_required").await;
        refused("machine_id", json!(" "), "machine_id_required").await;
        refused("machine_id", json!("box"), "invalid_field").await;
        refused("project_path", json!(null), "project_path_required").await;
        refused("project_path", json!("../etc"), "invalid_field").await;
        refused("project_path", json!("/srv\n/x"), "invalid_field").await;
        refused("title", json!("a\nb"), "invalid_field").await;
        refused("model", json!("--help"), "invalid_field").await;
        refused("nonsense", json!(1), "invalid_body").await;
        refused(
            "machine_id",
            json!("00000000-0000-0000-0000-000000000001"),
            "not_assigned",
        )
        .await;
        bob.post(SESSIONS, wish(machine)).await.refused(400, "not_assigned");
        let unknown = json!({ "machine_id": "00000000-0000-0000-0000-000000000001", "project_path": "/" });
        world
            .admin()
            .await
            .post(SESSIONS, unknown)
            .await
            .refused(400, "machine_not_found");
        let mut other = wish(machine);
        other["cli_tool"] = json!("codex");
        let refused = alice.post(SESSIONS, other).await.refused(400, "unknown_cli_tool");
        assert_eq!(
            refused.json["error"],
            "the machine box has no CLI 'codex'; it has qwen-code-cli, claude-code, aider"
        );
        world.disconnect(machine).await;
        alice
            .post(SESSIONS, wish(machine))
            .await
            .refused(400, "machine_offline");
        assert_eq!(world.number("SELECT COUNT(*) FROM agent_sessions").await, 0);
        assert_eq!(world.number("SELECT COUNT(*) FROM agent_commands").await, 0);
    }
}

#[tokio::test]
async fn a_machine_that_was_silent_for_three_minutes_is_offline() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        world.clock.advance(std::time::Duration::from_secs(179));
        alice.starts(machine).await;
        world.clock.advance(std::time::Duration::from_secs(1));
        alice
            .post(SESSIONS, wish(machine))
            .await
            .refused(400, "machine_offline");
    }
}

#[tokio::test]
async fn a_tool_that_the_machine_lists_as_generic_runs() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let mut body = wish(machine);
        body["cli_tool"] = json!("aider");
        assert_eq!(
            alice.post(SESSIONS, body).await.ok().json["session"]["cli_tool"],
            "aider"
        );
    }
}

#[tokio::test]
async fn a_model_must_be_one_that_a_key_is_for() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let (admin, alice) = (world.admin().await, world.assigned("alice", machine, "user").await);
        let with = |tool: &str, model: &str| {
            let mut body = wish(machine);
            (body["cli_tool"], body["model"]) = (json!(tool), json!(model));
            body
        };
        let key = |name: &str, models: serde_json::Value| json!({ "provider": "openai", "key_name": name, "api_key": "sk-xxx...", "models": models });
        admin
            .post("/api/remote/api-keys", key("a", json!(["qwen3-coder-plus"])))
            .await
            .ok();
        let refused = alice.post(SESSIONS, with("qwen-code-cli", "gpt-9")).await;
        let refused = refused.refused(400, "model_not_available");
        assert_eq!(
            refused.json["error"],
            "the model 'gpt-9' is not available; there are qwen3-coder-plus"
        );
        alice
            .post(SESSIONS, with("qwen-code-cli", "qwen3-coder-plus"))
            .await
            .ok();
        // There is no key for this tool's provider: what it serves is not known here.
        alice.post(SESSIONS, with("claude-code", "gpt-9")).await.ok();
        admin.post("/api/remote/api-keys", key("b", json!(null))).await.ok();
        // Room was for two; the model is looked at first.
        alice
            .post(SESSIONS, with("qwen-code-cli", "gpt-9"))
            .await
            .refused(400, "max_sessions");
    }
}

#[tokio::test]
async fn trap_49_a_double_click_makes_one_session() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world
            .assigned("alice", machine, "user")
            .await
            .with("idempotency-key", "click-1");
        let (first, second) = tokio::join!(alice.post(SESSIONS, wish(machine)), alice.post(SESSIONS, wish(machine)));
        assert_eq!(
            first.ok().json["session"]["session_id"],
            second.ok().json["session"]["session_id"]
        );
        assert_eq!(world.number("SELECT COUNT(*) FROM agent_sessions").await, 1);
        assert_eq!(world.commands().await, ["start_session 1 queued"]);
        let mut other = wish(machine);
        other["project_path"] = json!("/elsewhere");
        alice.post(SESSIONS, other).await.refused(409, "idempotency_key_reused");
        // Another user's key is another key.
        let bob = world
            .assigned("bob", machine, "user")
            .await
            .with("idempotency-key", "click-1");
        bob.post(SESSIONS, wish(machine)).await.ok();
        assert_eq!(world.number("SELECT COUNT(*) FROM agent_sessions").await, 2);
    }
}

#[tokio::test]
async fn trap_49_a_race_does_not_pass_max_sessions() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let clicks = (0..8).map(|_| alice.post(SESSIONS, wish(machine)));
        let answers = futures_util::future::join_all(clicks).await;
        let mut codes: Vec<String> = answers
            .iter()
            .map(|answer| format!("{} {}", answer.status.as_u16(), answer.code()))
            .collect();
        codes.sort();
        codes.dedup();
        assert_eq!(codes, ["200 ", "400 max_sessions"]);
        assert_eq!(world.number("SELECT COUNT(*) FROM agent_sessions").await, 2);
    }
}

#[tokio::test]
async fn an_ended_session_makes_room() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let (first, _) = (alice.starts(machine).await, alice.starts(machine).await);
        alice.post(SESSIONS, wish(machine)).await.refused(400, "max_sessions");
        alice.act(first, "/stop").await.ok();
        alice.starts(machine).await;
        let refused = alice.act(first, "/resume").await.refused(409, "max_sessions");
        assert_eq!(refused.json["session_status"], "stopped");
    }
}

#[tokio::test]
async fn trap_48_nothing_is_said_to_a_cli_that_nobody_said() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        alice.act(id, "/stop").await.ok();
        alice.act(id, "/resume").await.ok();
        let commands = world.commands().await;
        assert!(
            !commands.iter().any(|command| command.starts_with("send_message")),
            "{commands:?}"
        );
        let messages = alice.get(&at(id, "/messages")).await.ok().json;
        assert_eq!(messages["messages"], json!([]));
    }
}
