use insta::{allow_duplicates, assert_snapshot};
use serde_json::{Value, json};

use crate::testing::{NOON, World, worlds};

/// 2026-01-31T00:00:00Z and 2026-01-01T00:00:00Z, in which noon falls.
const TODAY: i64 = NOON - 43_200_000;
const THIS_MONTH: i64 = TODAY - 30 * 86_400_000;

const SESSION: &str = "00000000-0000-0000-0000-000000000005";

/// What gateways would have written of a bucket: tokens and requests that are used, and that are leased.
async fn bucket(
    world: &World,
    (kind, id): (&str, &str),
    (period, start): (&str, i64),
    used: [i64; 2],
    leased: [i64; 2],
) {
    sqlx::query(
        "INSERT INTO quota_usage (account_kind, account_id, period, period_start, tokens, requests, cost_micro_usd,
                                  leased_tokens, leased_requests, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, 250000, $7, $8, 0)",
    )
    .bind(kind)
    .bind(id)
    .bind(period)
    .bind(start)
    .bind(used[0])
    .bind(used[1])
    .bind(leased[0])
    .bind(leased[1])
    .execute(&world.database.db.write)
    .await
    .unwrap();
}

async fn event(world: &World, account: (&str, &str), minute: i64, percent: i64) {
    sqlx::query(
        "INSERT INTO quota_events (at, account_kind, account_id, limit_name, period_start, percent, used, maximum, dry_run)
         VALUES ($1, $2, $3, 'tokens_per_day', $4, $5, 800, 1000, 0)",
    )
    .bind(NOON + minute * 60_000)
    .bind(account.0)
    .bind(account.1)
    .bind(TODAY)
    .bind(percent)
    .execute(&world.database.db.write)
    .await
    .unwrap();
}

async fn session(world: &World) {
    sqlx::query(
        "INSERT INTO agent_sessions (session_id, user_id, tenant_id, status, project_path, cli_tool, created_at, updated_at)
         VALUES ($1, 1, 1, 'active', '/p', 'codex', 0, 0)",
    )
    .bind(SESSION)
    .execute(&world.database.db.write)
    .await
    .unwrap();
}

