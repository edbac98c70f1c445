//! Bodies of any length and any framing, in both directions.

use std::time::{Duration, Instant};

use ace_tests::{Ask, Dialect, End, Script, World, events};
use bytes::Bytes;

const SOON: Duration = Duration::from_secs(1);
const GAP: Duration = Duration::from_millis(50);

/// A call that the gateway neither reads nor meters: its body may be anything.
fn upload(token: &str) -> Ask {
    Ask::post("/v1/files")
        .bearer(token)
        .header("content-type", "application/octet-stream")
}

fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ length as u64;
    let byte = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(byte).collect()
}

fn parted(bytes: &Bytes, size: usize) -> Vec<Bytes> {
    bytes.chunks(size).map(Bytes::copy_from_slice).collect()
}

const LENGTHS: [usize; 11] = [
    0, 1, 15, 4_095, 4_096, 16_384, 65_535, 65_536, 65_537, 300_000, 2_000_000,
];

#[tokio::test]
async fn request_bodies_of_any_length_arrive_whole() {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    let mut wire = world.wire().await;
    for (n, length) in LENGTHS.into_iter().enumerate() {
        let body = noise(length);
        wire.call(&upload(&token).body(body.clone())).await.expect(200);
        let mut chunked = upload(&token).chunks(parted(&body, 7_777));
        if n % 2 == 0 {
            chunked = upload(&token).chunks(parted(&body, 100_000));
        }
        wire.call(&chunked).await.expect(200);
        let seen = &world.provider.requests()[n * 2..];
        assert!(seen[0].body == body, "{length} bytes with content-length");
        assert_eq!(
            seen[0].header("content-length").as_deref(),
            Some(length.to_string().as_str())
        );
        assert!(seen[1].body == body, "{length} bytes in chunks");
    }
}

#[tokio::test]
async fn json_bodies_of_any_length_arrive_whole() {
    let world = World::start().await;
    for dialect in Dialect::ALL {
        let token = world.token(dialect).await;
        world.provider.forget();
        for (n, length) in [0, 65_000, 65_536, 300_000, 2_000_000].into_iter().enumerate() {
            let mut body = dialect.body();
            body["padding"] = "x".repeat(length).into();
            let body = Bytes::from(body.to_string());
            let ask = dialect
                .authorize(Ask::post(dialect.path()), &token)
                .header("content-type", "application/json");
            world.call(&ask.clone().body(body.clone())).await.expect(200);
            world.call(&ask.chunks(parted(&body, 10_000))).await.expect(200);
            let seen = &world.provider.requests()[n * 2..];
            assert!(seen[0].body == body && seen[1].body == body, "{dialect:?} {length}");
        }
    }
}

#[tokio::test]
async fn answers_of_any_length_arrive_whole() {
    let world = World::start().await;
    let ask = Ask::get("/v1/files/f/content").bearer(&world.token(Dialect::OpenAi).await);
    let mut wire = world.wire().await;
    for length in LENGTHS {
        let body = noise(length);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n";
        let known = Script::raw([format!("{head}content-length: {length}\r\n\r\n").as_bytes(), &body].concat());
        let start = Script::raw(format!("{head}transfer-encoding: chunked\r\n\r\n"));
        let chunked = parted(&body, 9_999)
            .iter()
            .fold(start, |script, chunk| script.chunk(chunk))
            .last_chunk();
        let until_close = Script::raw([format!("{head}\r\n").as_bytes(), &body].concat()).close();
        for script in [known, chunked, until_close] {
            world.provider.plays_once(script);
            let answer = wire.call(&ask).await.expect(200);
            assert!(answer.body == body, "{length}: {} came", answer.body.len());
            assert_eq!(answer.end, End::Complete);
        }
    }
    assert!(
        world.provider.connections() < LENGTHS.len() * 3,
        "connections to the provider are kept"
    );
}

#[tokio::test]
async fn a_json_answer_whose_length_is_known_keeps_it() {
    let world = World::start().await;
    let answer = world.main_call(Dialect::OpenAi).await.expect(200);
    assert_eq!(answer.header("content-length").as_deref(), Some("11"));
}

#[tokio::test]
async fn a_client_that_expects_to_continue_is_told_at_once() {
    let world = World::start().await;
    let ask = Dialect::OpenAi
        .ask()
        .bearer(&world.token(Dialect::OpenAi).await)
        .header("Expect", "100-continue");
    let mut wire = world.wire().await;
    let whole = ask.bytes("h");
    let head = ask.head("h");
    let asked = Instant::now();
    wire.send(&head).await;
    while wire.unread().is_empty() {
        assert_eq!(wire.end(Duration::from_millis(5)).await, End::Silence);
        assert!(asked.elapsed() < SOON, "no word to continue");
    }
    assert_eq!(wire.unread(), b"HTTP/1.1 100 Continue\r\n\r\n");
    let answer = wire.send(&whole[head.len()..]).await.answer().await.expect(200);
    assert_eq!((answer.informational.len(), answer.end), (1, End::Complete));
}

