//! The data plane as its clients see it: whose token, whose key, and what a request keeps and loses on its way.

use std::time::{Duration, Instant};

use ace_tests::{Ask, Dialect, Provider, Script, World};
use serde_json::json;

#[tokio::test]
async fn the_real_key_takes_the_place_of_the_token() {
    let world = World::start().await;
    for dialect in Dialect::ALL {
        let token = world.token(dialect).await;
        world.provider.forget();
        world.call(&dialect.authorize(dialect.ask(), &token)).await.expect(200);
        let seen = world.provider.request();
        assert_eq!(seen.credentials(), dialect.injected());
        assert_eq!(seen.line(), format!("POST {}", dialect.path()));
        assert!(
            !seen.everything().contains(&token),
            "the proxy token reached the provider"
        );
    }
}

#[tokio::test]
async fn a_token_is_taken_from_every_place_where_clients_put_it() {
    let world = World::start().await;
    for dialect in Dialect::ALL {
        let token = world.token(dialect).await;
        let path = dialect.path();
        let asks = [
            Ask::post(path).header("Authorization", format!("Bearer {token}")),
            Ask::post(path).header("authorization", format!("bearer {token}")),
            Ask::post(path).header("X-Api-Key", &token),
            Ask::post(path).header("x-goog-api-key", &token),
            Ask::post(&format!("{path}?key={token}")),
            Ask::post(path).header("x-api-key", token.replace('.', "%2E")),
        ];
        for ask in asks {
            world.provider.forget();
            world.call(&ask.json(&dialect.body())).await.expect(200);
            let seen = world.provider.request();
            assert_eq!(
                (seen.credentials(), seen.line()),
                (dialect.injected(), format!("POST {path}").as_str())
            );
        }
    }
}

#[tokio::test]
async fn of_several_credentials_exactly_one_must_be_a_token_and_none_is_forwarded() {
    let world = World::start().await;
    let token = world.token(Dialect::Anthropic).await;
    let other = world.token(Dialect::Anthropic).await;
    let ask = || Dialect::Anthropic.ask();
    world
        .call(&ask().header("x-api-key", &token).bearer(&token))
        .await
        .expect(200);
    world
        .call(&ask().header("x-api-key", "sk-ant-of-the-user").bearer(&token))
        .await
        .expect(200);
    for seen in world.provider.requests() {
        assert_eq!(seen.credentials(), Dialect::Anthropic.injected());
        assert!(!seen.everything().contains("sk-ant-of-the-user"));
    }
    world
        .call(&ask().header("x-api-key", &other).bearer(&token))
        .await
        .expect(401);
    assert_eq!(world.provider.requests().len(), 2);
}

#[tokio::test]
async fn who_is_behind_the_gateway_stays_with_the_gateway() {
    let world = World::start().await;
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    let ask = ask
        .header("Cookie", "session_token=aces_x")
        .header("X-Forwarded-For", "10.1.2.3");
    let ask = ask
        .header("Forwarded", "for=10.1.2.3")
        .header("X-Forwarded-Host", "h")
        .header("X-Real-IP", "10.1.2.3");
    let ask = ask
        .header("Via", "1.1 x")
        .header("X-Ace-Client", "10.1.2.3")
        .header("X-Ace-Signature", "00");
    world.call(&ask).await.expect(200);
    let seen = world.provider.request();
    for name in [
        "cookie",
        "x-forwarded-for",
        "forwarded",
        "x-forwarded-host",
        "x-real-ip",
        "x-ace-client",
        "x-ace-signature",
    ] {
        assert!(!seen.head.has(name), "{name} reached the provider");
    }
    assert!(!seen.everything().contains("10.1.2.3"));
}

