//! What comes back from the provider, and what of it does not.

use ace_tests::{Ask, Dialect, Provider, Script, World};
use serde_json::json;

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