#[tokio::test]
async fn who_expects_to_continue_and_may_not_sends_no_body() {
    let world = World::start().await;
    let ask = Ask::post("/v1/files")
        .header("expect", "100-continue")
        .header("content-length", "1000000000");
    let answer = world.wire().await.send(ask.head("h")).await.answer().await;
    assert!(matches!(answer.status, 401 | 413), "{}", answer.status);
    assert_eq!(answer.informational.len(), 0);
}

#[tokio::test]
async fn head_requests_have_no_body_in_their_answer() {
    let world = World::start().await;
    let ask = Ask::new("HEAD", "/v1/models").bearer(&world.token(Dialect::OpenAi).await);
    world
        .provider
        .plays(Script::raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"));
    let mut wire = world.wire().await;
    for _ in 0..2 {
        let answer = wire.call(&ask).await.expect(200);
        assert_eq!(answer.header("content-length").as_deref(), Some("500"));
        assert_eq!(wire.unread(), b"");
    }
}

#[tokio::test]
async fn answers_without_a_body_keep_the_connection() {
    let world = World::start().await;
    let ask = Ask::new("DELETE", "/v1/files/f").bearer(&world.token(Dialect::OpenAi).await);
    let mut wire = world.wire().await;
    for status in ["204 No Content", "304 Not Modified", "200 OK\r\ncontent-length: 0"] {
        world
            .provider
            .plays_once(Script::raw(format!("HTTP/1.1 {status}\r\n\r\n")));
        assert_eq!(wire.call(&ask).await.body.len(), 0);
    }
    wire.call(&ask).await.expect(200);
    assert_eq!(world.provider.connections(), 1);
}

#[tokio::test]
async fn an_answer_before_the_request_was_read_reaches_the_client() {
    let world = World::start().await;
    world.provider.plays(
        Script::answer(413, "application/json", "{\"error\":{}}")
            .wait(GAP)
            .close()
            .before_body(),
    );
    let ask = upload(&world.token(Dialect::OpenAi).await).body(noise(5_000_000));
    world.call(&ask).await.expect(413);
}

#[tokio::test]
async fn chunk_extensions_and_trailers_do_no_harm() {
    let world = World::start().await;
    let body = "3;name=\"va;lue\"\r\nabc\r\n0003 ; x\r\ndef\r\n0\r\nx-checksum: 1\r\n\r\n";
    world.provider.plays(Script::raw(format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}"
    )));
    let ask = Ask::get("/v1/files").bearer(&world.token(Dialect::OpenAi).await);
    let mut wire = world.wire().await;
    for _ in 0..2 {
        let answer = wire.call(&ask).await.expect(200);
        assert_eq!((answer.text().as_str(), answer.end), ("abcdef", End::Complete));
    }
}

#[tokio::test]
async fn a_gzipped_answer_that_is_not_metered_passes_as_it_is() {
    let world = World::start().await;
    let packed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3, 0xff];
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        packed.len()
    );
    world.provider.plays(Script::raw([head.as_bytes(), &packed].concat()));
    let ask = Ask::get("/v1/files/f/content").bearer(&world.token(Dialect::OpenAi).await);
    let answer = world.call(&ask.header("accept-encoding", "gzip, br")).await.expect(200);
    assert_eq!(
        (answer.header("content-encoding").as_deref(), &answer.body[..]),
        (Some("gzip"), &packed[..])
    );
    assert_eq!(
        world.provider.request().header("accept-encoding").as_deref(),
        Some("gzip, br")
    );
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_a_body_that_ends_with_the_connection() {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    world.provider.plays(Script::events(events(3), GAP));
    let request = format!("GET /v1/files HTTP/1.0\r\nhost: h\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut wire = world.wire().await;
    let answer = wire.send(request).await.answer().await.expect(200);
    assert_eq!((answer.text(), answer.end), (events(3).concat(), End::Closed));
    assert!(!answer.head.has("transfer-encoding"));
}

#[tokio::test]
async fn nobody_can_have_a_large_body_kept_without_a_token() {
    let world = World::start().await;
    let mut wire = world.wire().await;
    wire.send("POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
        .await;
    wire.answer_head("POST").await.expect(413);
}
