//! What breaks on one side and what that does to the other: hang-ups, resets, silence, nonsense.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_tests::{Answer, Ask, Dialect, End, Script, Wire, World};
use tokio::sync::Notify;

/// Far below the time after which the gateway gives up on a silent side.
const SOON: Duration = Duration::from_secs(10);
const GAP: Duration = Duration::from_millis(50);

/// Starts a call whose provider has sent `before` and is silent; gives the client's connection.
async fn in_silence(world: &World, dialect: Dialect, before: Script) -> Wire {
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

/// Ways of a stream to break. A reset takes away what the gateway has not read yet: it waits until the client has it.
fn breaks(told: &Arc<Notify>) -> [Script; 6] {
    [
        Script::stream().chunk("data: {\"n\":1}\n\n").until_told(told).reset(),
        Script::stream().chunk("data: {\"n\":1}\n\n").close(),
        Script::stream()
            .chunk("data: {\"n\":1}\n\ndata: {\"ha")
            .until_told(told)
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
    ]
}

/// Calls, and tells when the first piece is there.
async fn call_and_tell(world: &World, ask: &Ask, told: &Notify) -> Answer {
    let mut wire = world.wire().await;
    let mut answer = wire.ask(ask).await.answer_head("POST").await.expect(200);
    answer.pieces.extend(wire.piece().await);
    told.notify_one();
    wire.rest_of(answer).await
}

#[tokio::test]
async fn trap_19_a_stream_that_breaks_at_the_provider_breaks_for_the_client() {
    let world = World::start().await;
    for dialect in Dialect::ALL {
        let ask = dialect.authorize(dialect.streaming_ask(), &world.token(dialect).await);
        for n in 0..6 {
            let told = Arc::new(Notify::new());
            let script = breaks(&told)[n].clone();
            world.provider.plays(script.clone());
            let answer = call_and_tell(&world, &ask, &told).await;
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
async fn trap_19_the_end_of_a_connection_is_not_the_end_of_an_answer() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let begun = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
    let world = World::start().await;
    let ask = Dialect::OpenAi.authorize(Dialect::OpenAi.streaming_ask(), &world.token(Dialect::OpenAi).await);
    for (rest, is_whole) in [("", false), ("data: [DONE]\n\n", true)] {
        world
            .provider
            .plays(Script::raw(format!("{head}{begun}{rest}")).close());
        let answer = world.call(&ask).await.expect(200);
        let cut = matches!(answer.end, End::Cut | End::Reset);
        assert_eq!(cut, !is_whole, "{:?} {}", answer.end, answer.text());
    }
}

#[tokio::test]
async fn trap_19_the_word_for_a_break_does_not_fill_up_an_announced_length() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 40\r\n\r\n";
    let world = World::start().await;
    world
        .provider
        .plays(Script::raw(format!("{head}data: {{}}\n\n")).close());
    let answer = world.main_call(Dialect::Anthropic).await.expect(200);
    assert!(
        matches!(answer.end, End::Cut | End::Reset),
        "{:?} {}",
        answer.end,
        answer.text()
    );
}

#[tokio::test]
async fn trap_23_a_keep_alive_takes_no_byte_of_an_announced_length() {
    let world = World::builder().config("keepalive", "anthropic_ms = 50").start().await;
    let events = ["event: ping\ndata: {}\n\n", "event: message_stop\ndata: {}\n\n"];
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n",
        events.concat().len()
    );
    let script = Script::raw(format!("{head}{}", events[0]))
        .wait(4 * GAP)
        .send(events[1]);
    world.provider.plays(script);
    let answer = world.main_call(Dialect::Anthropic).await.expect(200);
    assert_eq!(answer.text(), events.concat());
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
    let world = World::builder().config("timeouts", "first_byte = 300").start().await;
    world.provider.plays(Script::new().silence());
    world.main_call(Dialect::Google).await.expect(504);
}

#[tokio::test]
async fn a_provider_that_falls_silent_breaks_its_answer_off() {
    let world = World::builder().config("timeouts", "chunk = 300").start().await;
    world.provider.plays(Script::stream().chunk("data: {}\n\n").silence());
    let answer = world.main_call(Dialect::Google).await.expect(200);
    assert!(matches!(answer.end, End::Cut | End::Reset), "{:?}", answer.end);
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
async fn a_huge_answer_head_is_refused() {
    let world = World::start().await;
    world
        .provider
        .plays(Script::raw(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(10_000_000))));
    world.main_call(Dialect::OpenAi).await.expect(502);
}
