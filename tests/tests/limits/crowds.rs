//! Many streams at once against a limit that lets twenty through.

use std::time::Duration;

use ace_tests::{
    Audit, Biller, Dialect, Door, LONG_PATIENCE, Node, Order, Outcome, Postgres, Watch, World, crowd, thorough,
    with_status, within,
};
use serde_json::json;

use super::shop;

const LET_THROUGH: u64 = 20;
/// Tokens of an answer, and the most that its request allows: what is reserved is what is used.
const TOKENS: u64 = 40;

fn order(dialect: Dialect) -> Order {
    Order::of(dialect, TOKENS)
        .at_most(TOKENS)
        .every(Duration::from_millis(25))
}

fn orders(count: usize, dialects: &[Dialect]) -> Vec<Order> {
    dialects
        .iter()
        .cycle()
        .take(count)
        .map(|dialect| order(*dialect))
        .collect()
}

/// Every refusal is one that says why, in its dialect; every other answer is complete.
fn are_refused_or_whole(outcomes: &[Outcome]) -> usize {
    for outcome in outcomes {
        match outcome.status() {
            402 => is_told(outcome),
            200 => assert!(outcome.is_whole(), "{outcome:?}"),
            _ => panic!("neither refused nor answered: {outcome:?}"),
        }
    }
    with_status(outcomes, 200).len()
}

/// trap 14: which limit, what is used and reserved, of how much, until when, and that asking again is of no use.
fn is_told(outcome: &Outcome) {
    let answer = outcome.answer.as_ref().expect("an answer");
    let error = answer.json()["error"].clone();
    let figures = match outcome.order.dialect {
        Dialect::OpenAi => {
            assert_eq!(error["type"], "insufficient_quota", "{error}");
            &error
        }
        Dialect::Anthropic => {
            assert_eq!(error["type"], "billing_error", "{error}");
            &error
        }
        Dialect::Google => {
            assert_eq!(error["status"], "RESOURCE_EXHAUSTED", "{error}");
            &error["details"][0]["metadata"]
        }
    };
    for name in ["account", "limit", "used", "reserved", "maximum", "resets_at"] {
        assert!(!figures[name].is_null(), "no {name} in {error}");
    }
    assert_eq!(figures["limit"], "tokens_per_day");
    assert_eq!(answer.header("x-should-retry").as_deref(), Some("false"));
    assert_eq!(answer.header("x-ace-stop-reason").as_deref(), Some("quota_exceeded"));
}

async fn limit(world: &World, maximum: u64, others: &[&Node]) {
    let account = format!("users/{}", world.alice.id);
    world.limit(&account, json!({"tokens_per_day": maximum}), others).await;
}

/// The crowd comes through one gateway: as many pass as the limit holds, to the last token of it.
async fn one_gateway(people: usize) {
    let (world, biller) = shop(World::builder()).await;
    let maximum = LET_THROUGH * order(Dialect::OpenAi).reserved();
    limit(&world, maximum, &[]).await;
    let token = world.token(Dialect::OpenAi).await;
    let watch = Watch::begin(&world.alice, &world.door, "tokens_per_day");
    let outcomes = crowd(&[&world.door], &token, orders(people, &[Dialect::OpenAi])).await;
    assert_eq!(are_refused_or_whole(&outcomes), LET_THROUGH as usize);
    let mut audit = Audit::of_all(&world.alice, &biller, people).await;
    audit.holds_to_the_token();
    assert_eq!((audit.rows.len(), audit.items.len()), (people, LET_THROUGH as usize));
    assert_eq!(audit.sum("total_tokens"), maximum, "to the last token");
    audit.sums_hold(&world.alice).await;
    assert!(watch.end().await <= maximum);
    crowd(&[&world.door], &token, orders(1, &[Dialect::Google])).await;
    assert_eq!(biller.items().len(), LET_THROUGH as usize, "it stays spent");
}

#[tokio::test]
async fn trap_09_of_50_streams_exactly_those_pass_that_the_limit_holds() {
    one_gateway(50).await;
}

#[tokio::test]
async fn trap_09_of_hundreds_of_streams_exactly_those_pass_that_the_limit_holds() {
    one_gateway(500).await;
    if thorough() {
        one_gateway(2000).await;
    }
}

/// The crowd comes through three gateways, in all three dialects. Each holds a share of the limit, so that some may be turned away while
/// another gateway has a rest; what nobody uses goes back, until no call fits in any more.
async fn three_gateways(people: usize) {
    let database = Postgres::create().await;
    let (world, biller) = shop(World::builder().on(&database)).await;
    let (second, third) = (
        world.another_gateway("", &[]).await,
        world.another_gateway("", &[]).await,
    );
    let doors = [&world.door, &second.door, &third.door];
    let dearest = Dialect::ALL.map(|dialect| order(dialect).reserved()).into_iter().max();
    let maximum = LET_THROUGH * dearest.expect("three of them");
    limit(&world, maximum, &[&second, &third]).await;
    let token = world.alice.proxy_token(None).await;
    let watch = Watch::begin(&world.alice, &world.door, "tokens_per_day");
    let outcomes = crowd(&doors, &token, orders(people, &Dialect::ALL)).await;
    let passed = are_refused_or_whole(&outcomes);
    assert!((3..=LET_THROUGH as usize + 3).contains(&passed), "{passed} passed");
    use_up(&world, &biller, &doors, &token, maximum).await;
    let mut audit = Audit::of(&world.alice, &biller).await;
    audit.holds_to_the_token();
    audit.sums_hold(&world.alice).await;
    let used = audit.sum("total_tokens");
    assert!(
        used <= maximum && used + order(Dialect::Anthropic).reserved() > maximum,
        "{used} of {maximum}"
    );
    assert!(watch.end().await <= maximum);
}

/// Calls at every door until what is left is too little for any call.
async fn use_up(world: &World, biller: &Biller, doors: &[&Door], token: &str, maximum: u64) {
    let most = order(Dialect::Anthropic).reserved();
    // What another gateway does not use it gives back after a while.
    within(LONG_PATIENCE, "the rest of the limit to be used", async || {
        are_refused_or_whole(&crowd(doors, token, orders(3, &[Dialect::Anthropic])).await);
        biller.closed_books().await;
        let standing = world.alice.standing("tokens_per_day").await;
        (standing.used + most > maximum).then_some(())
    })
    .await;
}

#[tokio::test]
async fn trap_09_three_gateways_let_no_more_of_50_streams_through_than_one() {
    three_gateways(50).await;
}

#[tokio::test]
async fn trap_09_three_gateways_let_no_more_of_hundreds_of_streams_through_than_one() {
    three_gateways(500).await;
    if thorough() {
        three_gateways(2000).await;
    }
}

/// Who uses less than what was reserved leaves the rest to others.
#[tokio::test]
async fn what_is_reserved_and_not_used_is_given_back() {
    let (world, biller) = shop(World::builder()).await;
    let modest = || Order::of(Dialect::Anthropic, 1).at_most(500);
    let maximum = modest().reserved() + 10 * (modest().input() + 1);
    limit(&world, maximum, &[]).await;
    let token = world.token(Dialect::Anthropic).await;
    for calls in 1..=11 {
        world.call(&modest().ask(&token)).await.expect(200);
        // The client may have its answer a moment before the reservation is given back; the row comes after that.
        Audit::of_all(&world.alice, &biller, calls).await;
    }
    let audit = Audit::of(&world.alice, &biller).await;
    audit.holds_to_the_token();
    assert_eq!(audit.sum("output_tokens"), 11);
    world.call(&modest().ask(&token)).await.expect(402);
}
