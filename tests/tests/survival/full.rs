//! A full disk.

use std::time::Duration;

use ace_tests::{Chance, Dialect, Load, Order, World, eventually};

use super::{account, shop};

const DISK: u64 = 24 << 20;

async fn status_of_a_call(world: &World, token: &str) -> (u16, String) {
    let answer = world.call(&Order::of(Dialect::OpenAi, 5).at_most(5).ask(token)).await;
    (answer.status, answer.text())
}

/// Calls until a call is refused, and gives why.
async fn a_refusal(world: &World, token: &str) -> String {
    eventually("requests to be refused", async || {
        let (status, why) = status_of_a_call(world, token).await;
        (status == 503).then_some(why)
    })
    .await
}

/// Database and journal share the disk. While it is full nothing can be written down, so nothing goes out; those that are under way end,
/// for their end there is room. Then everything goes on, and everything is there.
#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing() {
    let mut chance = Chance::new();
    let builder = World::builder().disk(DISK).config("ledger", "segment_bytes = 65536");
    let (world, biller, token) = shop(builder).await;
    let load = Load::begin(&world.door, &token, 8, &mut chance);
    load.has_had(30).await;
    world.disk().fill().await;
    println!("refused: {}", a_refusal(&world, &token).await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    // As long as it is full: what the gateway itself frees now and then lets a few pass, until that is filled up too.
    a_refusal(&world, &token).await;
    world.disk().clear().await;
    eventually("requests to pass again", async || {
        (status_of_a_call(&world, &token).await.0 == 200).then_some(())
    })
    .await;
    load.has_had_more(30).await;
    let account = account(&world, &biller, &load.end().await, &[]).await;
    assert!(
        account.refused > 0 && account.whole > 50,
        "{} {}",
        account.refused,
        account.whole
    );
    assert_eq!(world.metric("ace_ledger_rows_lost_total").await, 0.0);
}
