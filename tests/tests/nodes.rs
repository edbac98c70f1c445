//! Several programs over one PostgreSQL: whatever one of them knows, all know; any of them may go.

use std::time::{Duration, Instant};

use ace_tests::{Answer, Ask, Dialect, Door, Node, Postgres, Script, World, eventually};
use serde_json::json;

/// How long a change takes to be known everywhere, at most: a look at the database a second, on a machine that does other things.
const SOON: Duration = Duration::from_secs(10);

async fn world() -> (World, Postgres) {
    let database = Postgres::create().await;
    let world = World::builder().on(&database).start().await;
    world.provider.plays(Script::json(
        200,
        &json!({"usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
    ));
    (world, database)
}

/// Calls until the answer has this status, and says how long that took.
async fn becomes(door: &Door, ask: &Ask, status: u16) -> Duration {
    let begun = Instant::now();
    eventually("another answer", async || {
        (door.call(ask).await.status == status).then_some(())
    })
    .await;
    begun.elapsed()
}

#[tokio::test]
async fn one_gateway_on_postgresql() {
    let (world, _database) = world().await;
    for dialect in Dialect::ALL {
        world.main_call(dialect).await.expect(200);
    }
    assert_eq!(world.alice.request_log(3).await.len(), 3);
}

#[tokio::test]
async fn gateways_share_tokens_logins_keys_and_refusals() {
    let (world, _database) = world().await;
    let other = world.another_gateway("", &[]).await;
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    other.door.call(&ask).await.expect(200);
    let elsewhere = world.alice.at(&other.door);
    assert_eq!(elsewhere.get("/api/auth/me").await.ok()["user"]["username"], "alice");
    world
        .call(&Dialect::OpenAi.ask().bearer(&elsewhere.proxy_token(None).await))
        .await
        .expect(200);
    world
        .store_key(
            Dialect::OpenAi,
            &format!("{}/v1", world.provider.url()),
            "sk-new-0123456789",
        )
        .await;
    let begun = Instant::now();
    eventually("the new key at the other gateway", async || {
        other.door.call(&ask).await.expect(200);
        let seen = world.provider.requests().pop()?;
        (seen.header("authorization").as_deref() == Some("Bearer sk-new-0123456789")).then_some(())
    })
    .await;
    assert!(begun.elapsed() < SOON, "after {:?}", begun.elapsed());
    world
        .admin
        .patch(&format!("/api/users/{}", world.alice.id), json!({"is_active": false}))
        .await
        .ok();
    assert!(becomes(&other.door, &ask, 401).await < SOON);
    assert!(becomes(&world.door, &ask, 401).await < SOON);
}

#[tokio::test]
async fn the_request_log_is_one() {
    let (world, _database) = world().await;
    let other = world.another_gateway("", &[]).await;
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    for _ in 0..10 {
        world.call(&ask).await.expect(200);
        other.door.call(&ask).await.expect(200);
    }
    let rows = world.alice.request_log(20).await;
    let gateways: std::collections::BTreeSet<_> = rows.iter().map(|row| row["gateway_id"].to_string()).collect();
    assert_eq!((rows.len(), gateways.len()), (20, 2));
}

#[tokio::test]
async fn a_gateway_may_go() {
    let (world, _database) = world().await;
    let mut other = world.another_gateway("", &[]).await;
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    other.door.call(&ask).await.expect(200);
    other.program.crash().await;
    world.call(&ask).await.expect(200);
    world.alice.get("/api/auth/me").await.ok();
}

/// The edge alone, in front of control nodes.
async fn edge(world: &World, control: &[&Node]) -> Node {
    let upstreams: Vec<_> = control.iter().map(|node| node.door.address.to_string()).collect();
    world
        .another_gateway(
            &format!("[control]\nupstreams = {upstreams:?}\n"),
            &["--no-control-api"],
        )
        .await
}

#[tokio::test]
async fn an_edge_passes_the_control_api_on_to_its_nodes() {
    let (world, _database) = world().await;
    let control = world.control_node().await;
    let edge = edge(&world, &[&control]).await;
    let alice = world.alice.at(&edge.door);
    assert_eq!(alice.get("/api/auth/me").await.ok()["user"]["username"], "alice");
    edge.door
        .call(&Dialect::OpenAi.ask().bearer(&alice.proxy_token(None).await))
        .await
        .expect(200);
    let unsigned = control.door.call(&Ask::get("/api/auth/check")).await;
    assert!(
        matches!(unsigned.status, 401 | 403),
        "a control node answered to somebody else: {}",
        unsigned.status
    );
}

#[tokio::test]
async fn an_edge_goes_on_without_a_control_node_that_died() {
    let (world, _database) = world().await;
    let (mut first, second) = (world.control_node().await, world.control_node().await);
    let edge = edge(&world, &[&first, &second]).await;
    let alice = world.alice.at(&edge.door);
    let ask = Dialect::OpenAi.ask().bearer(&alice.proxy_token(None).await);
    first.program.crash().await;
    edge.door.call(&ask).await.expect(200);
    for _ in 0..4 {
        alice.get("/api/auth/me").await.ok();
    }
}

#[tokio::test]
async fn an_edge_without_any_control_node_still_carries_calls() {
    let (world, _database) = world().await;
    let mut control = world.control_node().await;
    let edge = edge(&world, &[&control]).await;
    let ask = Dialect::OpenAi
        .ask()
        .bearer(&world.alice.at(&edge.door).proxy_token(None).await);
    control.program.crash().await;
    edge.door.call(&ask).await.expect(200);
    let answer: Answer = edge.door.call(&Ask::get("/api/auth/check")).await;
    assert!(matches!(answer.status, 502 | 503), "{}", answer.status);
    assert!(answer.json()["code"].is_string(), "{}", answer.text());
}

#[tokio::test]
async fn trap_10_a_database_that_is_away_stops_no_known_caller_and_loses_no_row() {
    let (world, database) = world().await;
    let ask = Dialect::OpenAi.ask().bearer(&world.token(Dialect::OpenAi).await);
    world.call(&ask).await.expect(200);
    database.close().await;
    for _ in 0..20 {
        world.call(&ask).await.expect(200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    database.open().await;
    assert_eq!(world.alice.request_log(21).await.len(), 21);
}

#[tokio::test]
async fn a_row_that_the_database_does_not_take_does_not_hold_up_the_others() {
    let (world, _database) = world().await;
    let token = world.token(Dialect::OpenAi).await;
    // PostgreSQL's texts cannot hold U+0000.
    let odd = json!({"model": "gpt\u{0}", "messages": []});
    world
        .call(&Ask::post("/v1/chat/completions").bearer(&token).json(&odd))
        .await;
    let served = Script::json(
        200,
        &json!({"model": "gpt\u{0}", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
    );
    world.provider.plays_once(served);
    world.call(&Dialect::OpenAi.ask().bearer(&token)).await.expect(200);
    world.call(&Dialect::OpenAi.ask().bearer(&token)).await.expect(200);
    let rows = world.alice.request_log(2).await;
    assert_eq!(rows.last().map(|row| row["status"].clone()), Some(json!(200)));
}
