//! What goes through the gateway comes out as it went in, but for the edits that the contract lists; and at once.
//!
//! Each exchange is made twice, directly with the provider and through the gateway, and both ends are compared.

use std::path::Path;
use std::time::{Duration, Instant};

use ace_tests::{
    Answer, Ask, Corpus, Dialect, End, Exchange, Head, Provider, Script, Seen, Wire, World, median, remarkable,
    thorough,
};
use bytes::Bytes;

/// Headers of a request that the gateway removes or replaces (edits 1 to 3), and those that frame its body.
const EDITED_IN_REQUESTS: [&str; 8] = [
    "host",
    "accept-encoding",
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "content-length",
    "transfer-encoding",
    "connection",
];

/// The same for answers (edits 7 and 9).
const EDITED_IN_ANSWERS: [&str; 7] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "x-ace-request-id",
    "server-timing",
    "set-cookie",
    "x-request-id",
];

#[tokio::test]
async fn trap_18_remarkable_exchanges_are_the_same_through_the_gateway() {
    compare_all(remarkable()).await;
}

#[tokio::test]
async fn generated_exchanges_are_the_same_through_the_gateway() {
    compare_all(Corpus::new(1).generated(if thorough() { 1500 } else { 120 })).await;
}

#[tokio::test]
async fn recorded_streams_are_the_same_through_the_gateway() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/fixtures");
    let mut exchanges = Vec::new();
    for seed in 0..if thorough() { 60 } else { 4 } {
        exchanges.extend(Corpus::new(seed).recorded(&folder));
    }
    compare_all(exchanges).await;
}

async fn compare_all(exchanges: Vec<Exchange>) {
    assert!(!exchanges.is_empty());
    let world = World::start().await;
    let direct = Provider::start().await;
    let mut tokens = Vec::new();
    for dialect in Dialect::ALL {
        tokens.push((dialect, world.token(dialect).await));
    }
    for exchange in &exchanges {
        let token = tokens
            .iter()
            .find(|(dialect, _)| *dialect == exchange.dialect)
            .map(|(_, token)| token.as_str());
        let expected = make(exchange, &direct, direct.address, exchange.dialect.key()).await;
        let got = make(exchange, &world.provider, world.door.address, token.unwrap_or_default()).await;
        compare_requests(exchange, &expected.0, &got.0);
        compare_answers(exchange, &expected.1, &got.1);
    }
}

async fn make(
    exchange: &Exchange,
    provider: &Provider,
    address: std::net::SocketAddr,
    credential: &str,
) -> (Seen, Answer) {
    provider.forget();
    provider.plays(exchange.script.clone());
    let ask = exchange.dialect.authorize(exchange.ask.clone(), credential);
    let answer = Wire::connect(address).await.call(&ask).await;
    let mut seen = provider.requests();
    assert_eq!(seen.len(), 1, "{}: {} {}", exchange.name, answer.status, answer.text());
    (seen.remove(0), answer)
}

fn compare_requests(exchange: &Exchange, expected: &Seen, got: &Seen) {
    let name = &exchange.name;
    assert_eq!(got.line(), expected.line(), "{name}");
    assert_eq!(
        headers(&got.head, &EDITED_IN_REQUESTS),
        headers(&expected.head, &EDITED_IN_REQUESTS),
        "{name}"
    );
    assert_eq!(got.credentials(), exchange.dialect.injected(), "{name}");
    if exchange.asks_for_usage {
        insertion(&expected.body, &got.body);
        assert_eq!(got.json()["stream_options"]["include_usage"], true, "{name}");
    } else {
        assert_eq!(got.body, expected.body, "{name}");
    }
}

fn compare_answers(exchange: &Exchange, expected: &Answer, got: &Answer) {
    let name = &exchange.name;
    assert_eq!(got.status, expected.status, "{name}");
    assert_eq!(
        headers(&got.head, &EDITED_IN_ANSWERS),
        headers(&expected.head, &EDITED_IN_ANSWERS),
        "{name}"
    );
    assert_eq!(got.end, End::Complete, "{name}");
    if !exchange.asks_for_usage {
        assert_eq!(got.body, expected.body, "{name}");
    }
    if let (Some(length), Some(same)) = (expected.header("content-length"), got.header("content-length")) {
        assert_eq!(same, length, "{name}");
    }
}

/// The headers in their order, without those that may differ; names in lower case, as HTTP/2 has them anyway.
fn headers(head: &Head, without: &[&str]) -> Vec<(String, Vec<u8>)> {
    let all = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    all.filter(|(name, _)| !without.contains(&name.as_str())).collect()
}

/// Something was put into `before`, in one place, to make `after`.
fn insertion(before: &Bytes, after: &Bytes) {
    let start = before.iter().zip(after).take_while(|(one, other)| one == other).count();
    let rest = &before[start..];
    let end = after
        .len()
        .checked_sub(rest.len())
        .filter(|end| *end >= start && &after[*end..] == rest);
    assert!(end.is_some(), "more than one place differs:\n{before:?}\n{after:?}");
}

