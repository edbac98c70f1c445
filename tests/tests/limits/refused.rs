//! Every kind of limit, on everybody that can be limited, on every route.

use std::collections::BTreeMap;
use std::time::Duration;

use ace_tests::{Ask, Audit, Biller, Dialect, Order, Outcome, World, crowd, eventually, with_status};
use serde_json::{Value, json};

use super::shop;

/// An order of no weight.
fn short(dialect: Dialect) -> Order {
    Order::of(dialect, 2).at_most(2)
}

async fn limit_alice(world: &World, limits: Value) {
    world.limit(&format!("users/{}", world.alice.id), limits, &[]).await;
}

async fn call(world: &World, order: &Order) -> Outcome {
    let token = world.alice.proxy_token(None).await;
    Outcome::of(order.clone(), world.door.try_call(&order.ask(&token))).await
}

#[tokio::test]
async fn trap_12_a_limit_of_five_requests_lets_five_through() {
    for name in ["requests_per_day", "requests_per_month"] {
        let (world, biller) = shop(World::builder()).await;
        limit_alice(&world, json!({name: 5})).await;
        let token = world.alice.proxy_token(None).await;
        let orders = (0..40).map(|_| short(Dialect::OpenAi)).collect();
        let outcomes = crowd(&[&world.door], &token, orders).await;
        assert_eq!(
            (with_status(&outcomes, 200).len(), with_status(&outcomes, 402).len()),
            (5, 35)
        );
        let mut audit = Audit::of(&world.alice, &biller).await;
        audit.holds_to_the_token();
        audit.sums_hold(&world.alice).await;
        assert_eq!(world.alice.standing(name).await.used, 5);
    }
}

/// Requests that cost nothing are not counted: the provider said no, or was never reached.
#[tokio::test]
async fn a_request_that_never_reached_the_provider_is_given_back() {
    let world = World::builder().at_noon().start().await;
    limit_alice(&world, json!({"requests_per_day": 3, "tokens_per_day": 10_000})).await;
    world.provider.plays(ace_tests::Script::new().reset());
    for _ in 0..10 {
        world.main_call(Dialect::Anthropic).await.expect(502);
    }
    let standing = eventually("the rows", async || {
        (world.alice.ledger().await.len() == 10).then_some(world.alice.standing("requests_per_day").await)
    })
    .await;
    assert_eq!(standing.used, 0);
    assert_eq!(world.alice.standing("tokens_per_day").await.used, 0);
}

#[tokio::test]
async fn trap_14_a_minute_that_is_full_says_when_the_next_one_begins() {
    let (world, biller) = shop(World::builder()).await;
    limit_alice(&world, json!({"requests_per_minute": 3})).await;
    let mut refused = None;
    // At most two minutes have a part in this, and they let six through.
    for _ in 0..7 {
        let outcome = call(&world, &short(Dialect::OpenAi)).await;
        if outcome.status() == 429 {
            refused = Some(outcome);
            break;
        }
        assert_eq!(outcome.status(), 200);
    }
    let refused = refused.expect("one too many").answer.expect("an answer");
    let wait: u64 = refused.header("retry-after").expect("when").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(refused.header("x-should-retry"), None, "waiting helps");
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["limit"], &error["maximum"]),
        (&json!("requests_per_minute"), &json!(3))
    );
    let audit = Audit::of(&world.alice, &biller).await;
    audit.holds_to_the_token();
    let mut minutes: BTreeMap<String, usize> = BTreeMap::new();
    for row in audit.rows.iter().filter(|row| row["status"] == 200) {
        let minute = &row["started_at"].as_str().expect("a time")[..16];
        *minutes.entry(minute.to_owned()).or_default() += 1;
    }
    let (_, last) = minutes.last_key_value().expect("a minute");
    assert!(*last == 3 && minutes.values().all(|count| *count <= 3), "{minutes:?}");
}

#[tokio::test]
async fn as_many_run_together_as_may_and_others_when_these_are_over() {
    let (world, biller) = shop(World::builder()).await;
    limit_alice(&world, json!({"parallel_requests": 4})).await;
    let token = world.alice.proxy_token(None).await;
    let slow = || {
        Order::of(Dialect::Anthropic, 20)
            .at_most(20)
            .every(Duration::from_millis(500))
    };
    for round in 1..=2 {
        let orders = (0..30).map(|_| slow()).collect();
        let outcomes = crowd(&[&world.door], &token, orders).await;
        let refused = with_status(&outcomes, 429);
        assert_eq!((with_status(&outcomes, 200).len(), refused.len()), (4, 26));
        let answer = refused[0].answer.as_ref().expect("an answer");
        assert!(answer.header("retry-after").is_some());
        assert_eq!(answer.json()["error"]["limit"], "parallel_requests");
        // A client may have its answer a moment before its place is free; the row comes after that.
        Audit::of_all(&world.alice, &biller, 30 * round)
            .await
            .holds_to_the_token();
    }
}

