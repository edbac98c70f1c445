use std::time::Duration;

use ace_policies::MachineId;
use insta::{allow_duplicates, assert_snapshot};
use serde_json::{Value, json};

use crate::testing::{Client, World, worlds};

/// What the holder of an agent's connection keeps.
async fn connect(world: &World, machine: MachineId) {
    let now = world.app.now();
    sqlx::query(
        "INSERT INTO agent_connections (machine_id, connection_id, node_id, transport, connected_at, seen_at, expires_at)
         VALUES ($1, 'c', 'n', 'ws', $2, $2, $3)",
    )
    .bind(machine.to_string())
    .bind(now)
    .bind(now + 15_000)
    .execute(&world.database.db.write)
    .await
    .unwrap();
}

async fn session(world: &World, machine: MachineId, user: i64, id: &str) {
    sqlx::query(
        "INSERT INTO agent_sessions (session_id, user_id, tenant_id, remote_machine_id, status, project_path, cli_tool,
                                     created_at, updated_at)
         VALUES ($1, $2, 1, $3, 'active', '/p', 'claude-code', 0, 0)",
    )
    .bind(id)
    .bind(user)
    .bind(machine.to_string())
    .execute(&world.database.db.write)
    .await
    .unwrap();
}

const ONE: &str = "00000000-0000-0000-0000-0000000000a1";
const TWO: &str = "00000000-0000-0000-0000-0000000000a2";

fn names(page: &Value) -> Vec<&str> {
    let machines = page["machines"].as_array().unwrap();
    machines
        .iter()
        .map(|machine| machine["machine_name"].as_str().unwrap())
        .collect()
}

async fn assign(admin: &Client, machine: MachineId, user: i64, permission: &str) {
    let path = format!("/api/remote/machines/{machine}/assign");
    let wish = json!({ "user_id": user, "permission": permission });
    admin.post(&path, wish).await.ok();
}

