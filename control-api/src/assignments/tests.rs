use std::time::Duration;

use ace_policies::{MachineId, UserId};
use insta::{allow_duplicates, assert_snapshot};
use serde_json::{Value, json};

use crate::testing::{Answer, Client, World, worlds};

/// A machine with alice as its admin and bob as its user; eve belongs to the same tenant, mallory to another.
struct Stage<'a> {
    world: &'a World,
    machine: MachineId,
    admin: Client,
    alice: Client,
    bob: Client,
}

const ALICE: i64 = 2;
const BOB: i64 = 3;
const EVE: i64 = 4;
const MALLORY: i64 = 5;

impl<'a> Stage<'a> {
    async fn set(world: &'a World) -> Self {
        let admin = world.admin().await;
        for name in ["alice", "bob", "eve", "mallory"] {
            world.add_user(name).await;
        }
        admin.post("/api/tenants", json!({ "name": "other" })).await.ok();
        sqlx::query("UPDATE users SET tenant_id = 2 WHERE username = 'mallory'")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let (machine, _) = world.new_machine("m").await;
        let stage = Self {
            world,
            machine,
            admin: admin.clone(),
            alice: world.logged_in(UserId(ALICE)).await,
            bob: world.logged_in(UserId(BOB)).await,
        };
        stage.assign(&admin, ALICE, "admin").await.ok();
        stage.assign(&admin, BOB, "user").await.ok();
        stage
    }

    async fn assign(&self, by: &Client, user: i64, permission: &str) -> Answer {
        let path = format!("/api/remote/machines/{}/assign", self.machine);
        by.post(&path, json!({ "user_id": user, "permission": permission }))
            .await
    }

    async fn revoke(&self, by: &Client, user: i64) -> Answer {
        by.delete(&format!("/api/remote/machines/{}/assign/{user}", self.machine))
            .await
    }

    /// Name and permission of everybody who is assigned, by name.
    async fn assigned(&self) -> Vec<String> {
        let path = format!("/api/remote/machines/{}/users", self.machine);
        let users = self.admin.get(&path).await.ok().json;
        let text = |user: &Value, field: &str| user[field].as_str().unwrap().to_owned();
        let users = users["users"].as_array().unwrap().iter();
        let mut users: Vec<_> = users
            .map(|user| format!("{} {}", text(user, "username"), text(user, "permission")))
            .collect();
        users.sort();
        users
    }
}

