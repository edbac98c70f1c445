//! What dies, and what is gone for a while: nothing that reached the provider is lost, nothing is charged twice.

mod away;
mod full;
mod killed;
mod upgraded;

use std::time::{Duration, Instant};

use ace_tests::{Audit, Biller, Outcome, World, WorldBuilder};
use serde_json::json;

/// So soon before its gateway's end nobody knows whether an answer was settled: it is after the last of it was written.
const SETTLED: Duration = Duration::from_secs(3);
/// More than any story uses: leases are taken, and nobody is refused.
const PLENTY: u64 = 1_000_000_000;

/// A gateway in front of a provider that bills, and a limit on alice that does not end. Her tokens outlast the story.
async fn shop(builder: WorldBuilder) -> (World, Biller, String) {
    let biller = Biller::start().await;
    let hours = "token_ttl_s = 36000\ntoken_ttl_max_s = 36000";
    let world = builder.config("auth", hours).without_keys().at_noon().start().await;
    world.bill_by(&biller).await;
    limit(&world, PLENTY).await;
    let token = world.alice.proxy_token(None).await;
    (world, biller, token)
}

async fn limit(world: &World, maximum: u64) {
    let account = format!("users/{}", world.alice.id);
    world.limit(&account, json!({"tokens_per_day": maximum}), &[]).await;
}

/// What a story has come to.
struct Account {
    audit: Audit,
    /// Calls that have got the whole answer.
    whole: usize,
    refused: usize,
    /// Rows of which only an estimate is known.
    estimates: usize,
}

/// Every request that reached the provider has one row; it has the provider's figures where the client got the whole answer before its
/// gateway was killed; who was refused got nothing from the provider; the sums of the limits are those of the rows.
async fn account(world: &World, biller: &Biller, outcomes: &[Outcome], kills: &[Instant]) -> Account {
    let mut audit = Audit::of(&world.alice, biller).await;
    let (_, estimates) = audit.holds();
    let (mut whole, mut certain, mut refused) = (0, 0, 0);
    for outcome in outcomes {
        match outcome.status() {
            200 if outcome.is_whole() => {
                whole += 1;
                certain += usize::from(is_told(&audit, outcome, kills));
            }
            // It has hung up, or its gateway has died.
            0 | 200 => {}
            503 => {
                refused += 1;
                let row = audit.row_of(&outcome.order.model);
                assert!(
                    row.is_none_or(|row| row["total_tokens"] == 0 && row["charged_requests"] == 0),
                    "{row:?}"
                );
                assert!(
                    audit.items.iter().all(|item| item.model != outcome.order.model),
                    "{outcome:?}"
                );
            }
            _ => panic!("{outcome:?}"),
        }
    }
    assert!(
        certain * 3 > whole,
        "of {whole} whole answers only {certain} were far from a kill"
    );
    audit.sums_hold(&world.alice).await;
    if !world.has_disk() {
        // One that only the gateway sees.
        world.every_sum_is_right().await;
    }
    println!(
        "{} calls, {whole} whole, {refused} refused, {} at the provider, {estimates} estimates",
        outcomes.len(),
        audit.items.len()
    );
    Account {
        audit,
        whole,
        refused,
        estimates,
    }
}

/// Whether it was certain that the provider's figures are in the row.
fn is_told(audit: &Audit, outcome: &Outcome, kills: &[Instant]) -> bool {
    let row = audit
        .row_of(&outcome.order.model)
        .unwrap_or_else(|| panic!("no row: {outcome:?}"));
    // The client may have read an answer long after it was written, and after its gateway's end.
    let doubtful = outcome.begun..=outcome.at + SETTLED;
    let was_killed = kills.iter().any(|kill| doubtful.contains(kill));
    assert!(was_killed || row["usage_source"] == "provider", "{outcome:?} {row}");
    !was_killed
}
