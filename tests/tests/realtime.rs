//! OpenAI's Realtime API: a connection that leaves HTTP, passed on byte for byte and counted all the same.

use std::time::Duration;

use ace_tests::{Ask, Dialect, End, PATIENCE, Script, World};
use serde_json::json;

/// An unmasked text frame, as servers send them.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 126];
    frame.extend_from_slice(&u16::try_from(text.len()).expect("a short message").to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

const DONE: &str = r#"{"type":"response.done","response":{"id":"r1","usage":{"total_tokens":60,"input_tokens":40,"output_tokens":20,"input_token_details":{"cached_tokens":10,"text_tokens":40,"audio_tokens":0},"output_token_details":{"text_tokens":20,"audio_tokens":0}}}}"#;

fn connects(token: &str) -> Ask {
    Ask::get("/v1/realtime?model=gpt-realtime")
        .bearer(token)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-extensions", "permessage-deflate")
}

#[tokio::test]
async fn trap_13_a_websocket_passes_through_and_is_metered() {
    let world = World::start().await;
    let script = Script::raw(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    world
        .provider
        .plays(script.wait(Duration::from_millis(50)).send(frame(DONE)).close());
    let token = world.token(Dialect::OpenAi).await;
    let mut wire = world.wire().await;
    wire.ask(&connects(&token)).await;
    let answer = wire.answer_head("GET").await.expect(101);
    assert_eq!(
        answer.header("sec-websocket-accept").as_deref(),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    wire.end(PATIENCE).await;
    assert!(
        wire.unread().ends_with(&frame(DONE)),
        "the messages arrive as they were sent"
    );

    let request = world.provider.request();
    assert_eq!(
        request.header("authorization").as_deref(),
        Some(format!("Bearer {}", Dialect::OpenAi.key()).as_str())
    );
    assert_eq!(
        request.header("sec-websocket-extensions"),
        None,
        "a compressed stream could not be counted"
    );
    let rows = world.alice.request_log(1).await;
    assert_eq!(
        (
            &rows[0]["input_tokens"],
            &rows[0]["cache_read_tokens"],
            &rows[0]["output_tokens"]
        ),
        (&30.into(), &10.into(), &20.into())
    );
    assert_eq!(
        (&rows[0]["status"], &rows[0]["model_asked"]),
        (&101.into(), &"gpt-realtime".into())
    );
}

#[tokio::test]
async fn a_refusal_of_the_provider_is_an_answer_like_any_other() {
    let world = World::start().await;
    world.provider.plays(Script::json(
        403,
        &serde_json::json!({"error": {"message": "no realtime for you"}}),
    ));
    let token = world.token(Dialect::OpenAi).await;
    let answer = world.call(&connects(&token)).await.expect(403);
    assert!(answer.text().contains("no realtime for you"));
}

#[tokio::test]
async fn a_websocket_that_is_not_properly_asked_for_is_none() {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    let mut ask = connects(&token);
    ask.headers.retain(|(name, _)| name != "connection");
    world.call(&ask).await.expect(426);
    assert!(world.provider.requests().is_empty());
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_callers_standing() {
    let world = World::start().await;
    let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    world.provider.plays(Script::raw(head).silence());
    let token = world.token(Dialect::OpenAi).await;
    let mut wire = world.wire().await;
    wire.ask(&connects(&token)).await;
    wire.answer_head("GET").await.expect(101);
    assert_eq!(wire.end(Duration::from_secs(2)).await, End::Silence);
    let user = format!("/api/users/{}", world.alice.id);
    world.admin.patch(&user, json!({"is_active": false})).await.ok();
    assert_ne!(wire.end(PATIENCE).await, End::Silence);
    let rows = world.admin.request_log(1).await;
    assert_eq!(rows[0]["error_kind"], "revoked", "{rows:?}");
}
