use std::time::Duration;

use ace_policies::UserId;
use serde_json::{Value, json};

use crate::TokenWish;
use crate::teller::tests::{machine, session};
use crate::testing::{Client, World, worlds};

async fn key(admin: &Client, models: Value) {
    let wish = json!({ "provider": "anthropic", "key_name": "k", "api_key": "sk-secret-1", "models": models });
    admin.post("/api/remote/api-keys", wish).await.ok();
}

/// Whether it is allowed, and each check in a line.
async fn explained(admin: &Client, question: Value) -> (bool, Vec<String>) {
    let answer = admin.post("/api/explain", question).await.ok().json;
    let line = |check: &Value| {
        let verdict = if check["ok"] == true { "yes" } else { "no" };
        let text = |field: &str| check[field].as_str().unwrap().to_owned();
        format!("{} {verdict}: {}", text("check"), text("reason"))
    };
    let lines = answer["checks"].as_array().unwrap().iter().map(line).collect();
    (answer["allowed"] == true, lines)
}

#[tokio::test]
async fn every_reason_is_told_in_the_gateways_order() {
    for world in worlds().await {
        let admin = world.admin().await;
        let alice = world.add_user("alice").await;
        let limits = json!({ "limits": { "tokens_per_day": 1000, "requests_per_day": 0 } });
        admin.put(&format!("/api/quota/users/{alice}"), limits).await.ok();
        let question = json!({ "user_id": alice, "path": "/v1/messages", "model": "claude-opus-4-5" });
        let (allowed, lines) = explained(&admin, question.clone()).await;
        assert!(!allowed);
        let expected = [
            "user yes: alice is active",
            "provider yes: it goes to anthropic",
            "key no: no API key configured for provider 'anthropic'",
        ];
        assert_eq!(lines[..3], expected);
        assert!(
            lines[3].starts_with("price yes: it is priced by anthropic/"),
            "{lines:?}"
        );
        let limits = [
            format!("limit yes: tokens per day of user {alice}: 1000 of 1000 are left"),
            format!("limit no: requests per day of user {alice} are used up: 0 of 0"),
        ];
        assert_eq!(lines[4..], limits);

        key(&admin, json!(["claude-sonnet-4-5"])).await;
        let (_, lines) = explained(&admin, question.clone()).await;
        assert_eq!(
            lines[2],
            "key no: no key for anthropic is for the model claude-opus-4-5"
        );
        key(&admin, Value::Null).await;
        let free = json!({ "limits": { "requests_per_day": null } });
        admin.put(&format!("/api/quota/users/{alice}"), free).await.ok();
        let (allowed, lines) = explained(&admin, question).await;
        assert!(allowed, "{lines:?}");
    }
}

#[tokio::test]
async fn a_token_is_asked_what_it_says_and_is_repeated_nowhere() {
    for world in worlds().await {
        let admin = world.admin().await;
        key(&admin, Value::Null).await;
        let alice = world.add_user("alice").await;
        let wish = TokenWish {
            user: alice,
            provider: Some(ace_policies::Provider::Anthropic),
            tool: "x".to_owned(),
            ttl: Duration::from_secs(300),
            session: None,
        };
        let token = world.app.issue_proxy_token(&wish).await.unwrap().token;
        let question = json!({ "token": token, "path": "/v1/messages" });
        let (allowed, lines) = explained(&admin, question.clone()).await;
        assert!(allowed, "{lines:?}");
        assert_eq!(
            lines[0],
            "token yes: it is signed by a key of ours, and good until 2026-01-31T12:05:00.000Z"
        );
        let other = json!({ "token": token, "path": "/v1/chat/completions" });
        let (allowed, lines) = explained(&admin, other).await;
        assert!(!allowed);
        assert_eq!(
            lines[2],
            "provider no: the token is for anthropic, the request for openai"
        );
        sqlx::query("UPDATE users SET token_generation = 1 WHERE id = $1")
            .bind(alice.0)
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let (_, lines) = explained(&admin, question.clone()).await;
        assert!(
            lines.contains(&"token no: the token was revoked".to_owned()),
            "{lines:?}"
        );
        world.clock.advance(Duration::from_secs(300));
        let (allowed, lines) = explained(&admin, question).await;
        assert!(
            !allowed && lines.len() == 1 && lines[0].starts_with("token no"),
            "{lines:?}"
        );
        assert!(!admin.get("/api/audit").await.ok().text.contains(&token));
    }
}

async fn with_session(world: &World, admin: &Client, user: UserId, status: &'static str) -> Vec<String> {
    let machine = machine(world, "prod").await;
    let session = session(world, machine, user).await;
    sqlx::query("UPDATE agent_sessions SET status = $1 WHERE session_id = $2")
        .bind(status)
        .bind(session.to_string())
        .execute(&world.database.db.write)
        .await
        .unwrap();
    let question = json!({ "user_id": 1, "session_id": session, "provider": "anthropic" });
    explained(admin, question).await.1
}

#[tokio::test]
async fn a_session_must_be_live_and_ones_own() {
    for world in worlds().await {
        let admin = world.admin().await;
        let alice = world.add_user("alice").await;
        let lines = with_session(&world, &admin, UserId(1), "active").await;
        assert_eq!(lines[1], "session yes: the session is active");
        let lines = with_session(&world, &admin, UserId(1), "stopped").await;
        assert_eq!(lines[1], "session no: the session is stopped, and its tokens with it");
        let lines = with_session(&world, &admin, alice, "active").await;
        assert_eq!(lines[1], "session no: the session is somebody else's");
    }
}

#[tokio::test]
async fn questions_that_make_no_sense_name_the_field() {
    let world = &worlds().await[0];
    let admin = world.admin().await;
    for (question, code) in [
        (json!({}), "invalid_field"),
        (json!({ "user_id": 1, "token": "x" }), "invalid_field"),
        (json!({ "user_id": 1, "provider": "x" }), "unknown_provider"),
        (json!({ "user_id": 1, "session_id": "x" }), "invalid_field"),
        (json!({ "token": "x", "session_id": "x" }), "invalid_field"),
    ] {
        admin.post("/api/explain", question).await.refused(400, code);
    }
    let (allowed, lines) = explained(&admin, json!({ "user_id": 99 })).await;
    assert_eq!(
        (allowed, &*lines),
        (false, &["user no: there is no user 99".to_owned()][..])
    );
}