/// One limit as a line: maximum, dry run, used, reserved, remaining, reset.
fn line(quota: &Value, name: &str) -> String {
    let limits = quota["limits"].as_array().unwrap();
    let limit = limits.iter().find(|limit| limit["name"] == name).unwrap();
    let cell = |column: &&str| match &limit[*column] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let columns = ["maximum", "dry_run", "used", "reserved", "remaining", "resets_at"];
    columns.iter().map(cell).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn users_see_every_limit_with_what_is_used_and_left() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.user("bob").await);
        let bob_id = ("user", "2");
        bucket(&world, bob_id, ("day", TODAY), [700, 3], [200, 2]).await;
        bucket(&world, bob_id, ("day", TODAY - 86_400_000), [9999, 99], [0, 0]).await;
        bucket(&world, bob_id, ("month", THIS_MONTH), [5000, 30], [0, 0]).await;
        bucket(&world, bob_id, ("minute", NOON), [0, 0], [60, 1]).await;
        bucket(&world, bob_id, ("open", 0), [0, 0], [0, 2]).await;
        let limits = json!({ "limits": {
            "tokens_per_day": 1000, "tokens_per_month": { "maximum": 4000, "dry_run": true }, "parallel_requests": 5,
        } });
        admin.put("/api/quota/users/2", limits).await.ok();
        let mine = bob.get("/api/quota/me").await.ok().json;
        assert_eq!(mine["account"], json!({ "kind": "user", "id": "2" }));
        assert_eq!(mine["time_zone"], "UTC");
        let lines: Vec<String> = mine["limits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|limit| limit["name"].as_str().unwrap())
            .map(|name| format!("{name}: {}", line(&mine, name)))
            .collect();
        allow_duplicates!(assert_snapshot!(lines.join("\n"), @r"
        tokens_per_day: 1000 false 700 200 100 2026-02-01T00:00:00.000Z
        tokens_per_month: 4000 true 5000 0 0 2026-02-01T00:00:00.000Z
        requests_per_day: null false 3 2 null 2026-02-01T00:00:00.000Z
        requests_per_month: null false 30 0 null 2026-02-01T00:00:00.000Z
        cost_micro_usd_per_day: null false 250000 0 null 2026-02-01T00:00:00.000Z
        cost_micro_usd_per_month: null false 250000 0 null 2026-02-01T00:00:00.000Z
        tokens_per_minute: null false 0 60 null 2026-01-31T12:01:00.000Z
        requests_per_minute: null false 0 1 null 2026-01-31T12:01:00.000Z
        parallel_requests: 5 false 0 2 3 null
        "));
        assert_eq!(bob.get("/api/quota/users/2").await.ok().json, mine);
        assert_eq!(admin.get("/api/quota/users/2").await.ok().json, mine);
        let account = bob.get("/api/auth/me").await.ok().json;
        assert_eq!(
            (&account["quota"], &account["user"]["id"]),
            (&mine["limits"], &json!(2))
        );
    }
}

#[tokio::test]
async fn limits_are_set_changed_and_removed_one_by_one() {
    for world in worlds().await {
        let admin = world.admin().await;
        let version = world.number("SELECT version FROM wakeups WHERE topic = 'quota'").await;
        let set = |limits: Value| {
            let admin = admin.clone();
            async move {
                admin
                    .put("/api/quota/users/1", json!({ "limits": limits }))
                    .await
                    .ok()
                    .json
            }
        };
        let first = set(json!({ "tokens_per_day": 10, "requests_per_minute": 0 })).await;
        assert_eq!(
            line(&first, "requests_per_minute"),
            "0 false 0 0 0 2026-01-31T12:01:00.000Z"
        );
        let second =
            set(json!({ "tokens_per_day": { "maximum": i64::MAX, "dry_run": true }, "requests_per_minute": null }))
                .await;
        assert!(
            line(&second, "tokens_per_day").starts_with("9223372036854775807 true "),
            "{second}"
        );
        assert!(line(&second, "requests_per_minute").starts_with("null "), "{second}");
        let third = set(json!({ "tokens_per_month": 7 })).await;
        assert_eq!(
            line(&third, "tokens_per_day"),
            line(&second, "tokens_per_day"),
            "what is left out stays"
        );
        assert_eq!(world.number("SELECT COUNT(*) FROM quota_limits").await, 2);
        let woken = world.number("SELECT version FROM wakeups WHERE topic = 'quota'").await;
        assert_eq!(woken, version + 3);
    }
}

#[tokio::test]
async fn a_change_of_limits_is_in_the_audit_log_with_before_and_after() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.user("bob").await);
        for maximum in [5, 6] {
            let body = json!({ "limits": { "tokens_per_day": maximum } });
            admin.put("/api/quota/users/2", body).await.ok();
        }
        let entry = &admin.get("/api/audit?action=quota.update&limit=1").await.ok().json["entries"][0];
        let recorded = |maximum: u64| json!({ "tokens_per_day": { "maximum": maximum, "dry_run": false } });
        assert_eq!((&entry["target"], &entry["before"]), (&json!("user:2"), &recorded(5)));
        assert_eq!(entry["after"], recorded(6));
        let own = bob.put("/api/quota/users/2", json!({ "limits": {} })).await;
        own.refused(403, "system_admin_only");
        assert_eq!(world.audit().await.last().unwrap(), "bob quota.update  denied");
    }
}

#[tokio::test]
async fn bad_limits_are_refused_naming_the_field() {
    for world in worlds().await {
        let admin = world.admin().await;
        let cases = [
            (
                json!({ "limits": { "tokens_per_year": 1 } }),
                "limits.tokens_per_year: ",
            ),
            (json!({ "limits": { "tokens_per_day": -1 } }), "limits.tokens_per_day: "),
            (
                json!({ "limits": { "tokens_per_day": 1.5 } }),
                "limits.tokens_per_day: ",
            ),
            (
                json!({ "limits": { "tokens_per_day": "1" } }),
                "limits.tokens_per_day: ",
            ),
            (
                json!({ "limits": { "tokens_per_day": [1] } }),
                "limits.tokens_per_day: ",
            ),
            (
                json!({ "limits": { "tokens_per_day": 9_223_372_036_854_775_808_u64 } }),
                "limits.tokens_per_day: ",
            ),
            (
                json!({ "limits": { "tokens_per_day": { "maximum": -1 } } }),
                "limits.tokens_per_day: ",
            ),
            (
                json!({ "limits": { "tokens_per_day": { "dry_run": true } } }),
                "missing field `maximum`",
            ),
            (
                json!({ "limits": { "tokens_per_day": { "maximum": 1, "soft": 1 } } }),
                "unknown field `soft`",
            ),
            (json!({ "limits": 7 }), "limits: "),
            (json!({ "limit": {} }), "unknown field `limit`"),
            (json!({}), "missing field `limits`"),
        ];
        for (body, message) in cases {
            let refused = admin.put("/api/quota/users/1", body).await;
            assert_eq!(refused.status, 400, "{refused}");
            assert!(refused.json["error"].as_str().unwrap().contains(message), "{refused}");
        }
        assert_eq!(world.number("SELECT COUNT(*) FROM quota_limits").await, 0);
    }
}

