use ace_policies::UserId;
use insta::{allow_duplicates, assert_snapshot};
use serde_json::json;

use crate::testing::worlds;

#[tokio::test]
async fn an_admin_makes_users_and_they_log_in() {
    for world in worlds().await {
        let admin = world.admin().await;
        let made = admin
            .post(
                "/api/users",
                json!({ "username": "Alice", "password": "alice's own password" }),
            )
            .await;
        allow_duplicates!(assert_snapshot!(made, @r#"
        200
        {
          "success": true,
          "user": {
            "created_at": "2026-01-31T12:00:00.000Z",
            "email": null,
            "id": 2,
            "is_active": true,
            "last_login_at": null,
            "must_change_password": false,
            "role": "user",
            "tenant_id": 1,
            "username": "alice"
          }
        }
        "#));
        world.nobody().log_in("ALICE", "alice's own password").await.ok();
        let again = admin.post("/api/users", json!({ "username": "aLICE" })).await;
        again.refused(409, "username_taken");
    }
}

#[tokio::test]
async fn a_made_password_is_shown_once_and_must_be_changed() {
    for world in worlds().await {
        let made = world
            .admin()
            .await
            .post("/api/users", json!({ "username": "bob" }))
            .await
            .ok();
        let password = made.json["initial_password"].as_str().unwrap();
        let login = world.nobody().log_in("bob", password).await.ok();
        assert_eq!(login.json["user"]["must_change_password"], true);
        assert!(world.audit().await.iter().all(|entry| !entry.contains(password)));
    }
}

#[tokio::test]
async fn bad_users_are_refused_naming_the_field() {
    for world in worlds().await {
        let admin = world.admin().await;
        let cases = [
            (json!({ "username": "a b" }), "username: "),
            (json!({ "username": "" }), "username: "),
            (json!({ "username": "аlice" }), "username: "),
            (json!({ "username": "eve", "role": "root" }), "role: unknown variant"),
            (json!({ "username": "eve", "email": "eve" }), "email: "),
            (json!({ "username": "eve", "tenant_id": 7 }), "tenant_id: "),
            (json!({ "username": "eve", "password": "short" }), "password: "),
            (json!({ "username": "eve", "admin": true }), "unknown field `admin`"),
        ];
        for (body, message) in cases {
            let refused = admin.post("/api/users", body).await;
            assert_eq!(refused.status, 400, "{refused}");
            assert!(refused.json["error"].as_str().unwrap().contains(message), "{refused}");
        }
        assert_eq!(world.number("SELECT COUNT(*) FROM users").await, 1);
    }
}

#[tokio::test]
async fn users_are_listed_in_pages() {
    for world in worlds().await {
        for name in ["ann", "ben", "cid"] {
            world.add_user(name).await;
        }
        let admin = world.admin().await;
        let first = admin.get("/api/users?limit=3").await.ok();
        let next = first.json["next"].as_str().unwrap();
        let second = admin.get(&format!("/api/users?limit=3&after={next}")).await.ok();
        let names = |page: &serde_json::Value| -> Vec<String> {
            page["users"]
                .as_array()
                .unwrap()
                .iter()
                .map(|user| user["username"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(
            [names(&first.json), names(&second.json)].concat(),
            ["cid", "ben", "ann", "admin"]
        );
        assert!(second.json.get("next").is_none());
        admin.get("/api/users?after=x").await.refused(400, "invalid_query");
        admin.get("/api/users?limit=0").await.refused(400, "invalid_field");
        admin.get("/api/users?nonsense=1").await.refused(400, "invalid_query");
    }
}

#[tokio::test]
async fn a_disabled_user_is_out_at_once() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.user("bob").await);
        let token = bob.post("/api/tokens", json!({ "name": "ci" })).await.ok().json["token"]
            .as_str()
            .unwrap()
            .to_owned();
        let program = world.nobody().with("authorization", &format!("Bearer {token}"));
        program.get("/api/auth/me").await.ok();
        admin.patch("/api/users/2", json!({ "is_active": false })).await.ok();
        bob.get("/api/auth/me").await.refused(401, "not_authenticated");
        program.get("/api/auth/me").await.refused(401, "not_authenticated");
        assert_eq!(world.number("SELECT token_generation FROM users WHERE id = 2").await, 1);
        admin.patch("/api/users/2", json!({ "is_active": true })).await.ok();
        bob.get("/api/auth/me").await.refused(401, "not_authenticated");
        assert_eq!(
            world.number("SELECT token_generation FROM users WHERE id = 2").await,
            1,
            "old tokens stay ended"
        );
    }
}

#[tokio::test]
async fn the_sessions_of_a_disabled_user_end() {
    for world in worlds().await {
        let (first, second) = (world.host(7).await, world.host(8).await);
        let bob = world.assigned("bob", first, "user").await;
        world.assign(UserId(2), second, "user").await;
        let alice = world.assigned("alice", first, "user").await;
        let sessions = [bob.starts(second).await, bob.starts(first).await];
        let hers = alice.starts(first).await;
        bob.says(sessions[0], "hi").await.ok();
        let admin = world.admin().await;
        admin.patch("/api/users/2", json!({ "is_active": false })).await.ok();
        for session in sessions {
            let seen = admin.sees(session).await;
            assert_eq!(
                (&seen["status"], &seen["error"]),
                (&json!("stopped"), &json!("the session's owner was disabled"))
            );
        }
        assert_eq!(admin.sees(hers).await["status"], "starting");
        let stops = "SELECT COUNT(*) FROM agent_commands WHERE type = 'stop_session' AND state = 'queued'";
        assert_eq!(world.number(stops).await, 2);
        let told = "SELECT COUNT(*) FROM audit_log WHERE after LIKE '%\"stopped_sessions\":2%'";
        assert_eq!(world.number(told).await, 1);
    }
}

#[tokio::test]
async fn a_reset_password_ends_everything_the_old_one_opened() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.user("bob").await);
        let token = bob.post("/api/tokens", json!({ "name": "ci" })).await.ok().json["token"]
            .as_str()
            .unwrap()
            .to_owned();
        let reset = admin
            .patch("/api/users/2", json!({ "password": "given by the admin" }))
            .await
            .ok();
        assert_eq!(reset.json["user"]["must_change_password"], true);
        bob.get("/api/auth/me").await.refused(401, "not_authenticated");
        let program = world.nobody().with("authorization", &format!("Bearer {token}"));
        program.get("/api/auth/me").await.refused(401, "not_authenticated");
        world.nobody().log_in("bob", "given by the admin").await.ok();
        let audit = world.audit().await;
        assert!(
            audit.contains(&"admin users.reset_password user:2 ok".to_owned()),
            "{audit:?}"
        );
    }
}