#[tokio::test]
async fn a_machine_admin_assigns_users_and_no_admins() {
    for world in worlds().await {
        let stage = Stage::set(&world).await;
        let assigned = stage.assign(&stage.alice, EVE, "admin").await;
        allow_duplicates!(assert_snapshot!(assigned, @r#"
        200
        {
          "assignment": {
            "granted_at": "2026-01-31T12:00:00.000Z",
            "granted_by": 2,
            "permission": "user",
            "user_id": 4,
            "username": "eve"
          },
          "success": true
        }
        "#));
        let listed = stage.assigned().await;
        assert_eq!(listed, ["admin admin", "alice admin", "bob user", "eve user"]);
        let path = format!("/api/remote/machines/{}/assign", stage.machine);
        let plain = stage.alice.post(&path, json!({ "user_id": EVE })).await.ok();
        assert_eq!(plain.json["assignment"]["permission"], "user");
    }
}

#[tokio::test]
async fn a_machine_admin_touches_no_other_admin() {
    for world in worlds().await {
        let stage = Stage::set(&world).await;
        stage.assign(&stage.admin, EVE, "admin").await.ok();
        for other in [1, ALICE, EVE] {
            for permission in ["user", "admin"] {
                let refused = stage.assign(&stage.alice, other, permission).await;
                refused.refused(403, "machine_admin_protected");
            }
            let refused = stage.revoke(&stage.alice, other).await;
            refused.refused(403, "machine_admin_protected");
        }
        let listed = stage.assigned().await;
        assert_eq!(listed, ["admin admin", "alice admin", "bob user", "eve admin"]);
        let audit = world.audit().await;
        assert!(
            audit.contains(&"alice assignments.revoke_admin  denied".to_owned()),
            "{audit:?}"
        );
    }
}

#[tokio::test]
async fn a_machine_admin_revokes_users() {
    for world in worlds().await {
        let stage = Stage::set(&world).await;
        stage.revoke(&stage.alice, BOB).await.ok();
        let path = format!("/api/remote/machines/{}", stage.machine);
        stage.bob.get(&path).await.refused(404, "machine_not_found");
        stage.revoke(&stage.alice, BOB).await.refused(404, "not_found");
        let entry = format!("alice assignments.revoke machine:{} user:3 ok", stage.machine);
        assert!(world.audit().await.contains(&entry));
    }
}

#[tokio::test]
async fn a_system_admin_promotes_demotes_and_revokes_everybody() {
    for world in worlds().await {
        let stage = Stage::set(&world).await;
        stage.assign(&stage.admin, BOB, "admin").await.ok();
        stage.assign(&stage.admin, ALICE, "user").await.ok();
        assert_eq!(stage.assigned().await, ["admin admin", "alice user", "bob admin"]);
        let refused = stage.assign(&stage.alice, EVE, "user").await;
        refused.refused(403, "machine_admin_only");
        stage.revoke(&stage.admin, BOB).await.ok();
        stage.revoke(&stage.admin, 1).await.ok();
        assert_eq!(stage.assigned().await, ["alice user"]);
        let recorded = "SELECT COUNT(*) FROM audit_log WHERE action = 'assignments.revoke_admin'
                        AND before LIKE '%\"admin\"%' AND after LIKE '%\"user\"%'";
        assert_eq!(world.number(recorded).await, 1);
    }
}

#[tokio::test]
async fn users_of_a_machine_manage_nobody() {
    for world in worlds().await {
        let stage = Stage::set(&world).await;
        let users = format!("/api/remote/machines/{}/users", stage.machine);
        stage
            .assign(&stage.bob, EVE, "user")
            .await
            .refused(403, "machine_admin_only");
        stage.revoke(&stage.bob, BOB).await.refused(403, "machine_admin_only");
        stage.bob.get(&users).await.refused(403, "machine_admin_only");
        stage.alice.get(&users).await.ok();
        for stranger in [EVE, MALLORY] {
            let stranger = world.logged_in(UserId(stranger)).await;
            stage
                .assign(&stranger, EVE, "user")
                .await
                .refused(404, "machine_not_found");
            stage.revoke(&stranger, BOB).await.refused(404, "machine_not_found");
            stranger.get(&users).await.refused(404, "machine_not_found");
        }
    }
}

#[tokio::test]
async fn nobody_is_assigned_across_tenants() {
    for world in worlds().await {
        let stage = Stage::set(&world).await;
        let refused = stage.assign(&stage.admin, MALLORY, "user").await;
        refused.refused(400, "user_of_another_tenant");
        let (there, absent) = (
            stage.assign(&stage.alice, MALLORY, "user").await,
            stage.assign(&stage.alice, 99, "user").await,
        );
        assert_eq!(
            there.to_string(),
            absent.to_string(),
            "machine admins do not learn who is elsewhere"
        );
        there.refused(400, "unknown_user");
    }
}

#[tokio::test]
async fn bad_assignments_are_refused() {
    for world in worlds().await {
        let stage = Stage::set(&world).await;
        let refused = stage.assign(&stage.admin, EVE, "owner").await;
        refused.refused(400, "unknown_permission");
        stage
            .assign(&stage.admin, 99, "user")
            .await
            .refused(400, "unknown_user");
        let path = format!("/api/remote/machines/{}/assign", stage.machine);
        for wrong in [
            json!({}),
            json!({ "user_id": "4" }),
            json!({ "user_id": 4, "role": "x" }),
        ] {
            stage.admin.post(&path, wrong).await.refused(400, "invalid_body");
        }
        let wish = json!({ "user_id": EVE });
        let nowhere = "/api/remote/machines/00000000-0000-0000-0000-000000000001";
        for method in ["assign", "users"] {
            let path = format!("{nowhere}/{method}");
            let answer = match method {
                "users" => stage.admin.get(&path).await,
                _ => stage.admin.post(&path, wish.clone()).await,
            };
            answer.refused(404, "machine_not_found");
        }
        let path = "/api/remote/machines/m/assign";
        stage.admin.post(path, wish).await.refused(400, "invalid_field");
        stage
            .admin
            .delete(&format!("{path}/4"))
            .await
            .refused(400, "invalid_field");
        let path = format!("/api/remote/machines/{}/assign/x", stage.machine);
        stage.admin.delete(&path).await.refused(404, "not_found");
    }
}

#[tokio::test]
async fn revoked_access_ends_the_users_sessions_there() {
    for world in worlds().await {
        let stage = Stage::set(&world).await;
        let sessions = [
            ("00000000-0000-0000-0000-0000000000a1", BOB),
            ("00000000-0000-0000-0000-0000000000a2", ALICE),
        ];
        for (id, user) in sessions {
            sqlx::query(
                "INSERT INTO agent_sessions (session_id, user_id, tenant_id, remote_machine_id, status, project_path, cli_tool,
                                             created_at, updated_at)
                 VALUES ($1, $2, 1, $3, 'paused', '/p', 'claude-code', 0, 0)",
            )
            .bind(id)
            .bind(user)
            .bind(stage.machine.to_string())
            .execute(&world.database.db.write)
            .await
            .unwrap();
        }
        let revoked = stage.revoke(&stage.alice, BOB).await.ok();
        assert_eq!(revoked.json["stopped_sessions"], 1);
        let stopped =
            "SELECT COUNT(*) FROM agent_sessions WHERE user_id = 3 AND status = 'stopped' AND token_generation = 1";
        assert_eq!(world.number(stopped).await, 1);
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM agent_sessions WHERE status = 'paused'")
                .await,
            1
        );
        let told = "SELECT COUNT(*) FROM agent_commands WHERE type = 'stop_session' AND session_id LIKE '%a1'";
        assert_eq!(world.number(told).await, 1);
    }
}

#[tokio::test]
async fn users_are_listed_in_pages() {
    for world in worlds().await {
        let stage = Stage::set(&world).await;
        world.clock.advance(Duration::from_secs(1));
        stage.assign(&stage.alice, EVE, "user").await.ok();
        let path = format!("/api/remote/machines/{}/users?limit=3", stage.machine);
        let first = stage.alice.get(&path).await.ok().json;
        assert_eq!(first["users"][0]["username"], "eve");
        let next = first["next"].as_str().unwrap();
        let second = stage.alice.get(&format!("{path}&after={next}")).await.ok().json;
        assert_eq!(second["users"].as_array().unwrap().len(), 1);
        assert!(second.get("next").is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_promotion_is_not_undone_by_an_assignment_at_the_same_moment() {
    for world in worlds().await {
        let stage = Stage::set(&world).await;
        let (promoted, assigned) = tokio::join!(
            stage.assign(&stage.admin, BOB, "admin"),
            stage.assign(&stage.alice, BOB, "user"),
        );
        promoted.ok();
        let status = assigned.status.as_u16();
        assert!([200, 403, 409].contains(&status), "{assigned}");
        assert!(stage.assigned().await.contains(&"bob admin".to_owned()));
        assert_eq!(stage.world.number("SELECT COUNT(*) FROM machine_assignments").await, 3);
    }
}
