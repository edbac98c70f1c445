use serde_json::{Value, json};

use crate::testing::{NOON, World, worlds};

/// What a gateway would have written.
async fn request(world: &World, user: i64, minute: i64, provider: &str, status: i64) {
    sqlx::query(
        "INSERT INTO request_ledger (request_id, tenant_id, user_id, tool, provider, method, path, model_served, status,
                                     input_tokens, cache_read_tokens, output_tokens, usage_source, streamed, duration_ms,
                                     started_at, gateway_id)
         VALUES ($1, 1, $2, 'claude-code', $3, 'POST', '/v1/messages', 'some-model', $4, 10, 100, 5, 'provider', 1, 42, $5, 'g')",
    )
    .bind(uuid::Uuid::new_v4().to_string())
    .bind(user)
    .bind(provider)
    .bind(status)
    .bind(NOON + minute * 60_000)
    .execute(&world.database.db.write)
    .await
    .unwrap();
}

/// The minutes of the requests that were found.
fn minutes(page: &Value) -> Vec<String> {
    let requests = page["requests"].as_array().unwrap().iter();
    requests
        .map(|request| request["started_at"].as_str().unwrap()[14..16].to_owned())
        .collect()
}

async fn busy_worlds() -> Vec<World> {
    let worlds = worlds().await;
    for world in &worlds {
        world.add_user("bob").await;
        for (user, minute, provider, status) in [
            (1, 0, "openai", 200),
            (2, 1, "anthropic", 200),
            (2, 2, "anthropic", 429),
            (2, 3, "openai", 404),
            (1, 3, "google", 200),
        ] {
            request(world, user, minute, provider, status).await;
        }
    }
    worlds
}

#[tokio::test]
async fn users_see_their_own_and_admins_see_all() {
    for world in busy_worlds().await {
        let (admin, bob) = (world.admin().await, world.logged_in(ace_policies::UserId(2)).await);
        let all = admin.get("/api/usage/requests").await.ok();
        assert_eq!(minutes(&all.json), ["03", "03", "02", "01", "00"]);
        let own = bob.get("/api/usage/requests").await.ok();
        assert_eq!(minutes(&own.json), ["03", "02", "01"]);
        assert_eq!(own.json["requests"][0]["username"], "bob");
        assert_eq!(own.json["requests"][0]["total_tokens"], 115);
        bob.get("/api/usage/requests?user_id=1").await.refused(404, "not_found");
        bob.get("/api/usage/requests?user_id=2").await.ok();
        let of_bob = admin.get("/api/usage/requests?user_id=2").await.ok();
        assert_eq!(of_bob.json, own.json);
    }
}

#[tokio::test]
async fn requests_are_filtered() {
    for world in busy_worlds().await {
        let admin = world.admin().await;
        let cases: [(&str, &[&str]); 8] = [
            ("provider=anthropic", &["02", "01"]),
            ("status=429", &["02"]),
            ("status=4xx", &["03", "02"]),
            ("status=2xx&provider=openai", &["00"]),
            ("model=some-model&user_id=1", &["03", "00"]),
            ("model=other", &[]),
            ("from=2026-01-31T12:02:00Z", &["03", "03", "02"]),
            (
                "from=2026-01-31T20:01:00%2B08:00&to=2026-01-31T12:03:00Z",
                &["02", "01"],
            ),
        ];
        for (query, expected) in cases {
            let found = admin.get(&format!("/api/usage/requests?{query}")).await.ok();
            assert_eq!(minutes(&found.json), expected, "{query}");
        }
        for query in [
            "status=many",
            "status=0xx",
            "from=yesterday",
            "limit=501",
            "after=1",
            "sort=asc",
        ] {
            let refused = admin.get(&format!("/api/usage/requests?{query}")).await;
            assert_eq!(refused.status, 400, "{query}: {refused}");
        }
    }
}

#[tokio::test]
async fn pages_neither_skip_nor_repeat_what_started_at_once() {
    for world in worlds().await {
        for _ in 0..7 {
            request(&world, 1, 0, "openai", 200).await;
        }
        let admin = world.admin().await;
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = admin.get(&format!("/api/usage/requests?limit=3{after}")).await.ok();
            seen.extend(
                page.json["requests"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|request| request["id"].as_i64().unwrap()),
            );
            // Somebody calls in between.
            request(&world, 1, 1, "openai", 200).await;
            match page.json["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(
            admin.get("/api/usage/requests?user_id=2").await.ok().json["requests"],
            json!([])
        );
    }
}

#[tokio::test]
async fn a_table_of_requests_has_every_field_and_pages_of_its_own() {
    for world in busy_worlds().await {
        let admin = world.admin().await;
        let json = admin.get("/api/usage/requests?limit=1").await.ok();
        let table = admin.get("/api/usage/requests?format=csv").await.ok();
        let mut fields: Vec<_> = json.json["requests"][0]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let header: Vec<_> = table.text.lines().next().unwrap().split(',').collect();
        fields.sort_by_key(|field| header.iter().position(|column| column == field));
        assert_eq!(header, fields);
        assert_eq!(table.text.lines().count(), 6);
        let part = admin
            .get("/api/usage/requests?format=csv&limit=2&status=2xx")
            .await
            .ok();
        assert_eq!(
            part.header("link"),
            "</api/usage/requests?format=csv&limit=2&status=2xx&after=1769860860000.2>; rel=\"next\""
        );
        admin
            .get("/api/usage/requests?format=csv&limit=10001")
            .await
            .refused(400, "invalid_field");
    }
}

#[tokio::test]
async fn what_a_request_cost_is_shown_with_its_price() {
    for world in busy_worlds().await {
        let settle = "UPDATE request_ledger SET cost_micro_usd = 1234, price = 'claude-*', service_tier = 'batch', charged_requests = 1 WHERE id = 5";
        sqlx::query(settle).execute(&world.database.db.write).await.unwrap();
        let page = world.admin().await.get("/api/usage/requests?limit=1").await.ok();
        let request = &page.json["requests"][0];
        assert_eq!(
            (&request["cost_micro_usd"], &request["charged_requests"]),
            (&json!(1234), &json!(1))
        );
        assert_eq!(
            (&request["price"], &request["service_tier"]),
            (&json!("claude-*"), &json!("batch"))
        );
    }
}
