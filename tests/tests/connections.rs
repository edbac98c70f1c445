//! Connections on both sides of the gateway: kept, shared by nobody, limited, and let go.

use std::time::Duration;

use ace_tests::{Ask, Dialect, End, Script, World};

/// Far below the time after which the gateway closes a silent connection.
const SOON: Duration = Duration::from_secs(10);
const GAP: Duration = Duration::from_millis(50);

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
async fn hundreds_of_streams_at_once_get_each_its_own_answer() {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    let streams = (0..300).map(|n| {
        let event = format!("data: {{\"stream\":{n}}}\n\n");
        (
            event.clone(),
            Script::events([event.clone(), event], Duration::from_millis(500)),
        )
    });
    let mut calls = Vec::new();
    for (n, (event, script)) in streams.enumerate() {
        world.provider.plays_once(script);
        let mut wire = world.wire().await;
        wire.ask(&Dialect::OpenAi.streaming_ask().bearer(&token)).await;
        world.provider.arrival(n).await;
        calls.push(tokio::spawn(async move {
            (event.repeat(2), wire.answer().await.expect(200).text())
        }));
    }
    for call in calls {
        let (expected, got) = call.await.expect("a stream");
        assert_eq!(got, expected);
    }
    assert_eq!(world.alice.request_log(200).await.len(), 200);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once_and_the_others_live() {
    let world = World::builder().config("gateway", "max_connections = 16").start().await;
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut wire = world.wire().await;
        wire.call(&Ask::get("/healthz")).await.expect(200);
        open.push(wire);
    }
    let mut refused = world.wire().await;
    assert!(matches!(
        refused.ask(&Ask::get("/healthz")).await.end(SOON).await,
        End::Closed | End::Reset
    ));
    for wire in &mut open {
        wire.call(&Ask::get("/healthz")).await.expect(200);
    }
    drop(open);
    ace_tests::eventually("room for another", async || {
        let mut wire = world.wire().await;
        wire.ask(&Ask::get("/healthz")).await.try_answer_head("GET").await.ok()
    })
    .await;
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
