use std::time::Duration;

use ace_policies::token::{Claims, Keyring};
use ace_policies::{Provider, TenantId, UserId};
use serde_json::json;

use crate::testing::{NOON, World, worlds};
use crate::{App, TokenWish};

/// What a gateway reads in a token.
async fn claims(app: &App, token: &str, now: i64) -> Option<Claims> {
    Keyring::new(vec![app.signing_key().await.unwrap()])
        .verify(token, now)
        .ok()
}

async fn issued(world: &World, body: serde_json::Value) -> (String, serde_json::Value) {
    let bob = world.user("bob").await;
    let made = bob.post("/api/proxy-tokens", body).await.ok();
    (made.json["token"].as_str().unwrap().to_owned(), made.json)
}

#[tokio::test]
async fn a_token_says_who_and_for_what() {
    for world in worlds().await {
        let (token, answer) = issued(
            &world,
            json!({ "provider": "anthropic", "ttl": 60, "tool": "claude-code" }),
        )
        .await;
        assert_eq!(answer["expires_at"], "2026-01-31T12:01:00.000Z");
        let urls =
            json!({ "openai": "http://ace.test/v1", "anthropic": "http://ace.test", "google": "http://ace.test" });
        assert_eq!(answer["base_urls"], urls);
        let claims = claims(&world.app, &token, NOON / 1000).await.unwrap();
        assert_eq!((claims.user, claims.tenant), (UserId(2), TenantId(1)));
        assert_eq!(
            (claims.provider, claims.tool.as_str()),
            (Some(Provider::Anthropic), "claude-code")
        );
        assert_eq!((claims.session, claims.machine, claims.generation), (None, None, 0));
    }
}

#[tokio::test]
async fn trap_29_a_token_lasts_its_time_in_every_zone() {
    for world in worlds().await {
        let (token, answer) = issued(&world, json!({})).await;
        assert_eq!(answer["expires_at"], "2026-01-31T12:05:00.000Z", "five minutes, in UTC");
        let at = async |seconds| claims(&world.app, &token, NOON / 1000 + seconds).await.is_some();
        assert!(at(0).await && at(299).await);
        assert!(!at(300).await && !at(8 * 3600).await);
    }
}

#[tokio::test]
async fn nobody_gets_a_longer_life_than_the_operator_allows() {
    for world in worlds().await {
        let bob = world.user("bob").await;
        for ttl in [0, 301, 1_000_000_000_000_000_u64] {
            let refused = bob
                .post("/api/proxy-tokens", json!({ "ttl": ttl }))
                .await
                .refused(400, "invalid_field");
            assert_eq!(refused.json["error"], "ttl: must be between 1 and 300 seconds");
        }
        bob.post("/api/proxy-tokens", json!({ "ttl": -1 }))
            .await
            .refused(400, "invalid_body");
        bob.post("/api/proxy-tokens", json!({ "provider": "x" }))
            .await
            .refused(400, "unknown_provider");
        bob.post("/api/proxy-tokens", json!({ "tool": "a b" }))
            .await
            .refused(400, "invalid_field");
    }
}

#[tokio::test]
async fn whoever_wants_nothing_special_says_nothing() {
    for world in worlds().await {
        let bob = world.user("bob").await;
        bob.send("POST", "/api/proxy-tokens", axum::body::Body::empty())
            .await
            .ok();
    }
}

#[tokio::test]
async fn a_token_carries_the_generation_that_revokes_it() {
    for world in worlds().await {
        sqlx::query("UPDATE users SET token_generation = 7")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let admin = world.admin().await.post("/api/proxy-tokens", json!({})).await.ok();
        let token = admin.json["token"].as_str().unwrap();
        assert_eq!(claims(&world.app, token, NOON / 1000).await.unwrap().generation, 7);
        let audit = world
            .admin()
            .await
            .get("/api/audit?action=proxy_tokens.create")
            .await
            .ok();
        assert!(!audit.text.contains(token), "the record of a token is not the token");
        assert_eq!(audit.json["entries"][0]["after"]["tool"], "api");
    }
}

#[tokio::test]
async fn a_program_may_make_tokens_that_last() {
    for world in worlds().await {
        let day = Duration::from_secs(86_400);
        let wish = TokenWish {
            user: UserId(1),
            session: None,
            provider: None,
            tool: "demo".to_owned(),
            ttl: day,
        };
        let token = world.app.issue_proxy_token(&wish).await.unwrap();
        assert_eq!(token.expires_at, NOON / 1000 + 86_400);
        assert!(claims(&world.app, &token.token, NOON / 1000 + 86_399).await.is_some());
        let nobody = TokenWish {
            user: UserId(99),
            ..wish
        };
        assert!(world.app.issue_proxy_token(&nobody).await.is_err());
    }
}