#[tokio::test]
async fn a_registration_token_comes_with_what_to_paste() {
    for world in worlds().await {
        let made = world
            .admin()
            .await
            .post("/api/remote/machines/register", json!({ "tenant_id": 1 }))
            .await
            .ok();
        let token = made.json["registration_token"].as_str().unwrap();
        assert!(token.starts_with("acer_") && token.len() == 48);
        let shown = made.text.replace(token, "TOKEN");
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let shown = serde_json::to_string_pretty(&shown).unwrap();
        allow_duplicates!(assert_snapshot!(shown, @r#"
        {
          "expires_at": "2026-01-31T13:00:00.000Z",
          "install_commands": {
            "linux": "curl -fsSL http://ace.test/api/remote/agent/install.sh | bash -s -- --server http://ace.test --token TOKEN",
            "macos": "curl -fsSL http://ace.test/api/remote/agent/install.sh | bash -s -- --server http://ace.test --token TOKEN",
            "windows": "$env:OPENACE_SERVER_URL='http://ace.test'; $env:OPENACE_REGISTRATION_TOKEN='TOKEN'; Invoke-WebRequest -UseBasicParsing -Uri 'http://ace.test/api/remote/agent/install.ps1' | Invoke-Expression"
          },
          "registration_token": "TOKEN",
          "success": true
        }
        "#));
        assert_eq!(world.audit().await.len(), 2);
        let kept = "SELECT COUNT(*) FROM audit_log WHERE after LIKE '%acer_%' OR target LIKE '%acer_%'";
        assert_eq!(world.number(kept).await, 0);
    }
}

#[tokio::test]
async fn a_registration_token_lasts_an_hour_or_as_asked() {
    for world in worlds().await {
        let admin = world.admin().await;
        let ends = async |wish| {
            let made = admin.post("/api/remote/machines/register", wish).await.ok();
            made.json["expires_at"].as_str().unwrap().to_owned()
        };
        assert_eq!(ends(json!({})).await, "2026-01-31T13:00:00.000Z");
        assert_eq!(ends(json!({ "ttl": 60 })).await, "2026-01-31T12:01:00.000Z");
        for (wish, field) in [
            (json!({ "ttl": 59 }), "ttl"),
            (json!({ "ttl": 86_401 }), "ttl"),
            (json!({ "ttl": -1 }), "ttl"),
            (json!({ "tenant_id": 7 }), "tenant_id"),
            (json!({ "tenant": 1 }), "tenant"),
        ] {
            let refused = admin.post("/api/remote/machines/register", wish).await;
            assert_eq!(refused.status, 400, "{refused}");
            assert!(refused.text.contains(field), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_host_that_would_be_a_command_is_not_put_into_one() {
    for world in worlds().await {
        let token = world.registration_token(json!({})).await;
        let router = world.app.router(crate::Trust::Signed);
        let edge = ace_policies::edge::EdgeHeaders {
            client: [203, 0, 113, 9].into(),
            scheme: "https".to_owned(),
            host: "ace.test;reboot".to_owned(),
            request_id: "r".to_owned(),
            time: world.app.now() / 1000,
        };
        let signature = edge.sign(&world.app.edge_keys()[0], "POST", "/api/remote/machines/register");
        let mut admin = world.admin().await.through(router);
        for (name, value) in edge.to_headers() {
            admin = admin.with(name, &value);
        }
        let admin = admin.with(ace_policies::edge::SIGNATURE, &signature);
        let refused = admin.post("/api/remote/machines/register", json!({})).await;
        refused.refused(400, "invalid_host");
        assert!(!token.is_empty());
    }
}

#[tokio::test]
async fn a_machine_is_shown_as_it_is() {
    for world in worlds().await {
        let (id, _) = world.new_machine("Build server").await;
        let path = format!("/api/remote/machines/{id}");
        let shown = world.admin().await.get(&path).await;
        let shown = shown.to_string().replace(&id.to_string(), "MACHINE");
        allow_duplicates!(assert_snapshot!(shown, @r#"
        200
        {
          "machine": {
            "agent_version": "1.0.0",
            "allow_long_tokens": true,
            "capabilities": {
              "cpu_cores": 16,
              "memory_gb": 64
            },
            "connected": false,
            "created_at": "2026-01-31T12:00:00.000Z",
            "current_user_permission": "admin",
            "dialect": "own",
            "hostname": "build-1.example.com",
            "ip_address": "203.0.113.9",
            "last_heartbeat": null,
            "machine_id": "MACHINE",
            "machine_name": "Build server",
            "max_sessions": 5,
            "os_type": "linux",
            "os_version": "6.1",
            "status": "offline",
            "tenant_id": 1,
            "token_state": "unused",
            "token_version": 1,
            "transport": null,
            "work_dir": null,
            "workspace_type": "local"
          },
          "success": true
        }
        "#));
    }
}

#[tokio::test]
async fn people_see_the_machines_that_they_are_assigned_to() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.user("bob").await);
        let (one, _) = world.new_machine("one").await;
        let (two, _) = world.new_machine("two").await;
        assign(&admin, one, 2, "user").await;
        let (all, own) = (
            admin.get("/api/remote/machines").await.ok().json,
            bob.get("/api/remote/machines").await.ok().json,
        );
        assert_eq!((names(&all), names(&own)), (vec!["one", "two"], vec!["one"]));
        assert_eq!(own["machines"][0]["current_user_permission"], "user");
        assert_eq!(all["machines"][1]["current_user_permission"], "admin");
        bob.get(&format!("/api/remote/machines/{one}")).await.ok();
        let unknown = bob.get(&format!("/api/remote/machines/{two}")).await;
        let absent = bob.get(&format!("/api/remote/machines/{ONE}")).await;
        assert_eq!(unknown.to_string(), absent.to_string(), "nobody learns what is there");
        unknown.refused(404, "machine_not_found");
        let absent = admin.get(&format!("/api/remote/machines/{ONE}")).await;
        absent.refused(404, "machine_not_found");
        let wrong = bob.get("/api/remote/machines/build-1").await;
        wrong.refused(400, "invalid_field");
    }
}

#[tokio::test]
async fn machines_are_listed_in_pages() {
    for world in worlds().await {
        let admin = world.admin().await;
        for name in ["b", "a", "c", "a"] {
            world.new_machine(name).await;
        }
        let first = admin.get("/api/remote/machines?limit=2").await.ok().json;
        let next = first["next"].as_str().unwrap();
        let path = format!("/api/remote/machines?limit=2&after={next}");
        let second = admin.get(&path).await.ok().json;
        assert_eq!([names(&first), names(&second)].concat(), ["a", "a", "b", "c"]);
        assert!(second.get("next").is_none());
        let wrong = admin.get("/api/remote/machines?after=x").await;
        wrong.refused(400, "invalid_field");
        let none = admin.get("/api/remote/machines?tenant_id=2").await.ok().json;
        assert_eq!(names(&none), [""; 0]);
    }
}

#[tokio::test]
async fn trap_46_a_machine_is_online_by_its_last_sign_of_life() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.user("bob").await);
        let (id, _) = world.new_machine("one").await;
        assign(&admin, id, 2, "user").await;
        let state = async || {
            let machine = bob.get(&format!("/api/remote/machines/{id}")).await.ok().json;
            let of = |field: &str| machine["machine"][field].clone();
            let available = bob.get("/api/remote/machines/available").await.ok().json;
            let offline = bob.get("/api/remote/machines?status=offline").await.ok().json;
            let lists = (names(&available).len(), names(&offline).len());
            (json!([of("status"), of("connected"), of("transport")]), lists)
        };
        assert_eq!(state().await, (json!(["offline", false, null]), (0, 1)));
        connect(&world, id).await;
        assert_eq!(state().await, (json!(["online", true, "ws"]), (1, 0)));
        world.clock.advance(Duration::from_secs(15));
        assert_eq!(state().await, (json!(["online", false, null]), (1, 0)), "its node died");
        world.clock.advance(Duration::from_secs(165));
        assert_eq!(state().await, (json!(["offline", false, null]), (0, 1)));
        let machine = bob.get(&format!("/api/remote/machines/{id}")).await.ok().json;
        assert_eq!(machine["machine"]["last_heartbeat"], "2026-01-31T12:00:00.000Z");
    }
}

#[tokio::test]
async fn an_admin_changes_a_machines_settings() {
    for world in worlds().await {
        let (id, _) = world.new_machine("one").await;
        let (admin, path) = (world.admin().await, format!("/api/remote/machines/{id}"));
        let changes =
            json!({ "machine_name": "GPU box", "max_sessions": 2, "work_dir": "/srv", "allow_long_tokens": false });
        let changed = admin.patch(&path, changes).await.ok().json;
        let of = |field: &str| changed["machine"][field].clone();
        assert_eq!(
            [
                of("machine_name"),
                of("max_sessions"),
                of("work_dir"),
                of("allow_long_tokens")
            ],
            [json!("GPU box"), json!(2), json!("/srv"), json!(false)]
        );
        let kept = admin.patch(&path, json!({ "work_dir": null })).await.ok().json;
        assert_eq!(kept["machine"]["work_dir"], Value::Null);
        assert_eq!(kept["machine"]["machine_name"], "GPU box");
        admin.patch(&path, json!({ "work_dir": "C:\\Users" })).await.ok();
        for (wrong, field) in [
            (json!({ "machine_name": " " }), "machine_name"),
            (json!({ "machine_name": "a\u{7}" }), "machine_name"),
            (json!({ "max_sessions": -1 }), "max_sessions"),
            (json!({ "max_sessions": 1001 }), "max_sessions"),
            (json!({ "work_dir": "src" }), "work_dir"),
            (json!({ "work_dir": "" }), "work_dir"),
            (json!({ "tenant_id": 2 }), "tenant_id"),
        ] {
            let refused = admin.patch(&path, wrong).await;
            assert_eq!(refused.status, 400, "{refused}");
            assert!(refused.text.contains(field), "{refused}");
        }
        let absent = admin.patch(&format!("/api/remote/machines/{ONE}"), json!({})).await;
        absent.refused(404, "machine_not_found");
        let recorded = "SELECT COUNT(*) FROM audit_log WHERE action = 'machines.update' AND before LIKE '%\"one\"%'
                        AND after LIKE '%\"GPU box\"%'";
        assert_eq!(world.number(recorded).await, 1);
    }
}

#[tokio::test]
async fn an_unregistered_machine_is_gone_with_all_that_ran_on_it() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.user("bob").await);
        let (id, _) = world.new_machine("one").await;
        let (other, _) = world.new_machine("two").await;
        assign(&admin, id, 2, "user").await;
        connect(&world, id).await;
        session(&world, id, 2, ONE).await;
        session(&world, other, 2, TWO).await;
        let waiting = format!("/api/remote/machines/{id}/token/rotate");
        admin.post(&waiting, json!({})).await.ok();
        let mut bell = world.app.wakeups().listen(crate::wakeups::Wakeup::Machine(id));
        let auth = "SELECT version FROM wakeups WHERE topic = 'auth'";
        let heard = world.number(auth).await;
        let path = format!("/api/remote/machines/{id}");
        let deleted = admin.delete(&path).await.ok();
        assert_eq!(deleted.json["stopped_sessions"], 1);
        bell.next().await;
        assert_eq!(world.number(auth).await, heard + 1, "gateways look again");
        bob.get(&path).await.refused(404, "machine_not_found");
        admin.delete(&path).await.refused(404, "machine_not_found");
        for (sql, expected) in [
            ("SELECT COUNT(*) FROM remote_machines", 1),
            ("SELECT COUNT(*) FROM agent_connections", 0),
            ("SELECT COUNT(*) FROM machine_assignments WHERE user_id = 2", 0),
            (
                "SELECT COUNT(*) FROM agent_sessions WHERE status = 'stopped' AND token_generation = 1 AND ended_at > 0",
                1,
            ),
            ("SELECT COUNT(*) FROM agent_sessions WHERE status = 'active'", 1),
            ("SELECT COUNT(*) FROM agent_commands WHERE state = 'queued'", 0),
            ("SELECT COUNT(*) FROM events WHERE kind = 'machine.deleted'", 1),
            ("SELECT COUNT(*) FROM events WHERE kind = 'session.state'", 1),
            (
                "SELECT COUNT(*) FROM audit_log WHERE action = 'machines.delete' AND before LIKE '%\"one\"%'",
                1,
            ),
        ] {
            assert_eq!(world.number(sql).await, expected, "{sql}");
        }
    }
}

