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
async fn trap_17_refusals_of_the_provider_pass_unchanged() {
    let world = World::start().await;
    for status in [400, 401, 402, 404, 413, 429, 500, 503, 529] {
        let body = format!("{{\"error\" : {{\"message\":\"as the provider wrote it {status}\"}} }}");
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nretry-after: 7\r\nrequest-id: r-1\r\n");
        let head = format!(
            "{head}anthropic-ratelimit-requests-remaining: 0\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        world.provider.plays(Script::raw(head + &body));
        let answer = world.main_call(Dialect::Anthropic).await.expect(status);
        assert_eq!(answer.text(), body);
        assert_eq!(answer.header("retry-after").as_deref(), Some("7"));
        assert_eq!(answer.header("request-id").as_deref(), Some("r-1"));
        assert_eq!(
            answer.header("anthropic-ratelimit-requests-remaining").as_deref(),
            Some("0")
        );
    }
}

#[tokio::test]
async fn trap_20_an_echo_of_the_real_key_is_masked() {
    let world = World::start().await;
    let key = Dialect::OpenAi.key();
    let body = json!({"error": {"message": format!("Incorrect API key provided: {key}."), "code": "invalid_api_key"}});
    world.provider.plays(Script::json(401, &body));
    let answer = world.main_call(Dialect::OpenAi).await.expect(401);
    assert!(!answer.text().contains(key), "{}", answer.text());
    assert!(
        answer.text().contains("Incorrect API key provided"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn trap_34_redirects_are_not_followed() {
    let world = World::start().await;
    let elsewhere = Provider::start().await;
    world.provider.plays(Script::raw(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {}/v1/x\r\ncontent-length: 0\r\n\r\n",
        elsewhere.url()
    )));
    let answer = world.main_call(Dialect::OpenAi).await.expect(307);
    assert_eq!(answer.header("location"), Some(format!("{}/v1/x", elsewhere.url())));
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_provider_cannot_set_cookies_on_our_host() {
    let world = World::start().await;
    world.provider.plays(Script::raw(
        "HTTP/1.1 200 OK\r\nSet-Cookie: session_token=x\r\nset-cookie: __cf_bm=y\r\ncontent-length: 2\r\n\r\n{}",
    ));
    assert!(
        !world
            .main_call(Dialect::OpenAi)
            .await
            .expect(200)
            .head
            .has("set-cookie")
    );
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

#[tokio::test]
async fn a_gemini_upload_goes_on_through_the_gateway_without_a_credential() {
    let world = World::start().await;
    let url = format!(
        "{}/upload/v1beta/files?upload_id=abc&upload_protocol=resumable",
        world.provider.url()
    );
    let head =
        format!("X-Goog-Upload-URL: {url}\r\nX-Goog-Upload-Control-URL: {url}\r\nX-Goog-Upload-Status: active\r\n");
    world.provider.plays_once(Script::raw(format!(
        "HTTP/1.1 200 OK\r\n{head}content-length: 2\r\n\r\n{{}}"
    )));
    let ask = Ask::post("/api/remote/llm-proxy/upload/v1beta/files").header("x-goog-upload-command", "start");
    let ask = ask
        .header("x-goog-api-key", world.token(Dialect::Google).await)
        .json(&json!({"file": {"displayName": "a"}}));
    let answer = world.call(&ask).await.expect(200);
    let ours = answer.header("x-goog-upload-url").expect("an upload URL");
    let start = format!("http://{}/", world.door.address);
    let path = ours
        .strip_prefix(&start)
        .unwrap_or_else(|| panic!("{ours} does not lead to the gateway"));
    assert!(!String::from_utf8_lossy(&answer.head.raw).contains(&world.provider.url()));
    let ask = Ask::post(&format!("/{path}"))
        .header("x-goog-upload-command", "upload, finalize")
        .body(&b"\x00\xff file"[..]);
    world.call(&ask).await.expect(200);
    let seen = &world.provider.requests()[1];
    assert_eq!(
        (seen.line(), &seen.body[..]),
        (
            "POST /upload/v1beta/files?upload_id=abc&upload_protocol=resumable",
            &b"\x00\xff file"[..]
        )
    );
    let mut forged = path.to_owned();
    forged.replace_range(forged.len() - 1.., if forged.ends_with('A') { "B" } else { "A" });
    let answer = world.call(&Ask::post(&format!("/{forged}")).body("x")).await;
    assert!(matches!(answer.status, 401 | 403), "{}", answer.status);
}
