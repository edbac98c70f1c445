//! The test language itself: what a scripted provider does is what a raw client sees, and the other way round.

use std::time::{Duration, Instant};

use ace_tests::{Ask, Ca, Door, End, H2Client, H2Provider, Provider, Script, Wire, events};
use bytes::Bytes;
use serde_json::json;

const GAP: Duration = Duration::from_millis(30);

#[tokio::test]
async fn requests_are_recorded_byte_for_byte() {
    let provider = Provider::start().await;
    let ask = Ask::post("/v1/x?a=%2F&a")
        .header("X-Odd", b"\xff\x80")
        .body(&b"\x00\xff"[..]);
    let mut wire = Wire::connect(provider.address).await;
    assert_eq!(wire.call(&ask).await.expect(200).json(), json!({"ok": true}));
    let seen = provider.request();
    assert_eq!(seen.head.raw, ask.head(&provider.address.to_string()));
    assert_eq!(seen.body, &b"\x00\xff"[..]);
    assert_eq!(
        wire.call(&Ask::get("/again").chunks(["a", "b"])).await.expect(200).end,
        End::Complete
    );
    assert_eq!(
        (provider.connections(), provider.requests()[1].body.clone()),
        (1, Bytes::from("ab"))
    );
}

#[tokio::test]
async fn streams_arrive_chunk_by_chunk() {
    let provider = Provider::start().await;
    provider.plays(Script::events(events(4), GAP));
    let answer = Wire::connect(provider.address)
        .await
        .call(&Ask::get("/"))
        .await
        .expect(200);
    assert_eq!(answer.text(), events(4).concat());
    assert_eq!(answer.pieces.len(), 4);
    assert!(answer.pieces[3].at - answer.pieces[0].at > GAP * 2);
}

#[tokio::test]
async fn every_kind_of_end_is_told_apart() {
    let provider = Provider::start().await;
    let ends = [
        (Script::stream().chunk("x").last_chunk(), End::Complete),
        (Script::stream().chunk("x").close(), End::Cut),
        (Script::stream().chunk("x").wait(GAP).reset(), End::Reset),
        (Script::raw("HTTP/1.1 200 OK\r\n\r\nx").close(), End::Closed),
        (
            Script::raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nx").close(),
            End::Cut,
        ),
    ];
    for (script, end) in ends {
        provider.plays_once(script.clone());
        let answer = Wire::connect(provider.address).await.call(&Ask::get("/")).await;
        assert_eq!((answer.text().as_str(), answer.end), ("x", end), "{script:?}");
    }
    provider.plays(Script::new().silence());
    let mut wire = Wire::connect(provider.address).await;
    wire.ask(&Ask::get("/")).await;
    assert_eq!(wire.end(GAP).await, End::Silence);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let provider = Provider::start().await;
    provider.plays(Script::stream().chunk("x").silence());
    let mut wire = Wire::connect(provider.address).await;
    wire.ask(&Ask::get("/")).await.answer_head("GET").await;
    let left = Instant::now();
    drop(wire);
    assert!(provider.departure(0).await - left < Duration::from_secs(10));
    assert!(!provider.request().played);
}

#[tokio::test]
async fn informational_heads_trailers_and_expectations() {
    let provider = Provider::start().await;
    let answer = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\nx-t: 1\r\n\r\n";
    provider.plays(Script::raw(answer));
    let ask = Ask::post("/").header("expect", "100-continue").body("b");
    let answer = Wire::connect(provider.address).await.call(&ask).await.expect(200);
    assert_eq!((answer.informational.len(), answer.trailers), (2, b"x-t: 1".to_vec()));
}

#[tokio::test]
async fn tls_and_http2_at_both_ends() {
    let ca = Ca::new();
    let provider = Provider::start_tls(&ca).await;
    Wire::connect_tls(provider.address, &ca)
        .await
        .call(&Ask::get("/"))
        .await
        .expect(200);
    assert!(provider.url().starts_with("https://localhost:"));
    let provider = H2Provider::start(&ca, "text/event-stream", events(3), GAP).await;
    let port = provider.url().rsplit(':').next().and_then(|port| port.parse().ok());
    let door = Door::plain(([127, 0, 0, 1], port.expect("a port")).into());
    let mut client = H2Client::connect_tls(door.address, &ca).await;
    assert_eq!(
        client.call(&Ask::post("/v1/x").body("b")).await.text(),
        events(3).concat()
    );
    client.open(&Ask::get("/")).await.hang_up();
    provider.departure(1).await;
    assert_eq!(
        (provider.requests()[0].path.as_str(), &provider.requests()[0].body[..]),
        ("/v1/x", &b"b"[..])
    );
}
