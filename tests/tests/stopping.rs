//! How a gateway ends, and how the next one takes its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ace_tests::{Answer, Ask, Dialect, Door, End, PATIENCE, Script, Wire, World, events};
use rustix::process::Signal;
use tokio::sync::Notify;

/// A moment in which something would have happened.
const MOMENT: Duration = Duration::from_secs(1);
/// Half of the time that a gateway gives its streams when it stops.
const SOON: Duration = Duration::from_secs(15);

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
    let (told, mut events) = (Arc::new(Notify::new()), events(20));
    let first = events.remove(0);
    let begun = Script::stream().chunk(&first).until_told(&told);
    let script = events.iter().fold(begun, |script, event| {
        script.chunk(event).wait(Duration::from_millis(50))
    });
    let (mut wire, mut answer) = stream_of(&world, script.last_chunk()).await;
    answer.pieces.extend(wire.piece().await);
    world.gateway.terminate();
    nobody_listens(&world).await;
    told.notify_one();
    let answer = wire.rest_of(answer).await;
    let whole = [first, events.concat()].concat();
    assert_eq!((answer.text(), answer.end), (whole, End::Complete));
    let over = Instant::now();
    assert!(world.gateway.exit(PATIENCE).await.success());
    assert!(over.elapsed() < SOON, "left {:?} after its last stream", over.elapsed());
}

async fn nobody_listens(world: &World) {
    ace_tests::eventually("the listener to close", async || {
        tokio::net::TcpStream::connect(world.door.address)
            .await
            .is_err()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn stopping_refuses_new_connections_at_once() {
    let world = World::start().await;
    let (_wire, _answer) = stream_of(&world, Script::stream().chunk("data: {}\n\n").silence()).await;
    world.gateway.terminate();
    nobody_listens(&world).await;
}

#[tokio::test]
async fn an_endless_stream_ends_with_the_drain_timeout() {
    let mut world = World::builder().config("timeouts", "drain = 1000").start().await;
    let (mut wire, _) = stream_of(&world, Script::stream().chunk("data: {}\n\n").silence()).await;
    world.gateway.terminate();
    let stopped = Instant::now();
    world.gateway.exit(PATIENCE).await;
    let took = stopped.elapsed();
    assert!(took > Duration::from_millis(900) && took < SOON, "left after {took:?}");
    assert!(matches!(wire.end(SOON).await, End::Cut | End::Reset | End::Closed));
}

#[tokio::test]
async fn a_connection_between_two_requests_is_closed_at_once() {
    // Only one that has not sent its first request yet gets a second for it. Where a machine stands still for most of that second
    // both end together; it does not always.
    for _ in 0..5 {
        let ahead = used_ends_before_unused().await;
        println!("{ahead:?} before the other one");
        if ahead > MOMENT / 2 {
            return;
        }
    }
    panic!("a connection between two requests was kept as long as one without any");
}

/// How long before a connection without a request one ends that had its answer.
async fn used_ends_before_unused() -> Duration {
    let world = World::start().await;
    let token = world.token(Dialect::OpenAi).await;
    let (mut used, mut unused) = (world.wire().await, world.wire().await);
    used.call(&Dialect::OpenAi.ask().bearer(&token)).await.expect(200);
    world.gateway.terminate();
    let (used, unused) = tokio::join!(ends(&mut used), ends(&mut unused));
    unused.saturating_duration_since(used)
}

/// When the other side ends a connection.
async fn ends(wire: &mut Wire) -> Instant {
    assert_ne!(wire.end(PATIENCE).await, End::Silence);
    Instant::now()
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once() {
    let mut world = World::start().await;
    let mut idle = world.wire().await;
    idle.call(&Ask::get("/healthz")).await.expect(200);
    let stopped = Instant::now();
    world.gateway.signal(Signal::INT);
    world.gateway.exit(PATIENCE).await;
    assert!(stopped.elapsed() < SOON, "left after {:?}", stopped.elapsed());
}

#[tokio::test]
async fn an_upgrade_refuses_nobody_and_cuts_no_stream() {
    let mut world = World::start().await;
    let (mut wire, mut answer) = stream_of(&world, Script::events(events(40), Duration::from_millis(100))).await;
    world.provider.plays(Script::answer(200, "application/json", "{}"));
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    let door = world.door.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let answered = Arc::new(AtomicUsize::new(0));
    let caller = tokio::spawn(call_until(door, ask, stopped, answered.clone()));
    let mut old = world.upgrade().await;
    tokio::time::sleep(MOMENT).await;
    ace_tests::eventually("calls while the gateway changes", async || {
        (answered.load(Ordering::Relaxed) > 20).then_some(())
    })
    .await;
    stop.send(()).expect("the caller still calls");
    caller.await.expect("every call was answered");
    let calls = answered.load(Ordering::Relaxed);
    while let Some(piece) = wire.piece().await {
        answer.pieces.push(piece);
    }
    assert_eq!(wire.finish(answer).text(), events(40).concat());
    assert!(old.exit(PATIENCE).await.success());
    let logged = (calls + 1).min(200);
    assert!(world.alice.request_log(logged).await.len() >= logged);
}

/// Calls on a new connection each time; every answer must be a success.
async fn call_until(door: Door, ask: Ask, mut stopped: tokio::sync::oneshot::Receiver<()>, answered: Arc<AtomicUsize>) {
    while stopped.try_recv().is_err() {
        let mut wire = door.wire().await;
        // A client far away is connected for a while before its request is there.
        tokio::time::sleep(Duration::from_millis(20)).await;
        wire.call(&ask).await.expect(200);
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn an_upgrade_that_nobody_takes_over_changes_nothing() {
    let world = World::start().await;
    world.gateway.signal(Signal::QUIT);
    tokio::time::sleep(MOMENT).await;
    world.main_call(Dialect::OpenAi).await.expect(200);
}
