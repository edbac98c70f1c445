//! Putting sessions aside and deleting them, one or many.

use std::time::Duration;

use ace_policies::SessionId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::at;
use crate::testing::{World, worlds};
use crate::{cleanup, output};

#[tokio::test]
async fn a_session_is_renamed_put_aside_and_deleted() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        let path = at(id, "");
        let named = alice.patch(&path, json!({ "title": " New name " })).await.ok();
        assert_eq!(named.json["session"]["title"], "New name");
        let refused = alice
            .patch(&path, json!({ "archived": true }))
            .await
            .refused(409, "session_active");
        assert_eq!(refused.json["session_status"], "starting");
        alice.delete(&path).await.refused(409, "session_active");
        alice.says(id, "hi").await.ok();
        world.prints(id, machine, 1, &["one\n"]).await;
        alice.act(id, "/stop").await.ok();
        let aside = alice
            .patch(&path, json!({ "archived": true, "title": null }))
            .await
            .ok();
        assert_eq!(
            (&aside.json["session"]["archived"], &aside.json["session"]["title"]),
            (&json!(true), &Value::Null)
        );
        alice.delete(&path).await.ok();
        alice.get(&path).await.refused(404, "session_not_found");
        for (table, left) in [
            ("SELECT COUNT(*) FROM agent_sessions", 0),
            ("SELECT COUNT(*) FROM session_leftovers", 1),
            ("SELECT COUNT(*) FROM session_output", 1),
        ] {
            assert_eq!(world.number(table).await, left, "nobody waits for it: {table}");
        }
        assert!(!output::clear_leftovers(&world.app).await);
        for (table, left) in [
            ("SELECT COUNT(*) FROM session_output", 0),
            ("SELECT COUNT(*) FROM session_messages", 0),
            ("SELECT COUNT(*) FROM session_leftovers", 0),
            ("SELECT COUNT(*) FROM agent_commands", 1),
        ] {
            assert_eq!(world.number(table).await, left, "{table}");
        }
        assert_eq!(
            world.commands().await,
            ["stop_session 1 queued"],
            "the CLI is still to be ended"
        );
    }
}

#[tokio::test]
async fn many_are_cleaned_up_at_once() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let (alice, bob) = (
            world.assigned("alice", machine, "user").await,
            world.assigned("bob", machine, "user").await,
        );
        let (old, live) = (alice.starts(machine).await, alice.starts(machine).await);
        alice.act(old, "/stop").await.ok();
        let foreign_id = bob.starts(machine).await;
        bob.act(foreign_id, "/stop").await.ok();
        let bulk = "/api/remote/sessions/bulk";
        let outcome = alice
            .post(bulk, json!({ "action": "delete", "session_ids": [live, foreign_id] }))
            .await
            .ok();
        assert_eq!(outcome.json["done"], 0);
        let mut codes: Vec<&str> = outcome.json["skipped"]
            .as_array()
            .unwrap()
            .iter()
            .map(|skipped| skipped["code"].as_str().unwrap())
            .collect();
        codes.sort();
        assert_eq!(codes, ["session_active", "session_not_found"]);
        let archive = json!({ "action": "archive", "filter": { "status": "stopped" } });
        assert_eq!(alice.post(bulk, archive).await.ok().json["done"], 1);
        assert_eq!(
            alice.get("/api/remote/sessions?archived=true").await.ok().json["sessions"][0]["session_id"],
            old.to_string()
        );
        world.clock.advance(Duration::from_secs(3600));
        let before = json!({ "action": "delete", "filter": { "ended_before": "2026-01-31T11:59:59Z" } });
        assert_eq!(alice.post(bulk, before).await.ok().json["done"], 0);
        let all = json!({ "action": "delete", "filter": {} });
        assert_eq!(alice.post(bulk, all).await.ok().json["done"], 1);
        let everybody = json!({ "action": "delete", "filter": { "everybody": true } });
        alice.post(bulk, everybody.clone()).await.refused(400, "invalid_field");
        assert_eq!(world.admin().await.post(bulk, everybody).await.ok().json["done"], 1);
        assert_eq!(
            world.number("SELECT COUNT(*) FROM agent_sessions").await,
            1,
            "the live one"
        );
        for wrong in [json!({ "action": "delete" }), json!({ "action": "stop", "filter": {} })] {
            assert_eq!(alice.post(bulk, wrong).await.status, 400);
        }
    }
}

/// Puts sessions of Alice that have ended into the table.
async fn ended(world: &World, count: u128) -> Vec<SessionId> {
    let ids: Vec<_> = (1..=count).map(|n| SessionId(Uuid::from_u128(n))).collect();
    for id in &ids {
        world
            .run(
                "INSERT INTO agent_sessions (session_id, user_id, tenant_id, machine_name, status, project_path, cli_tool, title,
                                             created_at, updated_at, ended_at)
                 VALUES ($1, 2, 1, 'box', 'stopped', '/src', 'codex', 'Old', 0, 0, 0)",
                &[&id.to_string()],
            )
            .await;
    }
    ids
}

#[tokio::test]
async fn very_many_are_cleaned_up_in_steps_that_tell_how_it_was() {
    for world in worlds().await {
        let alice = world.user("alice").await;
        let ids = ended(&world, 120).await;
        let wish = json!({ "action": "delete", "session_ids": ids });
        let outcome = alice.post("/api/remote/sessions/bulk", wish).await.ok();
        assert_eq!(outcome.json["done"], 120);
        let entries = sqlx::query_scalar("SELECT before FROM audit_log WHERE target = 'sessions' ORDER BY id");
        let entries: Vec<String> = entries.fetch_all(&world.database.db.read).await.unwrap();
        let entries: Vec<Value> = entries
            .iter()
            .map(|entry| serde_json::from_str(entry).unwrap())
            .collect();
        let counts: Vec<_> = entries
            .iter()
            .map(|entry| entry["sessions"].as_array().unwrap().len())
            .collect();
        assert_eq!(counts, [50, 50, 20]);
        assert_eq!(
            entries[2]["sessions"][19],
            json!({ "session_id": ids[119], "title": "Old", "status": "stopped", "archived": false })
        );
    }
}

#[tokio::test]
async fn what_deleted_sessions_left_is_cleared_soon() {
    for world in worlds().await {
        let alice = world.user("alice").await;
        let ids = ended(&world, 210).await;
        let clearing = tokio::spawn(cleanup::leftovers(world.app.clone()));
        let wish = json!({ "action": "delete", "session_ids": ids });
        alice.post("/api/remote/sessions/bulk", wish).await.ok();
        let cleared = async {
            while world.number("SELECT COUNT(*) FROM session_leftovers").await > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let cleared = tokio::time::timeout(Duration::from_secs(60), cleared).await;
        clearing.abort();
        cleared.expect("all of it, though it is more than one turn takes");
    }
}