#[tokio::test]
async fn trap_16_the_query_and_unknown_headers_survive() {
    let world = World::start().await;
    let token = world.token(Dialect::Anthropic).await;
    let ask = Ask::post("/api/remote/llm-proxy/v1/messages?beta=true&x=%2F%20+&keys&y=&key2=1")
        .json(&Dialect::Anthropic.body());
    let ask = ask
        .header("anthropic-version", "2099-01-01")
        .header("anthropic-beta", "a-2025-01-01,b-2025-02-02");
    let ask = ask
        .header("anthropic-beta", "c")
        .header("x-stainless-retry-count", "0")
        .header("X-Never-Heard-Of", "\t1  2 ");
    world.call(&ask.header("x-api-key", &token)).await.expect(200);
    let seen = world.provider.request();
    assert_eq!(seen.line(), "POST /v1/messages?beta=true&x=%2F%20+&keys&y=&key2=1");
    assert_eq!(seen.head.all("anthropic-beta"), ["a-2025-01-01,b-2025-02-02", "c"]);
    assert_eq!(seen.header("anthropic-version").as_deref(), Some("2099-01-01"));
    assert_eq!(seen.header("x-never-heard-of").as_deref(), Some("1  2"));
}

#[tokio::test]
async fn headers_that_belong_to_the_connection_end_with_it() {
    let world = World::start().await;
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    let ask = ask
        .header("Connection", "keep-alive, X-Mine, authorization, x-api-key")
        .header("X-Mine", "1");
    let ask = ask
        .header("Keep-Alive", "timeout=5")
        .header("TE", "trailers")
        .header("Proxy-Connection", "keep-alive");
    let ask = ask.header("Proxy-Authorization", "Basic eDp5").header("Upgrade", "h2c");
    world.provider.plays(Script::raw(
        "HTTP/1.1 200 OK\r\nConnection: x-theirs\r\nX-Theirs: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 1\r\ncontent-length: 2\r\n\r\n{}",
    ));
    let answer = world.call(&ask).await.expect(200);
    let seen = world.provider.request();
    assert_eq!(
        seen.credentials(),
        Dialect::OpenAi.injected(),
        "a client must not be able to name our header away"
    );
    for name in ["x-mine", "keep-alive", "te", "proxy-connection", "upgrade"] {
        assert!(!seen.head.has(name), "{name} reached the provider");
    }
    assert_eq!(
        (answer.header("x-theirs"), answer.header("x-kept").as_deref()),
        (None, Some("1"))
    );
}

#[tokio::test]
async fn the_environments_keys_are_never_used() {
    let world = World::builder()
        .without_keys()
        .environment("OPENAI_API_KEY", "sk-env-openai-00000000");
    let world = world
        .environment("ANTHROPIC_API_KEY", "sk-env")
        .environment("GEMINI_API_KEY", "sk-env")
        .start()
        .await;
    for dialect in Dialect::ALL {
        let answer = world.main_call(dialect).await.expect(400);
        let message = format!("No API key configured for provider '{}'", dialect.name());
        assert_eq!(answer.json()["error"]["message"], json!(message));
        assert_eq!(answer.header("x-should-retry").as_deref(), Some("false"));
    }
    assert_eq!(world.provider.connections(), 0);
}

#[tokio::test]
async fn a_new_key_is_used_at_once() {
    let world = World::start().await;
    world.main_call(Dialect::OpenAi).await.expect(200);
    let second = Provider::start().await;
    world
        .store_key(Dialect::OpenAi, &format!("{}/v1", second.url()), "sk-second-0123456789")
        .await;
    ace_tests::eventually("the new key", async || {
        world.main_call(Dialect::OpenAi).await.expect(200);
        (!second.requests().is_empty()).then_some(())
    })
    .await;
    assert_eq!(
        second.request().header("authorization").as_deref(),
        Some("Bearer sk-second-0123456789")
    );
}

#[tokio::test]
async fn the_token_of_a_disabled_user_is_refused_within_a_second() {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    let ask = Dialect::OpenAi.ask().bearer(&token);
    world.call(&ask).await.expect(200);
    world
        .admin
        .patch(&format!("/api/users/{}", world.alice.id), json!({"is_active": false}))
        .await
        .ok();
    let disabled = Instant::now();
    let refused = ace_tests::eventually("the refusal", async || {
        let answer = world.call(&ask).await;
        (answer.status == 401).then_some(Instant::now())
    });
    assert!(refused.await - disabled < Duration::from_secs(1));
}
