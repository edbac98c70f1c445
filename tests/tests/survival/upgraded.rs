//! Handing over to a new process while everybody calls.

use ace_tests::{Chance, Load, PATIENCE, Postgres, Watch, World, WorldBuilder};

use super::{PLENTY, account, shop};

async fn hand_over(builder: WorldBuilder) {
    let mut chance = Chance::new();
    let (mut world, biller, token) = shop(builder).await;
    let watch = Watch::begin(&world.alice, &world.door, "tokens_per_day");
    let load = Load::begin(&world.door, &token, 12, &mut chance);
    for _ in 0..3 {
        tokio::time::sleep(chance.millis(500, 1500)).await;
        let mut old = world.upgrade().await;
        assert!(old.exit(PATIENCE).await.success());
    }
    load.has_had_more(40).await;
    load.has_had(101).await;
    let outcomes = load.end().await;
    let unanswered = outcomes
        .iter()
        .filter(|outcome| matches!(outcome.answer, Err(ace_tests::End::Closed)));
    assert_eq!(unanswered.count(), 0, "somebody found the door closed");
    let account = account(&world, &biller, &outcomes, &[]).await;
    assert!(
        account.whole > 100 && account.refused == 0,
        "{} {}",
        account.whole,
        account.refused
    );
    let lost = account
        .audit
        .rows
        .iter()
        .filter(|row| row["error_kind"] == "gateway_lost");
    assert_eq!(lost.count(), 0, "nobody died");
    assert!(watch.end().await <= PLENTY);
    world.alice.nothing_reserved("tokens_per_day").await;
}

#[tokio::test]
async fn an_upgrade_under_load_loses_nothing_and_charges_nothing_twice() {
    hand_over(World::builder()).await;
}

#[tokio::test]
async fn an_upgrade_on_postgresql_loses_nothing_and_charges_nothing_twice() {
    let database = Postgres::create().await;
    hand_over(World::builder().on(&database)).await;
}