#[tokio::test]
async fn every_kind_of_account_can_be_limited() {
    for world in worlds().await {
        let admin = world.admin().await;
        session(&world).await;
        let machine = "INSERT INTO remote_machines (machine_id, tenant_id, machine_name, hostname, os_type, os_version, agent_version, created_at)
                       VALUES ('00000000-0000-0000-0000-000000000006', 1, 'm', 'h', 'linux', '6', '1', 0)";
        sqlx::query(machine).execute(&world.database.db.write).await.unwrap();
        let key = json!({ "provider": "openai", "key_name": "k", "api_key": "sk-0123456789", "base_url": "https://ace-test.invalid/v1" });
        admin.post("/api/remote/api-keys", key).await.ok();
        let paths = [
            "users/1",
            "tenants/1",
            "sessions/00000000-0000-0000-0000-000000000005",
            "machines/00000000-0000-0000-0000-000000000006",
            "api-keys/1",
        ];
        for path in paths {
            let path = format!("/api/quota/{path}");
            let body = json!({ "limits": { "requests_per_day": 3 } });
            let set = admin.put(&path, body).await.ok();
            assert_eq!(
                line(&set.json, "requests_per_day"),
                "3 false 0 0 3 2026-02-01T00:00:00.000Z"
            );
            assert_eq!(admin.get(&path).await.ok().json, set.json);
        }
        assert_eq!(world.number("SELECT COUNT(*) FROM quota_limits").await, 5);
        admin.delete("/api/remote/api-keys/1").await.ok();
        let left = world
            .number("SELECT COUNT(*) FROM quota_limits WHERE account_kind = 'api_key'")
            .await;
        assert_eq!(left, 0, "the limits go with the key");
    }
}

#[tokio::test]
async fn who_is_not_there_or_not_named_rightly_is_told_apart() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.user("bob").await);
        let body = || json!({ "limits": { "tokens_per_day": 1 } });
        for path in [
            "users/99",
            "tenants/99",
            "api-keys/99",
            &format!("sessions/{SESSION}"),
            &format!("machines/{SESSION}"),
            "groups/1",
        ] {
            let path = format!("/api/quota/{path}");
            admin.get(&path).await.refused(404, "not_found");
            admin.put(&path, body()).await.refused(404, "not_found");
        }
        for path in [
            "users/x",
            "tenants/1.5",
            "api-keys/9223372036854775808",
            "sessions/7",
            "machines/x",
        ] {
            let path = format!("/api/quota/{path}");
            let refused = admin.get(&path).await;
            assert!(refused.json["error"].as_str().unwrap().starts_with("id: "), "{refused}");
            refused.refused(400, "invalid_field");
            admin.put(&path, body()).await.refused(400, "invalid_field");
        }
        for path in ["users/1", "tenants/1"] {
            bob.get(&format!("/api/quota/{path}")).await.refused(404, "not_found");
        }
    }
}

#[tokio::test]
async fn events_are_listed_in_pages_and_to_those_they_are_about() {
    for world in worlds().await {
        let (admin, bob) = (world.admin().await, world.user("bob").await);
        for (account, minute, percent) in [
            (("user", "2"), 0, 80),
            (("tenant", "1"), 1, 80),
            (("user", "2"), 1, 95),
            (("user", "1"), 2, 80),
        ] {
            event(&world, account, minute, percent).await;
        }
        let ids = |page: &Value| -> Vec<i64> {
            page["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["id"].as_i64().unwrap())
                .collect()
        };
        let first = admin.get("/api/quota/events?limit=3").await.ok().json;
        let next = first["next"].as_str().unwrap();
        let second = admin
            .get(&format!("/api/quota/events?limit=3&after={next}"))
            .await
            .ok()
            .json;
        assert_eq!((ids(&first), ids(&second)), (vec![4, 3, 2], vec![1]));
        let own = bob.get("/api/quota/events").await.ok().json;
        assert_eq!(ids(&own), [3, 1]);
        allow_duplicates!(
            assert_snapshot!(own["events"][0], @r#"{"account_id":"2","account_kind":"user","at":"2026-01-31T12:01:00.000Z","dry_run":false,"id":3,"limit":"tokens_per_day","maximum":1000,"percent":95,"period_start":"2026-01-31T00:00:00.000Z","used":800}"#)
        );
        let of_bob = admin
            .get("/api/quota/events?account_kind=user&account_id=2")
            .await
            .ok()
            .json;
        assert_eq!(of_bob, own);
        let of_tenant = "/api/quota/events?account_kind=tenant&account_id=1";
        assert_eq!(ids(&admin.get(of_tenant).await.ok().json), [2]);
        bob.get(of_tenant).await.refused(404, "not_found");
        for query in [
            "account_kind=user",
            "account_id=2",
            "account_kind=group&account_id=1",
            "account_kind=user&account_id=x",
        ] {
            admin
                .get(&format!("/api/quota/events?{query}"))
                .await
                .refused(400, "invalid_field");
        }
    }
}
