//! Streams whose length nobody limits: they reserve more as they flow, and end when there is no more, as their protocol ends one.

use std::time::Duration;

use ace_tests::{Answer, Audit, Dialect, End, Node, Order, Postgres, Watch, World, WorldBuilder, crowd};
use serde_json::json;

use super::shop;

const MAXIMUM: u64 = 2_500;
/// More than the limit holds, and than the provider would ever be let write.
const ENDLESS: u64 = 1_000_000;

fn endless(dialect: Dialect) -> Order {
    Order::of(dialect, ENDLESS).every(Duration::from_millis(1))
}

fn builder() -> WorldBuilder {
    World::builder().config("quota", "default_output_tokens = 100")
}

async fn limit(world: &World, maximum: u64, others: &[&Node]) {
    let account = format!("users/{}", world.alice.id);
    world.limit(&account, json!({"tokens_per_day": maximum}), others).await;
}

/// The stream is one that its protocol has ended at a token limit; where the dialect has comments, one says why.
fn is_ended_in_protocol(dialect: Dialect, answer: &Answer) {
    let text = answer.text();
    let end = &text[text.len().saturating_sub(600)..];
    assert_eq!((answer.status, answer.end), (200, End::Complete), "{dialect:?} {end}");
    assert!(dialect.is_at_its_limit(&text), "{dialect:?} {end}");
    if dialect != Dialect::Google {
        assert!(end.contains("ace-stop-reason: quota_exceeded"), "{dialect:?} {end}");
    }
}

/// What the client got of a stream, and what of it the ledger says.
async fn one_stream(dialect: Dialect) {
    let (world, biller) = shop(builder()).await;
    limit(&world, MAXIMUM, &[]).await;
    let watch = Watch::begin(&world.alice, &world.door, "tokens_per_day");
    let order = endless(dialect);
    let answer = world.call(&order.ask(&world.token(dialect).await)).await;
    is_ended_in_protocol(dialect, &answer);
    let mut audit = Audit::of(&world.alice, &biller).await;
    let item = &audit.items[0];
    assert!(
        !item.complete && item.output < MAXIMUM,
        "the provider was left: {item:?}"
    );
    let row = audit.row_of(&order.model).expect("a row");
    assert_eq!(
        (&row["error_kind"], &row["status"]),
        (&json!("quota_stopped"), &json!(200))
    );
    let output = row["output_tokens"].as_u64().unwrap_or_default();
    assert!((500..=item.output).contains(&output), "{item:?} {row}");
    assert!(
        ["partial", "estimated"].contains(&row["usage_source"].as_str().unwrap_or_default()),
        "{row}"
    );
    audit.sums_hold(&world.alice).await;
    assert!(watch.end().await <= MAXIMUM);
}

#[tokio::test]
async fn an_openai_stream_goes_on_until_the_limit_and_ends_with_length_and_done() {
    one_stream(Dialect::OpenAi).await;
}

#[tokio::test]
async fn an_anthropic_stream_goes_on_until_the_limit_and_ends_with_max_tokens_and_message_stop() {
    one_stream(Dialect::Anthropic).await;
}

#[tokio::test]
async fn a_google_stream_goes_on_until_the_limit_and_ends_with_max_tokens() {
    one_stream(Dialect::Google).await;
}

/// A stream that the limit has room for is as long as it is, whatever was reserved at first.
#[tokio::test]
async fn a_stream_that_outgrows_what_was_reserved_at_first_comes_whole() {
    let (world, biller) = shop(builder()).await;
    limit(&world, 100_000, &[]).await;
    for dialect in Dialect::ALL {
        let order = Order::of(dialect, 3_000);
        let answer = world.call(&order.ask(&world.token(dialect).await)).await.expect(200);
        assert_eq!(answer.end, End::Complete);
        assert!(dialect.has_ended(&answer.text()) && !dialect.is_at_its_limit(&answer.text()));
    }
    let audit = Audit::of(&world.alice, &biller).await;
    audit.holds_to_the_token();
    assert_eq!(audit.sum("output_tokens"), 9_000);
}

/// trap 9 where nobody said how long the answers may be: all begin, none is cut in the middle, and together they stay within the limit.
#[tokio::test]
async fn trap_09_fifty_streams_without_an_end_stay_within_the_limit_together() {
    let (world, biller) = shop(builder()).await;
    let orders = || {
        Dialect::ALL
            .iter()
            .cycle()
            .take(50)
            .copied()
            .map(endless)
            .collect::<Vec<_>>()
    };
    let maximum = 20_000;
    limit(&world, maximum, &[]).await;
    let watch = Watch::begin(&world.alice, &world.door, "tokens_per_day");
    let token = world.alice.proxy_token(None).await;
    let outcomes = crowd(&[&world.door], &token, orders()).await;
    let mut begun = 0;
    for outcome in &outcomes {
        match &outcome.answer {
            Ok(answer) if answer.status == 402 => {}
            Ok(answer) => {
                is_ended_in_protocol(outcome.order.dialect, answer);
                begun += 1;
            }
            Err(end) => panic!("{end:?} {outcome:?}"),
        }
    }
    assert!(begun >= 10, "{begun} began");
    let mut audit = Audit::of(&world.alice, &biller).await;
    assert_eq!(audit.holds(), (0, begun));
    audit.sums_hold(&world.alice).await;
    let used = audit.sum("total_tokens");
    assert!((maximum / 4..=maximum).contains(&used), "{used} of {maximum}");
    assert!(watch.end().await <= maximum);
}

/// The same through three gateways, which share what is left as the streams flow.
#[tokio::test]
async fn trap_09_streams_without_an_end_at_three_gateways_stay_within_the_limit_together() {
    let database = Postgres::create().await;
    let (world, biller) = shop(builder().on(&database)).await;
    let (second, third) = (
        world.another_gateway("", &[]).await,
        world.another_gateway("", &[]).await,
    );
    let maximum = 20_000;
    limit(&world, maximum, &[&second, &third]).await;
    let watch = Watch::begin(&world.alice, &world.door, "tokens_per_day");
    let token = world.alice.proxy_token(None).await;
    let orders = Dialect::ALL.iter().cycle().take(30).copied().map(endless).collect();
    let outcomes = crowd(&[&world.door, &second.door, &third.door], &token, orders).await;
    let begun = outcomes
        .iter()
        .filter(|outcome| outcome.status() == 200)
        .inspect(|outcome| {
            is_ended_in_protocol(outcome.order.dialect, outcome.answer.as_ref().expect("an answer"));
        });
    let begun = begun.count();
    assert!(begun >= 6, "{begun} began");
    let mut audit = Audit::of(&world.alice, &biller).await;
    assert_eq!(audit.holds(), (0, begun));
    audit.sums_hold(&world.alice).await;
    assert!(watch.end().await <= maximum);
}

/// A word of the provider's that is longer than anything that was said before: `max_tokens` of the request is believed, and no more than
/// it is ever reserved.
#[tokio::test]
async fn a_stream_that_says_how_long_it_may_be_reserves_no_more() {
    let (world, biller) = shop(World::builder()).await;
    let order = Order::of(Dialect::OpenAi, 300).at_most(200);
    limit(&world, order.reserved(), &[]).await;
    let answer = world
        .call(&order.ask(&world.token(Dialect::OpenAi).await))
        .await
        .expect(200);
    assert_eq!(answer.end, End::Complete);
    assert!(Dialect::OpenAi.is_at_its_limit(&answer.text()), "by the provider");
    let audit = Audit::of(&world.alice, &biller).await;
    audit.holds_to_the_token();
    assert_eq!(audit.sum("total_tokens"), order.reserved());
}
