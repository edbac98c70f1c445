//! Requests that two programs could read differently, and requests that never end: refused, and nothing of them reaches
//! a provider or is taken for another request.

use std::time::{Duration, Instant};

use ace_tests::{Ask, Dialect, End, PATIENCE, Wire, World};

/// What an attacker hopes that the provider, or the next one on the connection, will read as a request.
const SMUGGLED: &str = "GET /v1/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

struct Attack {
    world: World,
    token: String,
}

impl Attack {
    async fn start() -> Self {
        Self::on(World::start().await).await
    }

    async fn on(world: World) -> Self {
        let token = world.token(Dialect::OpenAi).await;
        Self { world, token }
    }

    /// A request of these header lines to a path that is neither read nor metered, with this body.
    fn request(&self, lines: &str, body: &str) -> Vec<u8> {
        self.raw("POST /v1/files HTTP/1.1", &format!("Host: h\r\n{lines}"), body)
    }

    fn raw(&self, first: &str, lines: &str, body: &str) -> Vec<u8> {
        format!(
            "{first}\r\nAuthorization: Bearer {}\r\n{lines}\r\n\r\n{body}",
            self.token
        )
        .into_bytes()
    }

    /// The request gets one refusal, then the connection ends; the provider has seen nothing.
    #[track_caller]
    fn is_refused(&self, status: u16, request: Vec<u8>) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let shown = String::from_utf8_lossy(&request[..request.len().min(300)]).replace(&self.token, "…");
            let mut wire = self.world.wire().await;
            let answer = wire.send(&request).await.answer().await;
            assert_eq!(answer.status, status, "{caller} {shown:?}");
            assert!(ended(&mut wire).await, "{caller} {shown:?}: the connection lives on");
            assert_eq!(wire.unread(), b"", "{caller} {shown:?}: a second answer");
            assert_eq!(
                self.world.provider.requests().len(),
                0,
                "{caller} {shown:?}: reached the provider"
            );
        }
    }
}

async fn ended(wire: &mut Wire) -> bool {
    wire.end(PATIENCE).await != End::Silence
}

#[tokio::test]
async fn two_framings_are_refused() {
    let attack = Attack::start().await;
    let body = format!("0\r\n\r\n{SMUGGLED}");
    for lines in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 6",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked, chunked",
    ] {
        attack.is_refused(400, attack.request(lines, &body)).await;
    }
}

#[tokio::test]
async fn obfuscated_codings_are_refused() {
    let attack = Attack::start().await;
    let body = format!("0\r\n\r\n{SMUGGLED}");
    for lines in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chu\u{017f}ked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer Encoding: chunked",
    ] {
        attack.is_refused(400, attack.request(lines, &body)).await;
    }
}

#[tokio::test]
async fn line_ends_that_only_some_take_for_line_ends_are_refused() {
    let attack = Attack::start().await;
    for lines in [
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\r\r\nTransfer-Encoding: chunked",
        "X: a\0b",
        "X\0: a",
        "X: y\x7fz\nZ: z",
    ] {
        attack.is_refused(400, attack.request(lines, "")).await;
    }
    attack
        .is_refused(400, b"POST /v1/files HTTP/1.1\nHost: h\n\n".to_vec())
        .await;
}

#[tokio::test]
async fn names_and_foldings_are_refused() {
    let attack = Attack::start().await;
    for lines in [
        "X: a\r\n folded",
        "X: a\r\n\tfolded",
        ": empty",
        "X y: z",
        "X",
        "X@y: z",
        "Content-Length : 3",
        "(x): y",
    ] {
        attack.is_refused(400, attack.request(lines, "abc")).await;
    }
    attack
        .is_refused(400, attack.raw("POST /v1/files HTTP/1.1", " Host: h", ""))
        .await;
}

#[tokio::test]
async fn hosts_must_be_one() {
    let attack = Attack::start().await;
    let first = "POST /v1/files HTTP/1.1";
    for lines in [
        "X: y",
        "Host: a\r\nHost: b",
        "Host: a\r\nHost: a",
        "Host: a/b",
        "Host: a@b",
        "Host: a b",
        "Host: a, b",
    ] {
        attack.is_refused(400, attack.raw(first, lines, "")).await;
    }
}

#[tokio::test]
async fn request_lines_are_taken_in_one_form_only() {
    let attack = Attack::start().await;
    for first in [
        "POST http://evil.example/v1/files HTTP/1.1",
        "POST v1/files HTTP/1.1",
        "POST * HTTP/1.1",
        "CONNECT evil.example:443 HTTP/1.1",
        "POST /v1/files",
        "POST  /v1/files HTTP/1.1",
        "POST /v1/files  HTTP/1.1",
        "POST\t/v1/files HTTP/1.1",
        "POST /v1/files HTTP/1.2",
        "POST /v1/files HTTP/3.0",
        "POST /v1/files http/1.1",
        "POST /v1/fi les HTTP/1.1",
        "POST /v1/f\u{fc} HTTP/1.1",
        "P\u{d6}ST /v1/files HTTP/1.1",
        " POST /v1/files HTTP/1.1",
        "garbage",
    ] {
        attack.is_refused(400, attack.raw(first, "Host: h", "")).await;
    }
}

