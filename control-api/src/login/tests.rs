use std::time::Duration;

use axum::body::Body;
use insta::{allow_duplicates, assert_snapshot};
use serde_json::json;

use crate::testing::{ADMIN_PASSWORD, empty_worlds, worlds};
use crate::{FirstAdmin, bootstrap};

#[tokio::test]
async fn a_login_sets_the_cookie_and_the_cookie_logs_in() {
    for world in worlds().await {
        let login = world.nobody().log_in("Admin", ADMIN_PASSWORD).await;
        allow_duplicates!(assert_snapshot!(login, @r#"
        200
        {
          "success": true,
          "user": {
            "created_at": "2026-01-31T12:00:00.000Z",
            "email": null,
            "id": 1,
            "is_active": true,
            "last_login_at": null,
            "must_change_password": false,
            "role": "admin",
            "tenant_id": 1,
            "username": "admin"
          }
        }
        "#));
        let cookie = login.header("set-cookie");
        assert!(
            cookie.ends_with("; HttpOnly; SameSite=Lax; Path=/; Max-Age=43200"),
            "{cookie}"
        );
        let browser = world
            .nobody()
            .with("cookie", &format!("other=1; session_token={}", login.cookie()));
        assert_eq!(browser.get("/api/auth/me").await.ok().json["user"]["username"], "admin");
        let program = world
            .nobody()
            .with("authorization", &format!("Bearer {}", login.cookie()));
        assert_eq!(program.get("/api/auth/me").await.ok().json["user"]["username"], "admin");
    }
}

#[tokio::test]
async fn wrong_credentials_are_answered_alike() {
    for world in worlds().await {
        let wrong = world
            .nobody()
            .log_in("admin", "wrong")
            .await
            .refused(401, "wrong_credentials");
        let unknown = world
            .nobody()
            .log_in("my-passw0rd", "wrong")
            .await
            .refused(401, "wrong_credentials");
        assert_eq!(wrong.json, unknown.json);
        sqlx::query("UPDATE users SET is_active = 0")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let disabled = world
            .nobody()
            .log_in("admin", ADMIN_PASSWORD)
            .await
            .refused(401, "wrong_credentials");
        assert_eq!(wrong.json, disabled.json);
        let audit = world.audit().await;
        let failures = [
            "admin account.login  failed",
            "unknown account.login  failed",
            "admin account.login  failed",
        ];
        assert_eq!(audit[1..], failures, "a name that is nobody's may be a password");
    }
}

#[tokio::test]
async fn bad_bodies_are_refused_in_words() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let nobody = world.nobody();
    let cases = [
        (
            json!({ "username": "admin" }),
            "invalid_body",
            "missing field `password`",
        ),
        (
            json!({ "username": "admin", "password": "" }),
            "missing_field",
            "username and password are needed",
        ),
        (
            json!({ "username": 7, "password": "x" }),
            "invalid_body",
            "username: invalid type",
        ),
        (
            json!({ "username": "a", "password": "x", "remember": true }),
            "invalid_body",
            "unknown field `remember`",
        ),
        (
            json!({ "username": "a\u{0}", "password": "x" }),
            "invalid_field",
            "username: must not contain",
        ),
        (json!([]), "invalid_body", "invalid length 0"),
    ];
    for (body, code, message) in cases {
        let answer = nobody.post("/api/auth/login", body).await.refused(400, code);
        assert!(answer.json["error"].as_str().unwrap().contains(message), "{answer}");
    }
    let typed = |content_type: &str| nobody.clone().with("content-type", content_type);
    let login = "/api/auth/login";
    typed("application/json")
        .send("POST", login, Body::from("{"))
        .await
        .refused(400, "invalid_body");
    typed("text/plain")
        .send("POST", login, Body::from("{}"))
        .await
        .refused(415, "unsupported_media_type");
    typed("application/json")
        .send("POST", login, Body::empty())
        .await
        .refused(400, "invalid_body");
    let huge = "x".repeat((1 << 20) + 1);
    typed("application/json")
        .send("POST", login, Body::from(huge))
        .await
        .refused(413, "body_too_large");
}

#[tokio::test]
async fn check_never_answers_401() {
    for world in worlds().await {
        let nobody = world.nobody().get("/api/auth/check").await.ok();
        assert_eq!(nobody.json, json!({ "authenticated": false }));
        let stale = world
            .nobody()
            .with("cookie", "session_token=aces_stale")
            .get("/api/auth/check")
            .await
            .ok();
        assert_eq!(stale.json, json!({ "authenticated": false }));
        let admin = world.admin().await.get("/api/auth/check").await.ok();
        assert_eq!(admin.json["authenticated"], true);
        assert_eq!(admin.json["user"]["role"], "admin");
    }
}

#[tokio::test]
async fn a_logout_ends_the_login_in_the_store() {
    for world in worlds().await {
        let admin = world.admin().await;
        let logout = admin.send("POST", "/api/auth/logout", Body::empty()).await.ok();
        assert_eq!(
            logout.header("set-cookie"),
            "session_token=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0"
        );
        admin.get("/api/auth/me").await.refused(401, "not_authenticated");
        admin.send("POST", "/api/auth/logout", Body::empty()).await.ok();
    }
}

#[tokio::test]
async fn a_login_ends_by_itself() {
    for world in worlds().await {
        let admin = world.admin().await;
        world.clock.advance(Duration::from_secs(43_199));
        admin.get("/api/auth/me").await.ok();
        world.clock.advance(Duration::from_secs(1));
        admin.get("/api/auth/me").await.refused(401, "not_authenticated");
    }
}

#[tokio::test]
async fn a_new_password_ends_the_other_logins_and_the_proxy_tokens() {
    for world in worlds().await {
        let (here, elsewhere) = (world.admin().await, world.admin().await);
        let change = |current: &str, new: &str| json!({ "current_password": current, "new_password": new });
        let path = "/api/auth/change-password";
        here.post(path, change("wrong", "a new password"))
            .await
            .refused(401, "wrong_password");
        here.post(path, change(ADMIN_PASSWORD, "admin123"))
            .await
            .refused(400, "weak_password");
        here.post(path, change(ADMIN_PASSWORD, ADMIN_PASSWORD))
            .await
            .refused(400, "same_password");
        here.post(path, change(ADMIN_PASSWORD, "a new password")).await.ok();
        here.get("/api/auth/me").await.ok();
        elsewhere.get("/api/auth/me").await.refused(401, "not_authenticated");
        world
            .nobody()
            .log_in("admin", ADMIN_PASSWORD)
            .await
            .refused(401, "wrong_credentials");
        world.nobody().log_in("admin", "a new password").await.ok();
        assert_eq!(world.number("SELECT token_generation FROM users WHERE id = 1").await, 1);
        assert!(world.number("SELECT version FROM wakeups WHERE topic = 'auth'").await > 1);
    }
}

#[tokio::test]
async fn trap_33_a_generated_password_must_be_changed_before_anything_else() {
    for world in empty_worlds().await {
        let made = bootstrap(&world.app, FirstAdmin { password: None }).await.unwrap();
        let password = made.admin_password.unwrap().expose().to_owned();
        let login = world.nobody().log_in("admin", &password).await.ok();
        assert_eq!(login.json["user"]["must_change_password"], true);
        let admin = world
            .nobody()
            .with("cookie", &format!("session_token={}", login.cookie()));
        for path in [
            "/api/users",
            "/api/remote/api-keys",
            "/api/tokens",
            "/api/audit",
            "/api/usage/requests",
        ] {
            let refused = admin.get(path).await.refused(403, "password_change_required");
            assert_eq!(refused.json["hint"], "POST /api/auth/change-password");
        }
        admin
            .post("/api/proxy-tokens", json!({}))
            .await
            .refused(403, "password_change_required");
        admin.get("/api/auth/me").await.ok();
        admin.get("/api/auth/check").await.ok();
        let body = json!({ "current_password": password, "new_password": "a new password" });
        admin.post("/api/auth/change-password", body).await.ok();
        admin.get("/api/users").await.ok();
    }
}

#[tokio::test]
async fn another_sites_page_writes_nothing_with_the_cookie() {
    for world in worlds().await {
        let admin = world.admin().await;
        let evil = admin.clone().with("origin", "http://evil.test");
        evil.post("/api/tokens", json!({ "name": "x" }))
            .await
            .refused(403, "cross_site");
        evil.send("POST", "/api/auth/logout", Body::empty())
            .await
            .refused(403, "cross_site");
        evil.get("/api/tokens").await.ok();
        world
            .nobody()
            .with("origin", "http://evil.test")
            .log_in("admin", "x")
            .await
            .refused(403, "cross_site");
        admin
            .clone()
            .with("sec-fetch-site", "same-site")
            .post("/api/tokens", json!({}))
            .await
            .refused(403, "cross_site");
        let own = admin
            .clone()
            .with("origin", "http://ace.test")
            .with("sec-fetch-site", "same-origin");
        own.post("/api/tokens", json!({ "name": "x" })).await.ok();
    }
}

#[tokio::test]
async fn trap_32_nobody_is_let_in_while_the_database_is_away() {
    for world in worlds().await {
        let admin = world.admin().await;
        world.database.db.close().await;
        let refused = admin.get("/api/auth/me").await.refused(503, "unavailable");
        assert!(!refused.text.contains("pool"), "{refused}");
        admin.get("/api/auth/check").await.refused(503, "unavailable");
        admin
            .post("/api/proxy-tokens", json!({}))
            .await
            .refused(503, "unavailable");
        world
            .nobody()
            .log_in("admin", ADMIN_PASSWORD)
            .await
            .refused(503, "unavailable");
    }
}
