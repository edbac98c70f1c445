//! What the engine must do with connections and bodies, whatever they hold: the proofs of `docs/decisions/0001-engine.md`.

use std::time::{Duration, Instant};

use ace_tests::{Answer, Ask, Dialect, Door, End, PATIENCE, Script, World, events};
use bytes::Bytes;
use rustix::process::Signal;

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
async fn connections_are_kept_on_both_sides() {
    let world = World::start().await;
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    let mut wire = world.wire().await;
    for _ in 0..5 {
        wire.call(&ask).await.expect(200);
    }
    assert_eq!((world.provider.requests().len(), world.provider.connections()), (5, 1));
    let answer = wire.call(&ask.header("connection", "close")).await.expect(200);
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert_eq!(wire.end(SOON).await, End::Closed);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_or_not_at_all() {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    let ask = |n: usize| Ask::get(&format!("/v1/files/{n}")).bearer(&token);
    for n in 0..3 {
        world
            .provider
            .plays_once(Script::answer(200, "text/plain", n.to_string()).wait(GAP));
    }
    let mut wire = world.wire().await;
    let pipelined: Vec<u8> = (0..3).flat_map(|n| ask(n).bytes("h")).collect();
    wire.send(&pipelined).await;
    assert_eq!(wire.answer().await.expect(200).text(), "0");
    for n in 1..3 {
        let Ok(answer) = wire.try_answer_head("GET").await else {
            return;
        };
        let piece = wire.piece().await.expect("a body");
        assert_eq!((answer.status, &piece.bytes[..]), (200, n.to_string().as_bytes()));
    }
}

/// Starts a call whose provider has sent `before` and is silent; gives the client's connection.
async fn in_silence(world: &World, dialect: Dialect, before: Script) -> ace_tests::Wire {
    world.provider.plays(before.silence());
    let ask = dialect.authorize(dialect.streaming_ask(), &world.token(dialect).await);
    let mut wire = world.wire().await;
    wire.ask(&ask).await;
    world.provider.arrival(0).await;
    wire
}

#[tokio::test]
async fn hanging_up_reaches_the_provider_at_once() {
    for before in [Script::new(), Script::stream(), Script::stream().chunk("data: {}\n\n")] {
        for abruptly in [false, true] {
            let world = World::start().await;
            let mut wire = in_silence(&world, Dialect::Anthropic, before.clone()).await;
            assert_eq!(wire.end(GAP).await, End::Silence);
            let left = Instant::now();
            if abruptly {
                wire.reset()
            } else {
                drop(wire)
            }
            let gone = world.provider.departure(0).await - left;
            assert!(gone < SOON, "after {gone:?}, {before:?}");
        }
    }
}

#[tokio::test]
async fn trap_19_a_stream_that_breaks_at_the_provider_breaks_for_the_client() {
    let breaks = [
        Script::stream().chunk("data: {\"n\":1}\n\n").wait(GAP).reset(),
        Script::stream().chunk("data: {\"n\":1}\n\n").close(),
        Script::stream()
            .chunk("data: {\"n\":1}\n\ndata: {\"ha")
            .wait(GAP)
            .reset(),
        Script::stream().send("ff\r\ndata: {\"n\":1}\n\n").wait(GAP).close(),
        Script::stream()
            .chunk("data: {\"n\":1}\n\n")
            .send("not a chunk size\r\n")
            .wait(GAP),
        Script::raw(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 999\r\n\r\ndata: {\"n\":1}\n\n",
        )
        .close(),
    ];
    let world = World::start().await;
    for dialect in Dialect::ALL {
        let ask = dialect.authorize(dialect.streaming_ask(), &world.token(dialect).await);
        for script in &breaks {
            world.provider.plays(script.clone());
            let answer = world.call(&ask).await.expect(200);
            assert!(
                answer.text().starts_with("data: {\"n\":1}\n\n"),
                "{dialect:?} {script:?} {}",
                answer.text()
            );
            assert!(
                matches!(answer.end, End::Cut | End::Reset),
                "{dialect:?} {script:?} ended {:?}",
                answer.end
            );
            let told = answer.text().contains("event: error\ndata: {");
            assert_eq!(told, dialect == Dialect::Anthropic, "{dialect:?} {}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_provider_that_breaks_off_before_its_answer_is_a_bad_gateway() {
    let world = World::start().await;
    let garbage = "SSH-2.0-OpenSSH_9.2p1\r\n\r\n";
    for script in [
        Script::new().close(),
        Script::new().reset(),
        Script::raw(garbage),
        Script::raw("HTTP/1.1 200 OK\r\nx: ").close(),
    ] {
        world.provider.plays(script.clone());
        for dialect in Dialect::ALL {
            let answer = world.main_call(dialect).await;
            assert_eq!(answer.status, 502, "{script:?}");
            assert!(answer.json()["error"]["message"].is_string());
        }
    }
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_a_bad_gateway() {
    let world = World::start().await;
    world.provider.stop_listening();
    tokio::time::sleep(GAP).await;
    world.main_call(Dialect::OpenAi).await.expect(502);
}

#[tokio::test]
async fn a_silent_provider_is_a_gateway_timeout() {
    let world = World::builder()
        .config("timeouts", "first_byte = 300")
        .config("timeouts", "chunk = 300")
        .start()
        .await;
    world.provider.plays(Script::new().silence());
    world.main_call(Dialect::Google).await.expect(504);
    world.provider.plays(Script::stream().chunk("data: {}\n\n").silence());
    let answer = world.main_call(Dialect::Google).await.expect(200);
    assert!(matches!(answer.end, End::Cut | End::Reset), "{:?}", answer.end);
}

#[tokio::test]
async fn a_connection_that_the_provider_closed_meanwhile_is_not_the_clients_problem() {
    let world = World::start().await;
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    for wait in [0, 1, 5, 50] {
        // The provider closes right after its answer, so that the kept connection is stale at some moment or other.
        world.provider.plays_once(
            Script::answer(200, "application/json", "{}")
                .wait(Duration::from_millis(1))
                .close(),
        );
        world.call(&ask).await.expect(200);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        world.call(&ask).await.expect(200);
    }
}

#[tokio::test]
async fn a_request_that_the_provider_may_have_read_is_not_sent_again() {
    let world = World::start().await;
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    world.provider.plays(Script::raw("HTTP/1.1 200").reset());
    world.call(&ask).await.expect(502);
    assert_eq!(world.provider.requests().len(), 1);
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
async fn informational_answers_do_not_hide_the_answer() {
    let world = World::start().await;
    let start = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    world.provider.plays(Script::raw(format!(
        "{start}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{{}}"
    )));
    assert_eq!(world.main_call(Dialect::OpenAi).await.expect(200).text(), "{}");
}

#[tokio::test]
async fn a_provider_cannot_switch_protocols() {
    let world = World::start().await;
    world.provider.plays(Script::raw(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx",
    ));
    world.main_call(Dialect::OpenAi).await.expect(502);
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
async fn a_huge_answer_head_is_refused() {
    let world = World::start().await;
    world
        .provider
        .plays(Script::raw(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(10_000_000))));
    world.main_call(Dialect::OpenAi).await.expect(502);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go() {
    let world = World::builder().config("timeouts", "write = 500").start().await;
    let big = "x".repeat(100_000);
    let endless = (0..500).fold(Script::stream(), |script, _| script.chunk(&big));
    world.provider.plays(endless.silence());
    let ask = Ask::get("/v1/files").bearer(&world.token(Dialect::OpenAi).await);
    let mut wire = world.wire().await;
    wire.ask(&ask).await;
    world.provider.departure(0).await;
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

async fn stream_of(world: &World, script: Script) -> (ace_tests::Wire, Answer) {
    world.provider.plays(script);
    let ask = Dialect::OpenAi
        .streaming_ask()
        .bearer(&world.token(Dialect::OpenAi).await);
    let mut wire = world.wire().await;
    let answer = wire.ask(&ask).await.answer_head("POST").await;
    (wire, answer)
}

#[tokio::test]
async fn stopping_lets_a_stream_finish_and_does_not_wait_longer() {
    let mut world = World::start().await;
    let (mut wire, mut answer) = stream_of(&world, Script::events(events(20), Duration::from_millis(100))).await;
    world.gateway.terminate();
    let stopped = Instant::now();
    while let Some(piece) = wire.piece().await {
        answer.pieces.push(piece);
    }
    let answer = wire.finish(answer);
    assert_eq!((answer.text(), answer.end), (events(20).concat(), End::Complete));
    assert!(
        stopped.elapsed() > Duration::from_millis(1500),
        "the stream was still going on"
    );
    let over = Instant::now();
    assert!(world.gateway.exit(PATIENCE).await.success());
    assert!(
        over.elapsed() < Duration::from_secs(2),
        "left {:?} after its last stream",
        over.elapsed()
    );
}

#[tokio::test]
async fn stopping_refuses_new_connections_at_once() {
    let world = World::start().await;
    let (_wire, _answer) = stream_of(&world, Script::stream().chunk("data: {}\n\n").silence()).await;
    world.gateway.terminate();
    ace_tests::eventually("the listener to close", async || {
        tokio::net::TcpStream::connect(world.door.address)
            .await
            .is_err()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_endless_stream_ends_with_the_drain_timeout() {
    let mut world = World::builder().config("timeouts", "drain = 1000").start().await;
    let (mut wire, _) = stream_of(&world, Script::stream().chunk("data: {}\n\n").silence()).await;
    world.gateway.terminate();
    let stopped = Instant::now();
    world.gateway.exit(PATIENCE).await;
    let took = stopped.elapsed();
    assert!(
        took > Duration::from_millis(900) && took < Duration::from_secs(4),
        "left after {took:?}"
    );
    assert!(matches!(wire.end(SOON).await, End::Cut | End::Reset | End::Closed));
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once() {
    let mut world = World::start().await;
    let mut idle = world.wire().await;
    idle.call(&Ask::get("/healthz")).await.expect(200);
    let stopped = Instant::now();
    world.gateway.signal(Signal::INT);
    world.gateway.exit(PATIENCE).await;
    assert!(
        stopped.elapsed() < Duration::from_secs(2),
        "left after {:?}",
        stopped.elapsed()
    );
}

#[tokio::test]
async fn an_upgrade_refuses_nobody_and_cuts_no_stream() {
    let mut world = World::start().await;
    let (mut wire, mut answer) = stream_of(&world, Script::events(events(40), Duration::from_millis(100))).await;
    world.provider.plays(Script::answer(200, "application/json", "{}"));
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    let door = world.door.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let caller = tokio::spawn(call_until(door, ask, stopped));
    let mut old = world.upgrade().await;
    tokio::time::sleep(SOON).await;
    stop.send(()).expect("the caller still calls");
    let calls = caller.await.expect("every call was answered");
    assert!(calls > 50, "{calls} calls");
    while let Some(piece) = wire.piece().await {
        answer.pieces.push(piece);
    }
    assert_eq!(wire.finish(answer).text(), events(40).concat());
    assert!(old.exit(PATIENCE).await.success());
    let logged = (calls + 1).min(200);
    assert!(world.alice.request_log(logged).await.len() >= logged);
}

/// Calls on a new connection each time; every answer must be a success.
async fn call_until(door: Door, ask: Ask, mut stopped: tokio::sync::oneshot::Receiver<()>) -> usize {
    let mut calls = 0;
    while stopped.try_recv().is_err() {
        door.call(&ask).await.expect(200);
        calls += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    calls
}

#[tokio::test]
async fn an_upgrade_that_nobody_takes_over_changes_nothing() {
    let world = World::start().await;
    world.gateway.signal(Signal::QUIT);
    tokio::time::sleep(SOON).await;
    world.main_call(Dialect::OpenAi).await.expect(200);
}