#[tokio::test]
async fn chunks_that_lie_are_refused() {
    let attack = Attack::start().await;
    let flood = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(100_000));
    let trailers = format!("0\r\n{}\r\n", "x: y\r\n".repeat(100_000));
    for body in [
        "ffffffffffffffffff\r\nx",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello\r\r0\r\n\r\n",
        "5 ;\nx\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "five\r\nhello\r\n0\r\n\r\n",
        "0\r\nx: y\nz\r\n\r\n",
        &flood,
        &trailers,
    ] {
        let mut wire = attack.world.wire().await;
        let sent = wire.send(attack.request("Transfer-Encoding: chunked", body)).await;
        let status = sent.try_answer_head("POST").await.map_or(0, |answer| answer.status);
        assert!(
            matches!(status, 400 | 0),
            "{status} for {:?}",
            &body[..body.len().min(60)]
        );
        assert!(ended(&mut wire).await, "{:?}", &body[..body.len().min(60)]);
        let reached = attack
            .world
            .provider
            .requests()
            .into_iter()
            .filter(|seen| !seen.body.is_empty());
        assert_eq!(
            reached.count(),
            0,
            "{:?}: a whole body reached the provider",
            &body[..body.len().min(60)]
        );
    }
}

#[tokio::test]
async fn what_follows_a_request_is_not_part_of_it() {
    let attack = Attack::start().await;
    let first = attack.request("Content-Length: 3", "abc");
    let second = attack.request("Content-Length: 2", "de");
    let mut wire = attack.world.wire().await;
    wire.send([first, second].concat()).await.answer().await.expect(200);
    let seen = attack.world.provider.arrival(0).await;
    assert_eq!(&seen.body[..], b"abc");
    if wire.try_answer_head("POST").await.is_ok() {
        assert_eq!(&attack.world.provider.arrival(1).await.body[..], b"de");
    }
}

#[tokio::test]
async fn a_body_that_is_not_read_is_not_taken_for_a_request() {
    let attack = Attack::start().await;
    // Refused for its token before its body is read: what is in the body must not be answered on its own.
    let body = format!("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n{SMUGGLED}");
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut wire = attack.world.wire().await;
    wire.send(request).await.answer().await.expect(401);
    assert!(matches!(
        wire.try_answer_head("GET").await,
        Err(End::Closed | End::Reset | End::Silence)
    ));
    assert_eq!(wire.unread(), b"");
}

#[tokio::test]
async fn sizes_have_limits() {
    let world = World::builder()
        .config("limits", "max_body_bytes = 100000")
        .start()
        .await;
    let attack = Attack::on(world).await;
    let many: String = (0..1000).map(|n| format!("x-{n}: y\r\n")).collect();
    attack
        .is_refused(431, attack.request(&format!("X: {}", "x".repeat(70_000)), ""))
        .await;
    attack.is_refused(431, attack.request(many.trim_end(), "")).await;
    attack
        .is_refused(
            414,
            attack.raw(&format!("POST /v1/{} HTTP/1.1", "x".repeat(20_000)), "Host: h", ""),
        )
        .await;
    attack
        .is_refused(413, attack.request("Content-Length: 100001", ""))
        .await;
    let ask = Dialect::OpenAi.ask().bearer(&attack.token);
    let answer = attack
        .world
        .call(&ask.chunks(vec![vec![b' '; 60_000]; 2]))
        .await
        .expect(413);
    assert_eq!(answer.json()["error"]["type"], "request_too_large");
    let answer = attack
        .world
        .call(&Ask::post("/v1/messages").header("content-length", "100001"))
        .await;
    assert!(matches!(answer.status, 401 | 413), "{}", answer.status);
}

#[tokio::test]
async fn a_megabyte_more_than_the_old_limits_is_welcome() {
    let attack = Attack::start().await;
    let mut body = Dialect::OpenAi.body();
    body["padding"] = "x".repeat(5_000_000).into();
    attack
        .world
        .call(&Ask::post("/v1/chat/completions").bearer(&attack.token).json(&body))
        .await
        .expect(200);
}

/// Many times what the gateway is told to wait; what a byte now and then could prolong would go on for longer.
const LATE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let world = World::builder().config("timeouts", "head = 500").start().await;
    let starts = ["P", "PRI * HTT", "POST /v1/messages HTTP/1.1\r\nHost: h\r\n"];
    // Neither silence nor a byte now and then may buy more time.
    for (start, more) in starts.iter().flat_map(|start| [(start, ""), (start, "X")]) {
        let mut wire = world.wire().await;
        let begun = Instant::now();
        wire.send(start).await;
        while wire.end(Duration::from_millis(50)).await == End::Silence && begun.elapsed() < LATE {
            wire.send(more).await;
        }
        assert!(begun.elapsed() < LATE, "{start:?} held for {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_off() {
    let world = World::builder()
        .config("timeouts", "body = 1000")
        .config("timeouts", "body_idle = 300")
        .start()
        .await;
    let attack = Attack::on(world).await;
    for path in ["/v1/files", "/v1/chat/completions"] {
        for gap in [50, 20_000] {
            let head = attack.raw(
                &format!("POST {path} HTTP/1.1"),
                "Host: h\r\nContent-Length: 1000000",
                "{",
            );
            let mut wire = attack.world.wire().await;
            let begun = Instant::now();
            wire.send(head).await;
            while wire.end(Duration::from_millis(gap)).await == End::Silence && begun.elapsed() < LATE {
                wire.send(" ").await;
            }
            let held = begun.elapsed();
            assert!(held < LATE, "{path}, a byte every {gap} ms: held for {held:?}");
        }
    }
}

#[tokio::test]
async fn connections_that_say_nothing_are_few_and_let_go() {
    let world = World::builder()
        .config("timeouts", "head = 500")
        .config("timeouts", "keepalive = 500")
        .start()
        .await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(world.wire().await);
    }
    let mut used = world.wire().await;
    used.call(&Ask::get("/healthz")).await.expect(200);
    for wire in silent.iter_mut().chain([&mut used]) {
        assert!(ended(wire).await);
    }
}
