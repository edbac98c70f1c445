//! Who hangs up: what becomes of the provider's answer, and what it costs.

use std::time::{Duration, Instant};

use ace_tests::{Ask, Ca, Dialect, Door, H2Provider, Script, World, WorldBuilder, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Far below the time after which the gateway gives up on a silent provider.
const SOON: Duration = Duration::from_secs(10);
/// Between what the client waits for and the rest: long enough for a busy gateway to notice in it that the client has gone.
const PAUSE: Duration = Duration::from_secs(3);

const INPUT: u64 = 11;
const OUTPUT: u64 = 40;

/// A whole answer in two parts: up to its first piece of text, and the rest.
fn halves(dialect: Dialect) -> [String; 2] {
    let events = dialect.telling(3, INPUT, OUTPUT);
    let first = if dialect == Dialect::Anthropic { 3 } else { 1 };
    [events[..first].concat(), events[first..].concat()]
}

fn in_halves(dialect: Dialect) -> Script {
    let [first, rest] = halves(dialect);
    Script::stream().chunk(first).wait(PAUSE).chunk(rest).last_chunk()
}

/// What a provider is asked whose answer is read on.
fn draining() -> WorldBuilder {
    Dialect::ALL.into_iter().fold(World::builder(), |builder, dialect| {
        builder.config("hangup", format!("{} = \"drain\"", dialect.name()))
    })
}

/// Asks for a stream, waits for its first half and hangs up.
async fn leaves_after_the_first_half(world: &World, dialect: Dialect) -> Instant {
    let ask = dialect.authorize(dialect.streaming_ask(), &world.token(dialect).await);
    let mut wire = world.wire().await;
    wire.ask(&ask).await.answer_head("POST").await.expect(200);
    wire.piece().await.expect("the first half");
    Instant::now()
}

/// The only row, with what it counts.
async fn charged(world: &World) -> (Value, u64, u64) {
    let mut rows = world.alice.request_log(1).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = rows.remove(0);
    let tokens = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("no {name} in {row}"));
    let (input, output) = (tokens("input_tokens"), tokens("output_tokens"));
    (row, input, output)
}

/// What is charged where the stream was broken off after its first half.
#[track_caller]
fn is_an_estimate(dialect: Dialect, (row, input, output): (Value, u64, u64)) {
    let asked = row["bytes_in"].as_u64().unwrap_or_default().div_ceil(4);
    // Anthropic tells the input at its beginning, and a first token.
    let expected = match dialect {
        Dialect::Anthropic => ("partial", INPUT, 1 + 5),
        _ => ("estimated", asked, 5),
    };
    let source = row["usage_source"].as_str().unwrap_or_default();
    assert_eq!((source, input, output), expected, "{row}");
    assert_eq!(row["error_kind"], "client_gone", "{row}");
}

/// What is charged where the provider's last word was heard.
#[track_caller]
fn is_the_providers(status: u16, (row, input, output): (Value, u64, u64)) {
    let source = row["usage_source"].as_str().unwrap_or_default();
    assert_eq!((source, input, output), ("provider", INPUT, OUTPUT), "{row}");
    assert_eq!(
        (&row["error_kind"], &row["status"]),
        (&json!("client_gone"), &json!(status)),
        "{row}"
    );
}

