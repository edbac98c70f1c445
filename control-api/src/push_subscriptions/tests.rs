use serde_json::{Value, json};

use crate::push::testing::browser;
use crate::testing::worlds;

fn wish(endpoint: &str) -> Value {
    let (p256dh, auth) = browser().1.texts();
    json!({ "endpoint": endpoint, "keys": { "p256dh": p256dh, "auth": auth } })
}

#[tokio::test]
async fn a_browser_belongs_to_whoever_used_it_last() {
    for world in worlds().await {
        let (alice, bob) = (world.user("alice").await, world.user("bob").await);
        for client in [&alice, &bob] {
            let made = client
                .post("/api/push-subscriptions", wish("https://push.example.com/1"))
                .await
                .ok();
            assert_eq!(made.json["subscription"]["id"], 1);
        }
        let count = |list: Value| list["subscriptions"].as_array().unwrap().len();
        assert_eq!(count(alice.get("/api/push-subscriptions").await.ok().json), 0);
        assert_eq!(count(bob.get("/api/push-subscriptions").await.ok().json), 1);
        alice
            .delete("/api/push-subscriptions/1")
            .await
            .refused(404, "not_found");
        bob.delete("/api/push-subscriptions/1").await.ok();
        let audit = world.audit().await;
        assert!(audit.contains(&"bob push_subscriptions.update push_subscription:1 ok".to_owned()));
    }
}

#[tokio::test]
async fn trap_34_an_endpoint_leads_to_nowhere_inside_and_its_keys_are_real() {
    let world = &worlds().await[0];
    let alice = world.user("alice").await;
    for endpoint in [
        "https://127.0.0.1/x",
        "https://printer.lan/x",
        "http://push.example.com/x",
    ] {
        let refused = alice.post("/api/push-subscriptions", wish(endpoint)).await;
        refused.refused(400, "url_forbidden");
    }
    let mut bad = wish("https://push.example.com/1");
    bad["keys"]["p256dh"] = json!("AAAA");
    alice
        .post("/api/push-subscriptions", bad)
        .await
        .refused(400, "invalid_field");
    let mut bad = wish("https://push.example.com/1");
    bad["kinds"] = json!(["everything"]);
    alice
        .post("/api/push-subscriptions", bad)
        .await
        .refused(400, "invalid_field");
    for number in 0..20 {
        let endpoint = format!("https://push.example.com/{number}");
        alice.post("/api/push-subscriptions", wish(&endpoint)).await.ok();
    }
    let more = alice
        .post("/api/push-subscriptions", wish("https://push.example.com/more"))
        .await;
    more.refused(409, "too_many_subscriptions");
}
