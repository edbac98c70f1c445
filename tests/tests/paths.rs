//! Which path goes to which provider, and which goes nowhere.

use ace_tests::{Ask, Dialect, World};

#[tokio::test]
async fn a_key_in_the_query_is_cut_out_wherever_it_stands() {
    let world = World::start().await;
    let token = world.token(Dialect::Google).await;
    let path = "/v1beta/models/gemini-2.5-pro:generateContent";
    for (query, left) in [
        (format!("?key={token}"), ""),
        (format!("?key={token}&alt=sse"), "?alt=sse"),
        (format!("?alt=sse&key={token}&x=1"), "?alt=sse&x=1"),
        (format!("?alt=sse&key={token}"), "?alt=sse"),
    ] {
        world.provider.forget();
        world
            .call(&Ask::post(&format!("{path}{query}")).json(&Dialect::Google.body()))
            .await
            .expect(200);
        assert_eq!(world.provider.request().line(), format!("POST {path}{left}"));
    }
}

#[tokio::test]
async fn paths_are_joined_to_the_base_url() {
    let world = World::start().await;
    let prefix = "/api/remote/llm-proxy";
    for (dialect, asked, called) in [
        (Dialect::OpenAi, "", "/v1/chat/completions"),
        (Dialect::OpenAi, "/chat/completions", "/v1/chat/completions"),
        (Dialect::OpenAi, "/v1/chat/completions", "/v1/chat/completions"),
        (Dialect::OpenAi, "/v1/v1/responses", "/v1/responses"),
        (
            Dialect::OpenAi,
            "/v1/fine_tuning/jobs?limit=2",
            "/v1/fine_tuning/jobs?limit=2",
        ),
        (Dialect::Anthropic, "", "/v1/messages"),
        (Dialect::Anthropic, "/v1/v1/messages", "/v1/messages"),
        (Dialect::Google, "/v1/models/m:countTokens", "/v1/models/m:countTokens"),
    ] {
        world.provider.forget();
        let ask = dialect.authorize(Ask::post(&format!("{prefix}{asked}")), &world.token(dialect).await);
        world.call(&ask.json(&dialect.body())).await.expect(200);
        assert_eq!(world.provider.request().line(), format!("POST {called}"));
    }
}

#[tokio::test]
async fn paths_that_can_be_read_in_two_ways_are_refused() {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    for path in [
        "/../admin",
        "/v1/../../x",
        "//evil.example/v1",
        "/v1//chat",
        "/v1/%2e%2e/x",
        "/v1/a%2Fb",
        "/v1/a%5cb",
        "/v1/%00",
    ] {
        let answer = world
            .call(
                &Ask::post(&format!("/api/remote/llm-proxy{path}"))
                    .bearer(&token)
                    .body("{}"),
            )
            .await;
        assert_eq!((path, answer.status), (path, 400));
    }
    assert_eq!(world.provider.requests().len(), 0);
}

#[tokio::test]
async fn every_method_is_carried() {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    for method in ["GET", "PUT", "PATCH", "DELETE", "HEAD", "POST"] {
        world.provider.forget();
        world
            .wire()
            .await
            .call(&Ask::new(method, "/v1/files/f-1").bearer(&token))
            .await
            .expect(200);
        assert_eq!(world.provider.request().line(), format!("{method} /v1/files/f-1"));
    }
}

#[tokio::test]
async fn a_token_for_one_provider_is_no_token_for_another() {
    let world = World::start().await;
    for (token, path) in [
        (Dialect::OpenAi, Dialect::Anthropic),
        (Dialect::Anthropic, Dialect::Google),
        (Dialect::Google, Dialect::OpenAi),
    ] {
        let token = world.token(token).await;
        world.call(&path.ask().bearer(&token)).await.expect(403);
    }
    assert_eq!(world.provider.requests().len(), 0);
}

#[tokio::test]
async fn a_token_for_any_provider_goes_where_the_path_says() {
    let world = World::start().await;
    let token = world.alice.proxy_token(None).await;
    for dialect in Dialect::ALL {
        world.provider.forget();
        world.call(&dialect.authorize(dialect.ask(), &token)).await.expect(200);
        assert_eq!(world.provider.request().credentials(), dialect.injected());
    }
    for (header, dialect) in [
        ("anthropic-version", Dialect::Anthropic),
        ("x-goog-api-key", Dialect::Google),
        ("x-other", Dialect::OpenAi),
    ] {
        world.provider.forget();
        let value = if header == "x-goog-api-key" {
            token.as_str()
        } else {
            "2023-06-01"
        };
        world
            .call(&Ask::get("/v1/models").header(header, value).bearer(&token))
            .await
            .expect(200);
        assert_eq!(world.provider.request().credentials(), dialect.injected());
    }
}

#[tokio::test]
async fn trap_27_probes_need_no_token_and_upgrades_are_told_to_go_on_without() {
    let world = World::start().await;
    for path in [
        "/",
        "/api/hello",
        "/api/remote/llm-proxy",
        "/api/remote/llm-proxy/api/hello",
    ] {
        world.wire().await.call(&Ask::new("HEAD", path)).await.expect(200);
    }
    let ask = Ask::get("/v1/responses")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket");
    let ask = ask
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    world
        .call(&ask.bearer(&world.token(Dialect::OpenAi).await))
        .await
        .expect(426);
    assert_eq!(world.provider.connections(), 0);
}
