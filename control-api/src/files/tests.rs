use std::time::Duration;

use ace_policies::UserId;
use serde_json::{Value, json};

use crate::agents::tests::{Machine, Node, SOON, client, machine};
use crate::testing::{Client, World, worlds};

fn path(machine: &Machine, rest: &str) -> String {
    format!("/api/remote/machines/{}/{rest}", machine.id)
}

/// Asks, and answers as the agent.
async fn ask(
    admin: &Client,
    agent: &mut crate::agents::tests::FakeAgent,
    path: String,
    answer: Value,
) -> (crate::testing::Answer, Value) {
    let asking = tokio::spawn({
        let admin = admin.clone();
        async move { admin.get(&path).await }
    });
    let command = agent.hear().await;
    let mut done = answer;
    done["type"] = json!("done");
    done["command_id"] = command["command_id"].clone();
    agent.say(done).await;
    let answer = tokio::time::timeout(SOON, asking).await.unwrap().unwrap();
    (answer, command["command"].clone())
}

#[tokio::test]
async fn an_agent_is_asked_and_nothing_of_its_answer_stays() {
    for world in worlds().await {
        let (mine, admin) = (machine(&world, "mine").await, world.admin().await);
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        let found = json!({ "path": "/w", "parent": "/", "home": "/home/a", "entries": [] });
        for (rest, kind, path_asked) in [
            ("browse?path=/w", "browse_directory", "/w"),
            ("browse", "browse_directory", ""),
            ("file?path=/w/a%20b", "read_file", "/w/a b"),
            ("git/status?path=C:%5Cw", "git_status", "C:\\w"),
            ("git/diff?path=/w", "git_diff", "/w"),
        ] {
            let (answer, command) = ask(&admin, &mut agent, path(&mine, rest), json!({ "result": found })).await;
            assert_eq!(answer.ok().json, json!({ "success": true, "result": found }));
            assert_eq!(command, json!({ "type": kind, "path": path_asked }));
        }
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM agent_commands WHERE result IS NOT NULL")
                .await,
            0
        );
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM agent_commands WHERE state = 'done'")
                .await,
            5
        );
        node.stop().await;
    }
}

#[tokio::test]
async fn an_agents_no_has_a_status() {
    for world in worlds().await {
        let (mine, admin) = (machine(&world, "mine").await, world.admin().await);
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        for (code, status, ours) in [
            ("not_found", 404, "path_not_found"),
            ("forbidden", 403, "path_forbidden"),
            ("invalid", 400, "invalid_path"),
            ("too_much", 413, "too_large"),
            ("failed", 502, "agent_failed"),
        ] {
            let error = json!({ "error": { "code": code, "message": "no such directory: /w" } });
            let (answer, _) = ask(&admin, &mut agent, path(&mine, "browse?path=/w"), error).await;
            let answer = answer.refused(status, ours);
            assert_eq!(answer.json["error"], "no such directory: /w");
        }
        node.stop().await;
    }
}

async fn assign(world: &World, machine: &Machine, user: UserId) {
    sqlx::query(
        "INSERT INTO machine_assignments (machine_id, user_id, permission, granted_at) VALUES ($1, $2, 'user', 0)",
    )
    .bind(machine.id.to_string())
    .bind(user.0)
    .execute(&world.database.db.write)
    .await
    .unwrap();
}

#[tokio::test]
async fn whoever_is_assigned_may_look_and_offline_is_said_at_once() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let (bob, admin) = (world.user("bob").await, world.admin().await);
        bob.get(&path(&mine, "browse")).await.refused(404, "machine_not_found");
        assign(&world, &mine, UserId(2)).await;
        bob.get(&path(&mine, "browse")).await.refused(409, "machine_offline");
        admin
            .get("/api/remote/machines/7/browse")
            .await
            .refused(400, "invalid_field");
        for wrong in [
            "file",
            "file?path=",
            "file?path=a",
            "file?path=/a%00b",
            "browse?path=~",
            "git/diff?path=C:w",
        ] {
            let refused = admin.get(&path(&mine, wrong)).await.refused(400, "invalid_field");
            assert!(
                refused.json["error"].as_str().unwrap().starts_with("path: "),
                "{refused}"
            );
        }
        admin.get(&path(&mine, "file?p=/a")).await.refused(400, "invalid_query");
    }
}

#[tokio::test]
async fn the_older_agent_is_asked_in_its_words() {
    for world in worlds().await {
        let (mine, admin) = (machine(&world, "mine").await, world.admin().await);
        let agent = client(&world, &mine);
        let say = async |kind: &str, mut fields: Value| {
            fields["type"] = json!(kind);
            fields["machine_id"] = json!(mine.id);
            agent.post("/api/remote/agent/message", fields).await.ok().json
        };
        say("register", json!({})).await;
        let listing =
            json!({ "path": "/w", "parent": "/", "homePath": "/h", "directories": [], "fallback_note": null });
        for (rest, kind, word, result, expected) in [
            (
                "browse?path=/w",
                "browse_result",
                json!({ "command": "browse_directory", "path": "/w" }),
                listing,
                json!({ "path": "/w", "parent": "/", "home": "/h", "entries": [] }),
            ),
            (
                "file?path=/w/a",
                "git_result",
                json!({ "command": "git_file", "project_path": "/w", "file": "a" }),
                json!({ "file": "a", "content": "x" }),
                json!({ "file": "a", "content": "x" }),
            ),
            (
                "git/status?path=/w",
                "git_result",
                json!({ "command": "git_status", "project_path": "/w" }),
                json!({ "files": [] }),
                json!({ "files": [] }),
            ),
        ] {
            let asking = tokio::spawn({
                let (admin, path) = (admin.clone(), path(&mine, rest));
                async move { admin.get(&path).await }
            });
            let mut items = Vec::new();
            while items.is_empty() {
                items = say("poll", json!({})).await["pending_commands"]
                    .as_array()
                    .unwrap()
                    .clone();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut item = items.remove(0);
            let id = item["command_id"].clone();
            let asked = item.as_object_mut().unwrap();
            assert_eq!(asked.remove("request_id"), asked.remove("command_id"));
            asked.remove("type");
            assert_eq!(item, word);
            say(kind, json!({ "request_id": id, "success": true, "result": result })).await;
            let answer = tokio::time::timeout(SOON, asking).await.unwrap().unwrap().ok();
            assert_eq!(answer.json["result"], expected);
        }
    }
}