#[tokio::test]
async fn trap_6_the_usage_chunk_that_the_client_did_not_ask_for_is_taken_out_again() {
    let world = World::start().await;
    let chunk = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let usage = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n";
    world
        .provider
        .plays(Script::events([chunk, usage, "data: [DONE]\n\n"], Duration::ZERO));
    let token = world.token(Dialect::OpenAi).await;
    let mut body = Dialect::OpenAi.body();
    body["stream"] = true.into();
    let unasked = Ask::post("/v1/chat/completions").bearer(&token).json(&body);
    assert_eq!(
        world.call(&unasked).await.expect(200).text(),
        format!("{chunk}data: [DONE]\n\n")
    );
    let asked = Dialect::OpenAi.streaming_ask().bearer(&token);
    assert_eq!(
        world.call(&asked).await.expect(200).text(),
        format!("{chunk}{usage}data: [DONE]\n\n")
    );
}

#[tokio::test]
async fn trap_7_only_chat_calls_are_asked_for_usage() {
    let world = World::start().await;
    for (dialect, path) in [(Dialect::Anthropic, "/v1/messages"), (Dialect::OpenAi, "/v1/responses")] {
        world.provider.forget();
        let body = format!("{{\"model\":\"m\",\"stream\":true,\"path\":\"{path}\"}}");
        let ask = Ask::post(path)
            .header("content-type", "application/json")
            .body(body.clone());
        world
            .call(&dialect.authorize(ask, &world.token(dialect).await))
            .await
            .expect(200);
        assert_eq!(world.provider.request().body, body);
    }
}

#[tokio::test]
async fn an_event_larger_than_what_the_meter_keeps_passes_whole() {
    let world = World::builder()
        .config("limits", "sse_event_bytes = 65536")
        .start()
        .await;
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n";
    let big = format!("data: {{\"choices\":[],\"big\":\"{}\"}}\n\n", "x".repeat(3_000_000));
    world
        .provider
        .plays(Script::events([&big, usage, "data: [DONE]\n\n"], Duration::ZERO));
    let mut body = Dialect::OpenAi.body();
    body["stream"] = true.into();
    let ask = Ask::post("/v1/chat/completions")
        .bearer(&world.token(Dialect::OpenAi).await)
        .json(&body);
    let answer = world.call(&ask).await.expect(200);
    assert!(
        answer.text() == format!("{big}data: [DONE]\n\n"),
        "{} bytes came",
        answer.body.len()
    );
    assert_eq!(world.alice.request_log(1).await[0]["output_tokens"], 4);
}

const GAP: Duration = Duration::from_millis(50);
/// Who waits for the next chunk holds this one for longer.
const HELD: Duration = Duration::from_millis(25);

/// Far below the time after which the gateway gives up on a silent provider.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn trap_24_no_chunk_of_an_answer_is_held() {
    let world = World::start().await;
    for dialect in Dialect::ALL {
        let event = |n: usize| format!("data: {{\"n\":{n}}}\n\n");
        world.provider.forget();
        world.provider.plays(Script::events((0..100).map(event), GAP));
        let ask = dialect.authorize(dialect.streaming_ask(), &world.token(dialect).await);
        let answer = world.call(&ask).await.expect(200);
        // The first that was sent is the head, the last the end of the body.
        let sent = world.provider.request().sent;
        assert_eq!(
            (answer.pieces.len(), sent.len()),
            (100, 102),
            "{dialect:?}: every chunk on its own"
        );
        let held = sent[1..=100]
            .iter()
            .zip(&answer.pieces)
            .map(|(sent, piece)| piece.at - *sent);
        let held = median(held.collect());
        assert!(held < HELD, "{dialect:?}: chunks were held for {held:?}");
    }
}

#[tokio::test]
async fn half_an_event_is_not_held_either() {
    let world = World::start().await;
    world.provider.plays(Script::stream().chunk("data: {\"ha").silence());
    let ask = Dialect::Anthropic
        .streaming_ask()
        .header("x-api-key", world.token(Dialect::Anthropic).await);
    let mut wire = world.wire().await;
    wire.ask(&ask).await.answer_head("POST").await;
    let piece = wire.piece_within(SOON).await;
    assert_eq!(piece.map(|piece| piece.bytes), Some(Bytes::from("data: {\"ha")));
}

#[tokio::test]
async fn the_head_of_an_answer_is_not_held_until_its_body() {
    let world = World::start().await;
    world.provider.plays(Script::stream().silence());
    let ask = Dialect::Anthropic
        .streaming_ask()
        .header("x-api-key", world.token(Dialect::Anthropic).await);
    let mut wire = world.wire().await;
    let asked = Instant::now();
    let answer = wire.ask(&ask).await.answer_head("POST").await;
    assert!(answer.head_at - asked < SOON);
}

#[tokio::test]
async fn no_chunk_of_an_upload_is_held() {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    let ask = Ask::post("/v1/files")
        .bearer(&token)
        .header("content-type", "application/octet-stream");
    let ask = ask.header("content-length", "100000");
    let mut wire = world.wire().await;
    wire.send(ask.head("h")).await;
    let mut sent = Vec::new();
    for _ in 0..100 {
        sent.push(Instant::now());
        wire.send(vec![b'x'; 1000]).await;
        tokio::time::sleep(GAP).await;
    }
    wire.answer().await.expect(200);
    let pieces = world.provider.request().pieces;
    assert!(pieces.len() > 50, "the upload came in {} pieces", pieces.len());
    let mut received = 0;
    let held = pieces.iter().map(|piece| {
        received += piece.bytes.len();
        piece.at - sent[(received - 1) / 1000]
    });
    let held = median(held.collect());
    assert!(held < HELD, "chunks were held for {held:?}");
}
