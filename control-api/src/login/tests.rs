use std::time::Duration;

use insta::{allow_duplicates, assert_snapshot};
use serde_json::json;

use crate::testing::{ADMIN_PASSWORD, worlds};

#[tokio::test]
async fn a_login_sets_the_cookie_and_the_cookie_logs_in() {
    for world in worlds().await {
        let login = world.nobody().log_in("admin", ADMIN_PASSWORD).await;
        allow_duplicates!(assert_snapshot!(login, @""));
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
            .log_in("nobody", "wrong")
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
}

#[tokio::test]
async fn whoever_guesses_is_locked_out_and_only_they() {
    for world in worlds().await {
        for _ in 0..3 {
            world
                .nobody()
                .log_in("admin", "wrong")
                .await
                .refused(401, "wrong_credentials");
        }
        let locked = world
            .nobody()
            .log_in("admin", ADMIN_PASSWORD)
            .await
            .refused(429, "login_locked");
        assert_eq!(locked.header("retry-after"), "300");
        world.add_user("bob").await;
        world
            .nobody()
            .log_in("bob", "wrong")
            .await
            .refused(401, "wrong_credentials");
        // Trying on does not prolong it.
        world.clock.advance(Duration::from_secs(200));
        let locked = world
            .nobody()
            .log_in("admin", ADMIN_PASSWORD)
            .await
            .refused(429, "login_locked");
        assert_eq!(locked.header("retry-after"), "100");
        world.clock.advance(Duration::from_secs(101));
        world.nobody().log_in("admin", ADMIN_PASSWORD).await.ok();
    }
}
