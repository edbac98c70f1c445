//! Long spans: fortnights in place of their days.

use std::collections::BTreeMap;

use super::*;

/// 2026-01-29T00:00:00Z, where a fortnight begins. So do the 15th, the 1st and 2025-12-18.
const BORDER: i64 = TODAY - 2 * DAY;

/// On both sides of each border, and between them.
const DAYS: [i64; 12] = [-43, -42, -29, -28, -27, -20, -15, -14, -13, -1, 0, 1];

/// Whole fortnights alone, with a day on each side, with more on one side, and none.
const SPANS: [&str; 5] = [
    "from=2026-01-01T00:00:00Z&to=2026-01-29T00:00:00Z",
    "from=2025-12-31T00:00:00Z&to=2026-01-30T00:00:00Z",
    "from=2026-01-02T00:00:00Z&to=2026-01-30T00:00:00Z",
    "from=2025-12-18T00:00:00Z&to=2026-01-28T00:00:00Z",
    "from=2026-01-02T00:00:00Z&to=2026-01-28T00:00:00Z",
];

const GROUPS: [&str; 7] = [
    "",
    "user",
    "model",
    "provider",
    "user,model",
    "model,key",
    "machine,provider",
];

const FILTERS: [&str; 5] = [
    "",
    "&user_id=2",
    "&model=claude",
    "&user_id=2&model=claude",
    "&provider=openai&machine_id=m1",
];

async fn long_worlds() -> Vec<World> {
    let worlds = worlds().await;
    for world in &worlds {
        world.add_user("bob").await;
        for (n, day) in (1..).zip(DAYS) {
            of_a_day(world, BORDER + day * DAY, n).await;
        }
        // From when days began in Shanghai: they belong to the fortnights before the borders, in which they end.
        of_a_day(world, BORDER - 8 * HOUR, 100).await;
        of_a_day(world, BORDER - 28 * DAY - 8 * HOUR, 1000).await;
    }
    worlds
}

async fn of_a_day(world: &World, at: i64, requests: i64) {
    for (user, model, machine) in [(1, "gpt", "m1"), (2, "gpt", ""), (2, "claude", "m1")] {
        let row = Row {
            at,
            user,
            machine,
            model,
            key: user,
            requests: requests * user,
            ..ROW
        };
        row.daily(world).await;
    }
}

/// Requests, input tokens and cost by the fields of some dimensions.
async fn sums(client: &Client, query: &str) -> BTreeMap<String, [i64; 3]> {
    let answer = ask(client, query).await.ok();
    let mut sums = BTreeMap::new();
    for row in answer.json["usage"].as_array().unwrap() {
        let names = ["user_id", "model", "provider", "api_key_id", "machine_id"].map(|field| row[field].to_string());
        let sum: &mut [i64; 3] = sums.entry(names.join(" ")).or_default();
        for (sum, field) in sum.iter_mut().zip(["requests", "input_tokens", "cost_micro_usd"]) {
            *sum += row[field].as_i64().unwrap();
        }
    }
    sums
}

#[tokio::test]
async fn a_long_span_comes_to_the_same_as_its_days() {
    for world in long_worlds().await {
        let admin = world.admin().await;
        for span in SPANS {
            for (group, filter) in GROUPS.iter().flat_map(|group| FILTERS.map(|filter| (group, filter))) {
                let found = sums(&admin, &format!("{span}{filter}&group_by={group}")).await;
                let days = sums(&admin, &format!("{span}{filter}&group_by={group},day")).await;
                assert_eq!(found, days, "{span}{filter}&group_by={group}");
                assert!(!found.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn the_days_of_whole_fortnights_are_not_read() {
    for world in long_worlds().await {
        let admin = world.admin().await;
        let before: Vec<_> = ask_all(&admin).await;
        let delete = "DELETE FROM usage_daily WHERE day_start >= $1 AND day_start < $2";
        let query = sqlx::query(delete).bind(BORDER - 28 * DAY).bind(BORDER);
        query.execute(&world.database.db.write).await.unwrap();
        assert_eq!(ask_all(&admin).await, before);
    }
}

/// The answers of which the two fortnights of January are a part.
async fn ask_all(client: &Client) -> Vec<BTreeMap<String, [i64; 3]>> {
    let mut answers = Vec::new();
    for span in &SPANS[..2] {
        for group in GROUPS {
            answers.push(sums(client, &format!("{span}&group_by={group}")).await);
        }
    }
    answers
}

#[tokio::test]
async fn pages_of_a_long_span_neither_skip_nor_repeat() {
    for world in long_worlds().await {
        let admin = world.admin().await;
        let query = format!("{}&user_id=2&group_by=user,model,key", SPANS[1]);
        let fields = ["user_id", "model", "api_key_id"];
        let whole = rows(&ask(&admin, &query).await, &fields);
        assert_eq!(whole.len(), 2);
        assert_eq!(page_by_page(&admin, &query, &fields).await, whole);
        let query = format!("{}&group_by=model,user", SPANS[1]);
        let whole = rows(&ask(&admin, &query).await, &fields[..2]);
        assert_eq!(whole.len(), 3);
        assert_eq!(page_by_page(&admin, &query, &fields[..2]).await, whole);
    }
}
