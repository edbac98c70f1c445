//! The relay between a real HTTP client and a scripted gateway, on real sockets.

use std::sync::atomic::Ordering::SeqCst;

use tokio::io::AsyncWriteExt;

mod gateway;

use super::*;
use crate::transport::BreakGlass;
use gateway::{Gateway, answer_on, caller, post, raw, relay, reserved, text, token};

const KEY: &str = "acel_test";
/// More than a busy machine takes for anything here.
const PATIENCE: Duration = Duration::from_secs(20);

/// The old token dies before the new one is there, and the new one comes only when the old one was refused: the worst order there is.
async fn rotate(gateway: Arc<Gateway>, feed: TokenFeed) {
    for n in 0.. {
        gateway.good.lock().unwrap().clear();
        let refused = gateway.unauthorized.load(SeqCst);
        if n > 0 {
            until(|| gateway.unauthorized.load(SeqCst) > refused).await;
        }
        let name = format!("token-{n}");
        gateway.accepts(&name);
        feed.publish(token(&name, Duration::from_secs(10)));
        let requests = gateway.requests.load(SeqCst);
        until(|| gateway.requests.load(SeqCst) > requests + 100).await;
    }
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn no_request_sees_a_401_while_the_token_changes_again_and_again() {
    let (gateway, address) = Gateway::start().await;
    let (relay, feed) = relay(address, |config| config.limits.token_wait = PATIENCE).await;
    let (relay, caller) = (Arc::new(relay), caller());
    let rotation = tokio::spawn(rotate(gateway.clone(), feed));
    let mut callers = JoinSet::new();
    for n in 0..8 {
        let (relay, caller) = (relay.clone(), caller.clone());
        callers.spawn(async move {
            for done in 0..100 {
                let body = format!("{n}-{done}").repeat(1000);
                let request = post(&relay, "/v1/messages", ("x-api-key", KEY), body.clone());
                let answer = caller.request(request).await.unwrap();
                assert_eq!(answer.status(), 200);
                assert_eq!(text(answer).await, body);
            }
        });
    }
    callers.join_all().await;
    rotation.abort();
    let unauthorized = gateway.unauthorized.load(SeqCst);
    assert!(unauthorized > 5, "the test must have met dead tokens: {unauthorized}");
}

#[tokio::test]
async fn a_refused_token_that_is_alive_is_told_to_the_caller_at_once() {
    let (gateway, address) = Gateway::start().await;
    let (relay, feed) = relay(address, |config| config.limits.token_wait = 3 * PATIENCE).await;
    feed.publish(token("revoked", Duration::from_secs(300)));
    let before = Instant::now();
    let answer = caller()
        .request(post(&relay, "/v1/messages", ("x-api-key", KEY), "{}"))
        .await
        .unwrap();
    assert_eq!(answer.status(), 401);
    assert!(before.elapsed() < PATIENCE);
    assert_eq!(gateway.requests.load(SeqCst), 1);
}

#[tokio::test]
async fn a_body_too_large_to_keep_is_sent_once_and_its_401_passed_on() {
    let (gateway, address) = Gateway::start().await;
    let (relay, feed) = relay(address, |config| config.limits.replay_bytes = 10).await;
    // Not over by this machine's clock.
    feed.publish(token("old", Duration::from_secs(10)));
    let call = caller().request(post(&relay, "/v1/messages", ("x-api-key", KEY), "x".repeat(300_000)));
    let (answer, ()) = tokio::join!(call, async {
        sleep(Duration::from_millis(100)).await;
        gateway.accepts("new");
        feed.publish(token("new", Duration::from_secs(300)));
    });
    // The gateway refuses without reading; whether the caller still reads the answer then depends on who closes first.
    if let Ok(answer) = answer {
        assert!(matches!(answer.status().as_u16(), 401 | 502), "{}", answer.status());
    }
    assert_eq!(gateway.requests.load(SeqCst), 1);
}

#[tokio::test]
async fn a_body_too_large_to_keep_waits_for_a_token_that_is_not_over() {
    let (gateway, address) = Gateway::start().await;
    let (relay, feed) = relay(address, |config| {
        (config.limits.replay_bytes, config.limits.token_wait) = (10, PATIENCE);
    })
    .await;
    feed.publish(token("old", Duration::ZERO));
    let call = caller().request(post(&relay, "/v1/messages", ("x-api-key", KEY), "x".repeat(300_000)));
    let (answer, ()) = tokio::join!(call, async {
        sleep(Duration::from_millis(100)).await;
        gateway.accepts("new");
        feed.publish(token("new", Duration::from_secs(300)));
    });
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(gateway.requests.load(SeqCst), 1);
}

#[tokio::test]
async fn the_token_goes_out_in_the_callers_style_and_everything_else_as_it_came() {
    let (gateway, address) = Gateway::start().await;
    let session: SessionId = "6f1c2f5e-4a0e-4c2b-9a3b-0a2b7f4f3c11".parse().unwrap();
    let (relay, feed) = relay(address, |config| config.session = Some(session)).await;
    gateway.accepts("fresh");
    feed.publish(token("fresh", Duration::from_secs(300)));
    let caller = caller();

    let mut request = post(
        &relay,
        "/v1/messages?beta=true",
        ("authorization", "Bearer acel_test"),
        "body",
    );
    for (name, value) in [
        ("x-api-key", KEY),
        ("cookie", "c"),
        ("x-ace-session", "mine"),
        ("anthropic-beta", "a,b"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(caller.request(request).await.unwrap().status(), 200);
    let request = post(
        &relay,
        &format!("/v1beta/models/m:generateContent?key={KEY}&alt=sse"),
        ("x-app", "cli"),
        "body",
    );
    assert_eq!(caller.request(request).await.unwrap().status(), 200);

    let seen = gateway.seen.lock().unwrap();
    let (uri, headers, body) = &seen[0];
    assert_eq!(
        (uri.as_str(), &body[..]),
        ("/api/remote/llm-proxy/v1/messages?beta=true", &b"body"[..])
    );
    assert_eq!(headers["authorization"], "Bearer fresh");
    assert_eq!(headers["anthropic-beta"], "a,b");
    assert_eq!(headers["x-ace-session"], session.to_string().as_str());
    assert!(!headers.contains_key("x-api-key") && !headers.contains_key("cookie"));
    let (uri, headers, _) = &seen[1];
    assert_eq!(uri, "/api/remote/llm-proxy/v1beta/models/m:generateContent?alt=sse");
    assert_eq!(headers["x-goog-api-key"], "fresh");
}

#[tokio::test]
async fn chunks_arrive_one_by_one_and_a_caller_that_leaves_ends_the_upstream_request() {
    let (gateway, address) = Gateway::start().await;
    let (relay, feed) = relay(address, |_| {}).await;
    gateway.accepts("fresh");
    feed.publish(token("fresh", Duration::from_secs(300)));

    let answer = caller()
        .request(post(&relay, "/stream", ("x-api-key", KEY), ""))
        .await
        .unwrap();
    let mut body = answer.into_body();
    for _ in 0..4 {
        let started = Instant::now();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap().as_ref(), b"tick\n");
        assert!(started.elapsed() < PATIENCE);
    }
    assert_eq!(gateway.open.load(SeqCst), 1);
    drop(body);
    closes(&gateway).await;
}

#[tokio::test]
async fn dropping_the_relay_ends_its_streams() {
    let (gateway, address) = Gateway::start().await;
    let (relay, feed) = relay(address, |_| {}).await;
    gateway.accepts("fresh");
    feed.publish(token("fresh", Duration::from_secs(300)));
    let answer = caller()
        .request(post(&relay, "/stream", ("x-api-key", KEY), ""))
        .await
        .unwrap();
    drop(relay);
    assert!(
        answer.into_body().collect().await.is_err(),
        "a stream that was cut must not look complete"
    );
    closes(&gateway).await;
}

async fn closes(gateway: &Gateway) {
    let until = Instant::now() + PATIENCE;
    while gateway.open.load(SeqCst) > 0 {
        assert!(Instant::now() < until, "the upstream request is still open");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_wrong_key_is_refused_in_the_callers_dialect_and_nothing_is_forwarded() {
    let (gateway, address) = Gateway::start().await;
    let (relay, feed) = relay(address, |_| {}).await;
    feed.publish(token("fresh", Duration::from_secs(300)));
    let caller = caller();
    for (path, want) in [
        ("/v1/messages", "\"type\":\"error\""),
        ("/v1/chat/completions", "\"code\":\"auth_error\""),
        (
            "/v1beta/models/m:generateContent?key=x",
            "\"status\":\"UNAUTHENTICATED\"",
        ),
    ] {
        let answer = caller
            .request(post(&relay, path, ("x-api-key", "wrong"), "x".repeat(200_000)))
            .await
            .unwrap();
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.headers()["content-type"], "application/json");
        let body = text(answer).await;
        assert!(body.contains(want) && !body.contains(KEY), "{body}");
    }
    assert_eq!(gateway.requests.load(SeqCst), 0);
}

#[tokio::test]
async fn upgrades_probes_and_climbing_paths_are_answered_here() {
    let (gateway, address) = Gateway::start().await;
    let (relay, feed) = relay(address, |_| {}).await;
    feed.publish(token("fresh", Duration::from_secs(300)));
    let upgrade = format!(
        "GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nx-api-key: {KEY}\r\n\r\n"
    );
    assert!(raw(&relay, &upgrade).await.starts_with("http/1.1 426 "));
    assert!(
        raw(&relay, "HEAD /api/hello HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .starts_with("http/1.1 200 ")
    );
    let climb = format!("GET /v1/../../api/users HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\n\r\n");
    assert!(raw(&relay, &climb).await.starts_with("http/1.1 400 "));
    assert_eq!(gateway.requests.load(SeqCst), 0);
}

#[tokio::test]
async fn a_caller_with_a_wrong_key_that_never_sends_its_body_is_answered() {
    let (_, address) = Gateway::start().await;
    let (relay, _feed) = relay(address, |config| config.limits.discard = Duration::from_millis(50)).await;
    let request = "POST /v1/x HTTP/1.1\r\nHost: x\r\nx-api-key: wrong\r\nContent-Length: 100\r\n\r\n";
    assert!(raw(&relay, request).await.starts_with("http/1.1 401 "));
}

#[tokio::test]
async fn a_caller_does_not_notice_that_the_gateway_is_started_again() {
    let (socket, address) = reserved();
    let (relay, feed) = relay(address, |_| {}).await;
    feed.publish(token("fresh", Duration::from_secs(300)));
    let call = caller().request(post(&relay, "/v1/messages", ("x-api-key", KEY), "hello"));
    let (answer, gateway) = tokio::join!(call, async {
        sleep(Duration::from_secs(2)).await;
        let gateway = Gateway::listen(socket.listen(16).unwrap());
        gateway.accepts("fresh");
        gateway
    });
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(text(answer).await, "hello");
    assert_eq!(gateway.requests.load(SeqCst), 1);
}

#[tokio::test]
async fn a_gateway_that_stays_away_is_a_502_in_json() {
    let (_socket, address) = reserved();
    let (relay, feed) = relay(address, |config| config.limits.restart = Duration::from_millis(100)).await;
    feed.publish(token("fresh", Duration::from_secs(300)));
    let answer = caller()
        .request(post(
            &relay,
            "/v1/chat/completions",
            ("authorization", "Bearer acel_test"),
            "{}",
        ))
        .await
        .unwrap();
    assert_eq!(answer.status(), 502);
    let body: serde_json::Value = serde_json::from_str(&text(answer).await).unwrap();
    assert_eq!(body["error"]["type"], "upstream_error");
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains(&address.to_string())
    );
}

#[tokio::test]
async fn only_127_0_0_1_listens() {
    let (_, address) = Gateway::start().await;
    let (relay, _feed) = relay(address, |_| {}).await;
    let port = relay.address().port();
    assert_eq!(relay.address().ip(), Ipv4Addr::LOCALHOST);
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok());
    // The rest of 127/8 is this machine as well: a socket on 0.0.0.0 would answer there.
    for other in ["127.0.0.2", "::1"] {
        assert!(TcpStream::connect((other, port)).await.is_err(), "{other}");
    }
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let (gateway, address) = Gateway::start().await;
    let (relay, feed) = relay(address, |_| {}).await;
    gateway.accepts("fresh");
    feed.publish(token("fresh", Duration::from_secs(300)));
    let request = format!("POST /v1/x HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nContent-Length: 2\r\n\r\nhi");
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    for _ in 0..3 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = timeout(PATIENCE, answer_on(&mut stream, true)).await.unwrap();
        assert!(
            answer.starts_with("http/1.1 200 ") && !answer.contains("connection: close"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_gateway_that_cannot_be_trusted_is_told_at_once() {
    let (_gateway, address) = Gateway::start().await;
    let (relay, feed) = relay(address, |config| {
        config.limits.restart = 3 * PATIENCE;
        let url = format!("https://{address}");
        config.gateway = GatewayUrl::parse(&url, "test", BreakGlass::Closed).unwrap();
    })
    .await;
    feed.publish(token("good", Duration::from_secs(300)));
    let request = post(&relay, "/v1/messages", ("x-api-key", KEY), "hi".to_owned());
    let answer = timeout(PATIENCE, caller().request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), 502);
    let told = text(answer).await;
    assert!(told.contains("TLS"), "{told}");
}