#[tokio::test]
async fn what_held_for_a_machine_that_is_gone_does_not_hold_for_the_next() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.user("bob").await);
        let (id, _) = world.new_machine("one").await;
        assign(&admin, id, 2, "admin").await;
        admin.delete(&format!("/api/remote/machines/{id}")).await.ok();
        let token = world.registration_token(json!({})).await;
        world.nobody().register(&token, id, "one").await.ok();
        let refused = bob.get(&format!("/api/remote/machines/{id}")).await;
        refused.refused(404, "machine_not_found");
    }
}

#[tokio::test]
async fn a_revoked_agent_takes_the_proxy_tokens_of_its_sessions_along() {
    for world in worlds().await {
        let (id, _) = world.new_machine("one").await;
        session(&world, id, 1, ONE).await;
        connect(&world, id).await;
        let path = format!("/api/remote/machines/{id}/token/revoke");
        let revoked = world.admin().await.post(&path, json!({})).await.ok();
        assert_eq!(revoked.json["machine"]["status"], "offline");
        let revoked = "SELECT token_generation FROM agent_sessions WHERE status = 'active'";
        assert_eq!(world.number(revoked).await, 1);
    }
}

#[tokio::test]
async fn whoever_loses_its_token_is_offline_and_that_is_told_once() {
    for world in worlds().await {
        let (id, agent) = world.new_machine("prod").await;
        let connect = async |agent: &Client| {
            let word = json!({ "type": "register", "machine_id": id, "machine_name": "prod", "capabilities": {} });
            agent.post("/api/remote/agent/message", word).await.ok();
        };
        connect(&agent).await;
        let admin = world.admin().await;
        admin
            .post(&format!("/api/remote/machines/{id}/token/revoke"), json!({}))
            .await
            .ok();
        assert_eq!(presence(&world).await, ["machine.online", "machine.offline"]);
        let status = "SELECT COUNT(*) FROM remote_machines WHERE status = 'offline'";
        assert_eq!(world.number(status).await, 1);
        let again = async || {
            let token = world.registration_token(json!({})).await;
            world.agent_of(&world.nobody().register(&token, id, "prod").await.ok())
        };
        let agent = again().await;
        assert_eq!(presence(&world).await.len(), 2, "it was offline already");
        connect(&agent).await;
        connect(&again().await).await;
        let (online, offline) = ("machine.online", "machine.offline");
        assert_eq!(presence(&world).await, [online, offline, online, offline, online]);
    }
}

/// What was told of machines that come and go, in order.
async fn presence(world: &World) -> Vec<String> {
    sqlx::query_scalar("SELECT kind FROM events WHERE kind IN ('machine.online', 'machine.offline') ORDER BY id")
        .fetch_all(&world.database.db.read)
        .await
        .unwrap()
}
