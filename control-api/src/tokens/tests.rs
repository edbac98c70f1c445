use std::time::Duration;

use serde_json::json;

use crate::testing::{Client, World, worlds};

/// Somebody who acts with a personal token.
async fn program(world: &World, user: &Client, wish: serde_json::Value) -> Client {
    let made = user.post("/api/tokens", wish).await.ok();
    world.nobody().with(
        "authorization",
        &format!("Bearer {}", made.json["token"].as_str().unwrap()),
    )
}

#[tokio::test]
async fn a_token_acts_for_its_user_until_it_is_revoked() {
    for world in worlds().await {
        let bob = world.user("bob").await;
        let program = program(&world, &bob, json!({ "name": "ci" })).await;
        assert_eq!(program.get("/api/auth/me").await.ok().json["user"]["username"], "bob");
        let list = bob.get("/api/tokens").await.ok();
        assert_eq!(list.json["tokens"][0]["name"], "ci");
        assert_eq!(list.json["tokens"][0]["last_used_at"], "2026-01-31T12:00:00.000Z");
        assert!(!list.text.contains("acep_"), "shown once only");
        bob.delete("/api/tokens/1").await.ok();
        program.get("/api/auth/me").await.refused(401, "not_authenticated");
        bob.delete("/api/tokens/1").await.refused(404, "not_found");
    }
}

#[tokio::test]
async fn a_scope_is_a_limit() {
    for world in worlds().await {
        let admin = world.admin().await;
        let reader = program(&world, &admin, json!({ "name": "r", "scopes": ["read"] })).await;
        reader.get("/api/users").await.ok();
        reader
            .post("/api/users", json!({ "username": "eve" }))
            .await
            .refused(403, "scope_missing");
        reader
            .post("/api/tokens", json!({ "name": "wider" }))
            .await
            .refused(403, "scope_missing");
        reader
            .post("/api/proxy-tokens", json!({}))
            .await
            .refused(403, "scope_missing");
        let caller = program(&world, &admin, json!({ "name": "l", "scopes": ["llm"] })).await;
        caller.post("/api/proxy-tokens", json!({})).await.ok();
        caller.get("/api/users").await.refused(403, "scope_missing");
    }
}

#[tokio::test]
async fn a_token_ends_when_it_was_told_to() {
    for world in worlds().await {
        let bob = world.user("bob").await;
        let wish = json!({ "name": "short", "expires_at": "2026-01-31T20:00:10+08:00" });
        let program = program(&world, &bob, wish).await;
        world.clock.advance(Duration::from_secs(9));
        program.get("/api/auth/me").await.ok();
        world.clock.advance(Duration::from_secs(1));
        program.get("/api/auth/me").await.refused(401, "not_authenticated");
    }
}

#[tokio::test]
async fn anothers_token_is_not_there() {
    for world in worlds().await {
        let (bob, eve) = (world.user("bob").await, world.user("eve").await);
        let program = program(&world, &bob, json!({ "name": "ci" })).await;
        eve.delete("/api/tokens/1").await.refused(404, "not_found");
        assert_eq!(eve.get("/api/tokens").await.ok().json["tokens"], json!([]));
        program.get("/api/auth/me").await.ok();
        world.admin().await.delete("/api/tokens/1").await.ok();
        program.get("/api/auth/me").await.refused(401, "not_authenticated");
    }
}

#[tokio::test]
async fn bad_wishes_are_refused() {
    for world in worlds().await {
        let bob = world.user("bob").await;
        for wish in [
            json!({ "name": "" }),
            json!({ "name": "x", "scopes": [] }),
            json!({ "name": "x", "scopes": ["root"] }),
            json!({ "name": "x", "expires_at": "2026-01-31T12:00:00Z" }),
            json!({ "name": "x", "expires_at": "tomorrow" }),
        ] {
            let refused = bob.post("/api/tokens", wish).await;
            assert_eq!(refused.status, 400, "{refused}");
        }
    }
}

#[tokio::test]
async fn a_programs_write_needs_no_cookie_rules() {
    for world in worlds().await {
        let bob = world.user("bob").await;
        let program = program(&world, &bob, json!({ "name": "ci" }))
            .await
            .with("origin", "http://elsewhere.test");
        program.post("/api/proxy-tokens", json!({})).await.ok();
    }
}
