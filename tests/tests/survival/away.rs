//! The database is away, for a while or for longer than leases are good.

use std::time::{Duration, Instant};

use ace_tests::{
    Chance, Dialect, Line, Load, Order, Outcome, PATIENCE, Postgres, World, WorldBuilder, eventually, thorough,
};

use super::{account, limit, shop};

fn a_while() -> Duration {
    Duration::from_secs(if thorough() { 60 } else { 5 })
}

/// A gateway whose database is behind a line.
async fn behind_a_line() -> (WorldBuilder, Line, Postgres) {
    let database = Postgres::create().await;
    let line = Line::to(database.address()).await;
    let builder = World::builder().on_url(&database.url_by(line.address()));
    (builder, line, database)
}

async fn lag(world: &World) -> f64 {
    world.metric("ace_ledger_waiting_rows").await
}

async fn everything_is_written(world: &World) -> Duration {
    let begun = Instant::now();
    eventually("the ledger to catch up", async || {
        (lag(world).await == 0.0).then_some(())
    })
    .await;
    begun.elapsed()
}

/// Nobody notices that the database is away but the metrics: leases are there, and the journal.
async fn goes_on_without(interrupt: fn(&Line)) {
    let mut chance = Chance::new();
    let (builder, line, _database) = behind_a_line().await;
    let (world, biller, token) = shop(builder).await;
    let load = Load::begin(&world.door, &token, 8, &mut chance);
    load.has_had(50).await;
    interrupt(&line);
    tokio::time::sleep(a_while()).await;
    let waiting = eventually("rows to wait", async || {
        Some(lag(&world).await).filter(|waiting| *waiting > 20.0)
    })
    .await;
    load.has_had_more(50).await;
    line.mend();
    let outcomes = load.end().await;
    println!(
        "{waiting} rows waited, and were written within {:?}",
        everything_is_written(&world).await
    );
    let account = account(&world, &biller, &outcomes, &[]).await;
    assert!(
        account.whole >= 100 && account.refused == 0,
        "{} {}",
        account.whole,
        account.refused
    );
    assert_eq!(world.metric("ace_ledger_rows_lost_total").await, 0.0);
    world.alice.nothing_reserved("tokens_per_day").await;
}

#[tokio::test]
async fn trap_10_traffic_goes_on_while_the_database_is_away() {
    goes_on_without(Line::cut).await;
}

#[tokio::test]
async fn trap_10_traffic_goes_on_while_the_database_does_not_answer() {
    goes_on_without(Line::freeze).await;
}

fn order() -> Order {
    Order::of(Dialect::Anthropic, 30).at_most(30)
}

async fn call(world: &World, token: &str) -> Outcome {
    let order = order();
    let ask = order.ask(token);
    Outcome::of(order, world.door.try_call(&ask)).await
}

/// Calls one after the other until an answer has one of these statuses.
async fn call_until(world: &World, token: &str, statuses: &[u16]) -> Vec<Outcome> {
    let begun = Instant::now();
    let mut outcomes = Vec::new();
    while outcomes
        .last()
        .is_none_or(|last: &Outcome| !statuses.contains(&last.status()))
    {
        assert!(
            begun.elapsed() < PATIENCE,
            "none of {statuses:?} within {} calls",
            outcomes.len()
        );
        outcomes.push(call(world, token).await);
    }
    outcomes
}

/// trap 10: no more passes than what is leased, then nobody: nothing goes uncounted. When the database is back, the rest passes.
#[tokio::test]
async fn trap_10_leases_that_run_dry_refuse_and_go_on_when_the_database_is_back() {
    let (builder, line, _database) = behind_a_line().await;
    let (world, biller, token) = shop(builder).await;
    let reserved = order().reserved();
    limit(&world, 40 * reserved).await;
    let mut outcomes = vec![call(&world, &token).await];
    // More may be asked for ahead: what is leased is what it comes to.
    let standing = eventually("the first row and the leases", async || {
        let before = world.alice.standing("tokens_per_day").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let standing = world.alice.standing("tokens_per_day").await;
        (standing.used > 0 && standing == before).then_some(standing)
    })
    .await;
    let leased = standing.reserved / reserved;
    assert!((5..40).contains(&leased), "{leased} requests are leased");
    line.cut();
    let passed = call_until(&world, &token, &[402, 503]).await;
    assert_eq!(
        (passed.len() as u64 - 1, passed[passed.len() - 1].status()),
        (leased, 503)
    );
    let refusal = passed[passed.len() - 1].answer.as_ref().expect("an answer");
    assert!(
        refusal.header("retry-after").is_some() && refusal.text().contains("limits"),
        "{}",
        refusal.text()
    );
    outcomes.extend(passed);
    assert!(lag(&world).await >= leased as f64);
    line.mend();
    outcomes.extend(call_until(&world, &token, &[200]).await);
    let rest = call_until(&world, &token, &[402, 503]).await;
    assert_eq!(rest[rest.len() - 1].status(), 402, "the limit, and not the database");
    outcomes.extend(rest.into_iter().filter(|outcome| outcome.status() == 200));
    let account = account(&world, &biller, &outcomes, &[]).await;
    assert_eq!(
        (account.whole, account.audit.sum("total_tokens")),
        (40, 40 * reserved),
        "to the last token"
    );
}

/// Leases are others' after their time: who has no limit goes on, who has one waits for the database.
#[tokio::test]
async fn trap_10_leases_that_are_over_let_only_those_pass_who_need_none() {
    let (builder, line, _database) = behind_a_line().await;
    let (world, biller, token) = shop(builder.config("ledger", "lease_ttl_s = 2")).await;
    let bob = world.joins("bob").await;
    let unlimited = bob.proxy_token(None).await;
    let mut outcomes = vec![call(&world, &token).await];
    // Who is new is looked up, which takes a database.
    let mut bobs = vec![call(&world, &unlimited).await];
    line.cut();
    outcomes.extend(call_until(&world, &token, &[503]).await);
    for _ in 0..20 {
        bobs.push(call(&world, &unlimited).await);
        assert_eq!(bobs[bobs.len() - 1].status(), 200);
    }
    line.mend();
    outcomes.extend(call_until(&world, &token, &[200]).await);
    everything_is_written(&world).await;
    let all = ace_tests::Audit::of(&world.admin, &biller).await;
    all.holds_to_the_token();
    let mut hers = world.alice.ledger().await;
    hers.retain(|row| row["total_tokens"] != 0);
    let passed = outcomes.iter().filter(|outcome| outcome.status() == 200).count();
    assert_eq!((hers.len(), all.items.len()), (passed, passed + bobs.len()));
    world.alice.nothing_reserved("tokens_per_day").await;
}