/// Who hangs up makes room for the next one.
#[tokio::test]
async fn a_place_is_free_again_when_its_client_has_left() {
    let (world, biller) = shop(World::builder()).await;
    limit_alice(&world, json!({"parallel_requests": 1})).await;
    let token = world.alice.proxy_token(None).await;
    let endless = Order::of(Dialect::OpenAi, 100_000).every(Duration::from_millis(50));
    let mut wire = world.wire().await;
    wire.ask(&endless.ask(&token))
        .await
        .answer_head("POST")
        .await
        .expect(200);
    assert_eq!(call(&world, &short(Dialect::OpenAi)).await.status(), 429);
    drop(wire);
    eventually("the place to be free", async || {
        (call(&world, &short(Dialect::OpenAi)).await.status() == 200).then_some(())
    })
    .await;
    assert_eq!(Audit::of(&world.alice, &biller).await.holds(), (1, 1));
}

/// Of models that no price is known for, a million tokens cost 10 dollars in and 50 out: 10 and 50 millionths of a dollar each.
#[tokio::test]
async fn trap_09_a_limit_in_money_lets_through_what_it_can_pay() {
    let (world, biller) = shop(World::builder()).await;
    let order = || {
        Order::of(Dialect::OpenAi, 40)
            .at_most(40)
            .every(Duration::from_millis(10))
    };
    let price = order().input() * 10 + 40 * 50;
    limit_alice(&world, json!({"cost_micro_usd_per_day": 20 * price})).await;
    let token = world.alice.proxy_token(None).await;
    let outcomes = crowd(&[&world.door], &token, (0..100).map(|_| order()).collect()).await;
    assert_eq!(
        (with_status(&outcomes, 200).len(), with_status(&outcomes, 402).len()),
        (20, 80)
    );
    let mut audit = Audit::of(&world.alice, &biller).await;
    audit.holds_to_the_token();
    assert_eq!(audit.sum("cost_micro_usd"), 20 * price);
    audit.sums_hold(&world.alice).await;
}

/// trap 13: no route is a way round a limit.
#[tokio::test]
async fn trap_13_who_may_use_nothing_gets_nothing_on_any_route() {
    let (world, biller) = shop(World::builder()).await;
    limit_alice(&world, json!({"requests_per_day": 0})).await;
    let token = world.alice.proxy_token(None).await;
    let routes = [
        (Dialect::OpenAi, "/v1/chat/completions"),
        (Dialect::OpenAi, "/v1/responses"),
        (Dialect::OpenAi, "/v1/completions"),
        (Dialect::OpenAi, "/v1/embeddings"),
        (Dialect::OpenAi, "/v1/images/generations"),
        (Dialect::OpenAi, "/v1/moderations"),
        (Dialect::OpenAi, "/v1/batches"),
        (Dialect::Anthropic, "/v1/messages"),
        (Dialect::Anthropic, "/v1/messages/count_tokens"),
        (Dialect::Anthropic, "/v1/messages/batches"),
        (Dialect::Google, "/v1beta/models/gemini-2.5-pro:generateContent"),
        (
            Dialect::Google,
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
        ),
        (Dialect::Google, "/v1beta/models/gemini-2.5-pro:countTokens"),
    ];
    let bodies = [
        json!({"model": "m", "messages": [], "max_tokens": 0}),
        json!({"model": null}),
        json!({"model": ["m", "n"]}),
        json!({}),
    ];
    for (dialect, path) in routes {
        for body in &bodies {
            let ask = dialect.authorize(Ask::post(path).json(body), &token);
            let answer = world.call(&ask).await;
            assert_eq!(answer.status, 402, "{path} {body}: {}", answer.text());
        }
    }
    assert_eq!(biller.items(), []);
}

/// A limit of tokens that is 0 blocks whatever uses any, however little the request admits to.
#[tokio::test]
async fn trap_13_no_tokens_is_no_answer() {
    let (world, biller) = shop(World::builder()).await;
    limit_alice(&world, json!({"tokens_per_month": 0})).await;
    for dialect in Dialect::ALL {
        for order in [short(dialect), short(dialect).whole(), Order::of(dialect, 1)] {
            assert_eq!(call(&world, &order).await.status(), 402, "{order:?}");
        }
    }
    assert_eq!(biller.items(), []);
    limit_alice(&world, json!({"tokens_per_month": null})).await;
    assert_eq!(
        call(&world, &short(Dialect::Google)).await.status(),
        200,
        "no limit any more"
    );
}