#[tokio::test]
async fn there_is_always_an_admin() {
    for world in worlds().await {
        let admin = world.admin().await;
        for change in [json!({ "role": "user" }), json!({ "is_active": false })] {
            admin.patch("/api/users/1", change).await.refused(409, "last_admin");
        }
        world.add_user("bob").await;
        admin.patch("/api/users/2", json!({ "role": "admin" })).await.ok();
        admin.patch("/api/users/1", json!({ "role": "user" })).await.ok();
        admin.get("/api/users").await.refused(403, "system_admin_only");
    }
}

#[tokio::test]
async fn two_admins_who_demote_each_other_leave_one() {
    for world in worlds().await {
        let (one, id) = (world.admin().await, world.add_user("bob").await);
        one.patch("/api/users/2", json!({ "role": "admin" })).await.ok();
        let other = world.logged_in(id).await;
        let demote = json!({ "role": "user" });
        let (first, second) = tokio::join!(
            one.patch("/api/users/2", demote.clone()),
            other.patch("/api/users/1", demote.clone())
        );
        let statuses = [first.status.as_u16(), second.status.as_u16()];
        assert!(statuses.contains(&200), "{statuses:?}");
        assert_eq!(
            world.number("SELECT COUNT(*) FROM users WHERE role = 'admin'").await,
            1,
            "{statuses:?}"
        );
    }
}

#[tokio::test]
async fn an_unknown_user_is_not_found() {
    for world in worlds().await {
        let admin = world.admin().await;
        for path in ["/api/users/999", "/api/users/x", "/api/users/9223372036854775808"] {
            admin.get(path).await.refused(404, "not_found");
            admin
                .patch(path, json!({ "is_active": false }))
                .await
                .refused(404, "not_found");
        }
    }
}

#[tokio::test]
async fn an_email_can_be_set_and_removed() {
    for world in worlds().await {
        let admin = world.admin().await;
        let set = admin
            .patch("/api/users/1", json!({ "email": "a@example.com" }))
            .await
            .ok();
        assert_eq!(set.json["user"]["email"], "a@example.com");
        let kept = admin
            .patch("/api/users/1", json!({ "must_change_password": false }))
            .await
            .ok();
        assert_eq!(kept.json["user"]["email"], "a@example.com");
        let removed = admin.patch("/api/users/1", json!({ "email": null })).await.ok();
        assert!(removed.json["user"]["email"].is_null());
    }
}
