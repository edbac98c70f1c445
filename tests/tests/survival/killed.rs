//! `kill -9`, of gateways and of the database.

use std::time::Instant;

use ace_tests::{Chance, Cluster, Load, Postgres, Watch, World, thorough};

use super::{PLENTY, SETTLED, account, shop};

const CALLERS: usize = 12;

fn rounds() -> usize {
    if thorough() { 200 } else { 12 }
}

/// Lets the gateway work for a while, kills it, now and then once more while it starts, and starts it again.
async fn kill_again_and_again(world: &mut World, load: &Load, chance: &mut Chance) -> Vec<Instant> {
    let mut kills = Vec::new();
    for round in 0..rounds() {
        tokio::time::sleep(chance.millis(50, 1500)).await;
        if round % 4 == 0 {
            // Long enough for answers that no kill is near to.
            tokio::time::sleep(3 * SETTLED).await;
            load.has_had_more(10 * CALLERS).await;
        }
        kills.push(Instant::now());
        world.gateway.crash().await;
        if chance.happens(25) {
            world.start_and_crash(chance.millis(1, 800)).await;
        }
        world.restart().await;
        load.moves_to(&world.door);
    }
    load.has_had_more(5 * CALLERS).await;
    kills
}

#[tokio::test]
async fn a_gateway_that_is_killed_at_any_moment_loses_nothing() {
    let mut chance = Chance::new();
    let (mut world, biller, token) = shop(World::builder()).await;
    let load = Load::begin(&world.door, &token, CALLERS, &mut chance);
    let kills = kill_again_and_again(&mut world, &load, &mut chance).await;
    let account = account(&world, &biller, &load.end().await, &kills).await;
    assert!(account.whole > 10 * CALLERS && account.refused == 0);
    assert!(
        account.estimates > 0,
        "somebody must have been in the middle of something"
    );
    world.alice.nothing_reserved("tokens_per_day").await;
}

/// The others go on while one is killed and started again; what it held comes back.
#[tokio::test]
async fn one_of_two_gateways_that_is_killed_at_any_moment_loses_nothing() {
    let mut chance = Chance::new();
    let database = Postgres::create().await;
    let (mut world, biller, token) = shop(World::builder().on(&database)).await;
    let other = world.another_gateway("", &[]).await;
    let watch = Watch::begin(&world.alice, &other.door, "tokens_per_day");
    let (load, elsewhere) = (
        Load::begin(&world.door, &token, CALLERS, &mut chance),
        Load::begin(&other.door, &token, CALLERS / 2, &mut chance),
    );
    let kills = kill_again_and_again(&mut world, &load, &mut chance).await;
    let mut outcomes = load.end().await;
    let calm = elsewhere.end().await;
    assert!(calm.iter().all(|outcome| [0, 200].contains(&outcome.status())));
    outcomes.extend(calm);
    let account = account(&world, &biller, &outcomes, &kills).await;
    assert!(account.whole > 10 * CALLERS && account.refused == 0);
    world.alice.nothing_reserved("tokens_per_day").await;
    assert!(watch.end().await <= PLENTY);
}

/// trap 10: traffic goes on within the leases while the database starts again.
#[tokio::test]
async fn trap_10_a_database_that_is_killed_loses_nothing() {
    let mut chance = Chance::new();
    let mut cluster = Cluster::start().await;
    let (world, biller, token) = shop(World::builder().on_url(&cluster.url())).await;
    let load = Load::begin(&world.door, &token, CALLERS, &mut chance);
    for _ in 0..if thorough() { 40 } else { 4 } {
        tokio::time::sleep(chance.millis(300, 1500)).await;
        cluster.crash().await;
        tokio::time::sleep(chance.millis(0, 1000)).await;
        cluster.restart().await;
    }
    load.has_had(10 * CALLERS + 1).await;
    let account = account(&world, &biller, &load.end().await, &[]).await;
    assert!(
        account.whole > 10 * CALLERS && account.refused == 0,
        "{} {}",
        account.whole,
        account.refused
    );
    world.alice.nothing_reserved("tokens_per_day").await;
}