#[tokio::test]
async fn a_dry_run_decides_and_tells_and_lets_pass() {
    let (world, biller) = shop(World::builder()).await;
    let limits = json!({"tokens_per_day": {"maximum": 10, "dry_run": true}, "parallel_requests": {"maximum": 0, "dry_run": true}});
    limit_alice(&world, limits).await;
    let token = world.alice.proxy_token(None).await;
    let outcomes = crowd(
        &[&world.door],
        &token,
        (0..30).map(|_| short(Dialect::OpenAi)).collect(),
    )
    .await;
    assert_eq!(with_status(&outcomes, 200).len(), 30);
    let mut audit = Audit::of(&world.alice, &biller).await;
    audit.holds_to_the_token();
    audit.sums_hold(&world.alice).await;
    for name in ["tokens_per_day", "parallel_requests"] {
        let told = world
            .metric(&format!("ace_quota_dry_run_total{{limit=\"{name}\"}}"))
            .await;
        assert!(told >= 29.0, "{name} would have refused {told}");
    }
}

/// A dry run beside a limit that holds: it neither opens nor closes anything.
#[tokio::test]
async fn a_dry_run_changes_nothing_for_the_other_limits() {
    let (world, biller) = shop(World::builder()).await;
    limit_alice(
        &world,
        json!({"tokens_per_day": {"maximum": 10, "dry_run": true}, "requests_per_day": 7}),
    )
    .await;
    let token = world.alice.proxy_token(None).await;
    let outcomes = crowd(
        &[&world.door],
        &token,
        (0..30).map(|_| short(Dialect::OpenAi)).collect(),
    )
    .await;
    assert_eq!(
        (with_status(&outcomes, 200).len(), with_status(&outcomes, 402).len()),
        (7, 23)
    );
    Audit::of(&world.alice, &biller).await.holds_to_the_token();
}

/// Whoever it is that is limited, twenty pass of the people's that are charged to it.
async fn limited(account: impl AsyncFnOnce(&World) -> [String; 2]) {
    let (world, biller) = shop(World::builder()).await;
    let [path, named] = account(&world).await;
    world.limit(&path, json!({"requests_per_day": 20}), &[]).await;
    let bob = world.joins("bob").await;
    let mut passed = 0;
    for person in [&world.alice, &bob] {
        let token = person.proxy_token(None).await;
        let outcomes = crowd(
            &[&world.door],
            &token,
            (0..15).map(|_| short(Dialect::OpenAi)).collect(),
        )
        .await;
        passed += with_status(&outcomes, 200).len();
        for refused in with_status(&outcomes, 402) {
            let answer = refused.answer.as_ref().expect("an answer").json();
            assert_eq!(answer["error"]["account"], named);
        }
    }
    assert_eq!(passed, 20);
    Audit::of(&world.admin, &biller).await.holds_to_the_token();
}

#[tokio::test]
async fn a_tenants_limit_is_everybodys_of_it_together() {
    limited(async |_| ["tenants/1".to_owned(), "tenant 1".to_owned()]).await;
}

#[tokio::test]
async fn a_provider_keys_limit_is_that_of_all_who_use_it() {
    limited(async |world| {
        let keys = world.admin.get("/api/remote/api-keys").await.ok();
        let keys = keys["keys"].as_array().expect("keys").clone();
        let key = keys
            .iter()
            .find(|key| key["provider"] == "openai")
            .expect("one for OpenAI");
        [format!("api-keys/{}", key["id"]), format!("api key {}", key["id"])]
    })
    .await;
}

/// Everything that a person uses is charged to the person: proxy tokens of all kinds, one after the other and at once.
#[tokio::test]
async fn all_tokens_of_a_person_use_one_account() {
    let (world, biller) = shop(World::builder()).await;
    limit_alice(&world, json!({"requests_per_day": 6})).await;
    let mut passed = 0;
    for _ in 0..3 {
        for token in [world.token(Dialect::OpenAi).await, world.alice.proxy_token(None).await] {
            let outcomes = crowd(&[&world.door], &token, (0..2).map(|_| short(Dialect::OpenAi)).collect()).await;
            passed += with_status(&outcomes, 200).len();
        }
    }
    assert_eq!(passed, 6);
    holds(&world, &biller).await;
}

async fn holds(world: &World, biller: &Biller) {
    let mut audit = Audit::of(&world.alice, biller).await;
    audit.holds_to_the_token();
    audit.sums_hold(&world.alice).await;
}
