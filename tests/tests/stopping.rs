//! How a gateway ends, and how the next one takes its place.

use std::time::{Duration, Instant};

use ace_tests::{Answer, Ask, Dialect, Door, End, PATIENCE, Script, Wire, World, events};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(1);

async fn stream_of(world: &World, script: Script) -> (Wire, Answer) {
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
async fn a_connection_between_two_requests_is_closed_at_once() {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    let mut wire = world.wire().await;
    wire.call(&Dialect::OpenAi.ask().bearer(&token)).await.expect(200);
    world.gateway.terminate();
    // Only one that has not sent its first request yet gets a second for it.
    assert_ne!(wire.end(Duration::from_millis(700)).await, End::Silence);
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
    assert!(calls > 20, "{calls} calls");
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
        let mut wire = door.wire().await;
        // A client far away is connected for a while before its request is there.
        tokio::time::sleep(Duration::from_millis(20)).await;
        wire.call(&ask).await.expect(200);
        calls += 1;
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