/// Waits until so many answers were read on, with that outcome.
async fn drained(world: &World, outcome: &str, count: u64) {
    let line = format!("ace_drained_streams_total{{outcome=\"{outcome}\"}} {count}");
    eventually(&line, async || {
        let metrics = Door::plain(world.metrics).call(&Ask::get("/metrics")).await;
        metrics.text().lines().any(|found| found == line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn trap_04_an_answer_is_broken_off_at_once_and_estimated() {
    for dialect in Dialect::ALL {
        let world = World::start().await;
        world
            .provider
            .plays(Script::stream().chunk(&halves(dialect)[0]).silence());
        let left = leaves_after_the_first_half(&world, dialect).await;
        assert!(world.provider.departure(0).await - left < SOON);
        is_an_estimate(dialect, charged(&world).await);
    }
}

#[tokio::test]
async fn an_answer_is_read_on_where_that_is_wanted_and_the_figures_are_the_providers() {
    for dialect in Dialect::ALL {
        let world = draining().config("gateway", "threads = 1").start().await;
        world.provider.plays(in_halves(dialect));
        leaves_after_the_first_half(&world, dialect).await;
        is_the_providers(200, charged(&world).await);
        drained(&world, "complete", 1).await;
        assert!(world.provider.requests()[0].played);

        world.main_call(dialect).await.expect(200);
        assert_eq!(
            world.provider.connections(),
            1,
            "its connection is good for the next one"
        );
    }
}

async fn over_h2(world: WorldBuilder, dialect: Dialect, ca: &Ca, folder: &TempDir) -> (World, H2Provider) {
    let provider = H2Provider::start(ca, "text/event-stream", halves(dialect).to_vec(), PAUSE).await;
    let files = ca.write(folder.path());
    let world = world
        .config("upstream", format!("ca_file = {:?}", files.authority))
        .without_keys()
        .start()
        .await;
    world
        .store_key(dialect, &dialect.base_url(&provider.url()), dialect.key())
        .await;
    (world, provider)
}

#[tokio::test]
async fn over_http2_the_same_holds_for_a_stream() {
    let (ca, folder) = (Ca::new(), TempDir::new().expect("a folder"));
    for dialect in Dialect::ALL {
        let (world, provider) = over_h2(World::builder(), dialect, &ca, &folder).await;
        let left = leaves_after_the_first_half(&world, dialect).await;
        assert!(provider.departure(0).await - left < SOON, "the stream is reset");
        is_an_estimate(dialect, charged(&world).await);

        let (world, provider) = over_h2(draining(), dialect, &ca, &folder).await;
        leaves_after_the_first_half(&world, dialect).await;
        is_the_providers(200, charged(&world).await);
        assert_eq!(provider.requests()[0].gone, None);
    }
}

#[tokio::test]
async fn an_answer_that_has_not_begun_is_waited_for_too() {
    for dialect in Dialect::ALL {
        let world = draining().start().await;
        let [first, rest] = halves(dialect);
        world.provider.plays(
            Script::new()
                .wait(PAUSE)
                .send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .chunk(first)
                .chunk(rest)
                .last_chunk(),
        );
        let ask = dialect.authorize(dialect.streaming_ask(), &world.token(dialect).await);
        let mut wire = world.wire().await;
        wire.ask(&ask).await;
        world.provider.arrival(0).await;
        wire.half_close().await;
        wire.end(PAUSE / 2).await;
        assert!(world.provider.requests()[0].gone.is_none());
        is_the_providers(499, charged(&world).await);
        drained(&world, "complete", 1).await;
    }
}

#[tokio::test]
async fn an_answer_is_not_waited_for_where_some_of_it_must_be_there() {
    let world = draining().config("hangup", "min_percent = 1").start().await;
    world.provider.plays(Script::new().silence());
    let ask = Dialect::OpenAi.authorize(Dialect::OpenAi.ask(), &world.token(Dialect::OpenAi).await);
    let mut wire = world.wire().await;
    wire.ask(&ask).await;
    world.provider.arrival(0).await;
    let left = Instant::now();
    drop(wire);
    assert!(world.provider.departure(0).await - left < SOON);
    let (row, input, _) = charged(&world).await;
    assert_eq!((&row["usage_source"], input > 0), (&json!("estimated"), true), "{row}");
}

#[tokio::test]
async fn reading_on_ends_with_the_tokens_or_the_time_that_it_is_given() {
    let dialect = Dialect::Anthropic;
    for limit in ["max_tokens = 4", "max_seconds = 10"] {
        let world = draining().config("hangup", limit).start().await;
        let delta = &dialect.telling(1, INPUT, OUTPUT)[2];
        let script = Script::stream().chunk(&halves(dialect)[0]).wait(PAUSE).chunk(delta);
        world.provider.plays(script.silence());
        leaves_after_the_first_half(&world, dialect).await;
        world.provider.departure(0).await;
        drained(&world, "limit", 1).await;
        let (row, input, output) = charged(&world).await;
        assert_eq!(
            (&row["usage_source"], input, output),
            (&json!("partial"), INPUT, 1 + 10),
            "{row}"
        );
    }
}

#[tokio::test]
async fn reading_on_begins_where_enough_of_the_allowed_output_is_there() {
    // 6 of the 64 that the request allows are there: nine in a hundred.
    for (percent, is_drained) in [(9, true), (10, false)] {
        let world = draining()
            .config("hangup", format!("min_percent = {percent}"))
            .start()
            .await;
        world.provider.plays(in_halves(Dialect::Anthropic));
        leaves_after_the_first_half(&world, Dialect::Anthropic).await;
        let (row, ..) = charged(&world).await;
        let source = if is_drained { "provider" } else { "partial" };
        assert_eq!(row["usage_source"], source, "{row}");
    }
}

#[tokio::test]
async fn a_client_of_http2_that_resets_its_stream_has_hung_up_too() {
    let dialect = Dialect::OpenAi;
    let world = draining().start().await;
    world.provider.plays(in_halves(dialect));
    let ask = dialect.authorize(dialect.streaming_ask(), &world.token(dialect).await);
    let mut client = world.h2().await;
    let mut stream = client.open(&ask).await;
    stream.piece().await.expect("the first half");
    stream.hang_up();
    is_the_providers(200, charged(&world).await);
}
