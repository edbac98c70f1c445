use ace_policies::quota::fortnight;
use insta::{allow_duplicates, assert_snapshot};
use serde_json::{Value, json};

use crate::testing::{Answer, Client, NOON, World, worlds};

mod fortnights;

/// 2026-01-31T00:00:00Z, the day of noon.
const TODAY: i64 = NOON - 43_200_000;
const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;

const SESSION: &str = "00000000-0000-0000-0000-000000000005";

/// A row of sums as a gateway would have written it.
struct Row {
    at: i64,
    user: i64,
    session: &'static str,
    machine: &'static str,
    key: i64,
    model: &'static str,
    requests: i64,
}

const ROW: Row = Row {
    at: TODAY,
    user: 1,
    session: "",
    machine: "",
    key: 0,
    model: "gpt",
    requests: 1,
};

impl Row {
    /// In the tables of days and of fortnights.
    async fn daily(&self, world: &World) {
        let insert = "INSERT INTO usage_sessions VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8, 1, 2, 10, 20, 30, 40, 50, 5, 6, 7, 1500000, 100, 250)";
        let query = sqlx::query(insert).bind(self.session).bind(self.at);
        self.rest(world, query).await;
        let insert = "INSERT INTO usage_daily VALUES ($1, 1, $2, $3, $4, $5, $6, $7, 1, 2, 10, 20, 30, 40, 50, 5, 6, 7, 1500000, 100, 250)";
        self.rest(world, sqlx::query(insert).bind(self.at)).await;
        let insert = "INSERT INTO usage_fortnights AS kept VALUES ($1, 1, $2, $3, $4, $5, $6, $7, 1, 2, 10, 20, 30, 40, 50, 5, 6, 7, 1500000, 100, 250)
            ON CONFLICT (fortnight_start, model, provider, api_key_id, user_id, machine_id, tenant_id) DO UPDATE SET
            requests = kept.requests + excluded.requests, errors = kept.errors + 1, estimated = kept.estimated + 2,
            input_tokens = kept.input_tokens + 10, cache_read_tokens = kept.cache_read_tokens + 20,
            cache_write_5m_tokens = kept.cache_write_5m_tokens + 30, cache_write_1h_tokens = kept.cache_write_1h_tokens + 40,
            output_tokens = kept.output_tokens + 50, reasoning_tokens = kept.reasoning_tokens + 5,
            audio_input_tokens = kept.audio_input_tokens + 6, audio_output_tokens = kept.audio_output_tokens + 7,
            cost_micro_usd = kept.cost_micro_usd + 1500000, ttfb_ms = kept.ttfb_ms + 100, duration_ms = kept.duration_ms + 250";
        self.rest(world, sqlx::query(insert).bind(fortnight(self.at))).await;
    }

    async fn hourly(&self, world: &World) {
        let insert = "INSERT INTO usage_hourly VALUES ($1, 1, $2, $3, $4, $5, $6, $7, 1, 2, 10, 20, 30, 40, 50, 5, 6, 7, 1500000, 100, 250)";
        self.rest(world, sqlx::query(insert).bind(self.at)).await;
    }

    async fn rest(&self, world: &World, query: sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments>) {
        let provider = if self.model == "gpt" { "openai" } else { "anthropic" };
        let query = query.bind(self.user).bind(self.machine);
        let query = query.bind(provider).bind(self.key).bind(self.model).bind(self.requests);
        query.execute(&world.database.db.write).await.unwrap();
    }
}

/// Days of two users: bob (2) ran a session yesterday and today, on a machine and with a key that have names.
async fn busy_worlds() -> Vec<World> {
    let worlds = worlds().await;
    for world in &worlds {
        world.add_user("bob").await;
        for name in [
            "INSERT INTO remote_machines (machine_id, tenant_id, machine_name, hostname, os_type, os_version, agent_version, created_at)
             VALUES ('m1', 1, 'workshop', 'h', 'linux', '6', '1', 0)",
            "INSERT INTO api_key_store (tenant_id, provider, key_name, key_hint, key_id, sealed, base_url, created_at, updated_at)
             SELECT 1, 'anthropic', '=team', '', key_id, sealed, '', 0, 0 FROM signing_keys",
        ] {
            sqlx::query(name).execute(&world.database.db.write).await.unwrap();
        }
        let of_bob = || Row {
            user: 2,
            session: SESSION,
            machine: "m1",
            key: 1,
            model: "claude",
            ..ROW
        };
        ROW.daily(world).await;
        Row {
            requests: 3,
            ..of_bob()
        }
        .daily(world)
        .await;
        Row {
            at: TODAY - DAY,
            requests: 4,
            ..of_bob()
        }
        .daily(world)
        .await;
        Row {
            at: TODAY - 40 * DAY,
            requests: 1000,
            ..ROW
        }
        .daily(world)
        .await;
        Row {
            at: TODAY + 10 * HOUR,
            ..ROW
        }
        .hourly(world)
        .await;
        Row {
            at: TODAY + 11 * HOUR,
            requests: 3,
            ..of_bob()
        }
        .hourly(world)
        .await;
    }
    worlds
}

/// The requests of each row, behind the fields that are named.
#[track_caller]
fn rows(answer: &Answer, fields: &[&str]) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer}");
    let cell = |row: &Value, field: &str| match &row[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line = |row: &Value| {
        fields
            .iter()
            .chain(&["requests"])
            .map(|field| cell(row, field))
            .collect::<Vec<_>>()
            .join(" ")
    };
    answer.json["usage"].as_array().unwrap().iter().map(line).collect()
}

async fn ask(client: &Client, query: &str) -> Answer {
    client.get(&format!("/api/usage?{query}")).await
}

/// The rows of pages of one.
async fn page_by_page(client: &Client, query: &str, fields: &[&str]) -> Vec<String> {
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = ask(client, &format!("{query}&limit=1{after}")).await;
        seen.extend(rows(&page, fields));
        match page.json["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return seen,
        }
    }
}

#[tokio::test]
async fn nothing_said_is_one_total_of_the_last_thirty_days() {
    for world in busy_worlds().await {
        let (admin, bob) = (world.admin().await, world.logged_in(ace_policies::UserId(2)).await);
        let total = ask(&admin, "").await;
        allow_duplicates!(assert_snapshot!(total, @r#"
        200
        {
          "asked": {
            "from": "2026-01-02T00:00:00.000Z",
            "to": "2026-01-31T12:00:00.000Z"
          },
          "covered": {
            "from": "2026-01-02T00:00:00.000Z",
            "to": "2026-02-01T00:00:00.000Z"
          },
          "group_by": [],
          "resolution": "day",
          "success": true,
          "time_zone": "UTC",
          "usage": [
            {
              "audio_input_tokens": 18,
              "audio_output_tokens": 21,
              "average_duration_ms": 94,
              "average_ttfb_ms": 38,
              "cache_read_tokens": 60,
              "cache_write_1h_tokens": 120,
              "cache_write_5m_tokens": 90,
              "cost_micro_usd": 4500000,
              "cost_usd": "4.500000",
              "errors": 3,
              "estimated_requests": 6,
              "input_tokens": 30,
              "output_tokens": 150,
              "reasoning_tokens": 15,
              "requests": 8,
              "total_tokens": 450
            }
          ]
        }
        "#));
        assert_eq!(rows(&ask(&bob, "").await, &[]), ["7"], "one's own");
        assert_eq!(rows(&ask(&admin, "user_id=2").await, &[]), ["7"]);
        ask(&bob, "user_id=1").await.refused(404, "not_found");
        let none = ask(&admin, "from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z")
            .await
            .ok();
        let none = &none.json["usage"][0];
        assert_eq!((&none["requests"], &none["average_ttfb_ms"]), (&json!(0), &Value::Null));
    }
}

#[tokio::test]
async fn sums_are_grouped_in_the_order_that_is_asked_for() {
    for world in busy_worlds().await {
        let admin = world.admin().await;
        let by_day = ask(&admin, "group_by=day,user").await;
        let expected = [
            "2026-01-30T00:00:00.000Z bob 4",
            "2026-01-31T00:00:00.000Z admin 1",
            "2026-01-31T00:00:00.000Z bob 3",
        ];
        assert_eq!(rows(&by_day, &["day", "username"]), expected);
        let by_user = ask(&admin, "group_by=user,day").await;
        assert_eq!(rows(&by_user, &["user_id"]), ["1 1", "2 4", "2 3"]);
        let by_machine = ask(&admin, "group_by=machine,key").await;
        let fields = ["machine_id", "machine_name", "api_key_id", "key_name"];
        assert_eq!(
            rows(&by_machine, &fields),
            ["null null null null 1", "m1 workshop 1 =team 7"]
        );
        let by_session = ask(&admin, "group_by=session,provider,model").await;
        let of_bob = format!("{SESSION} anthropic claude 7");
        assert_eq!(
            rows(&by_session, &["session_id", "provider", "model"]),
            ["null openai gpt 1", &of_bob]
        );
    }
}

#[tokio::test]
async fn hours_are_shown_and_time_is_rounded_outwards() {
    for world in busy_worlds().await {
        let admin = world.admin().await;
        let hours = ask(
            &admin,
            "group_by=hour&from=2026-01-31T10:59:00Z&to=2026-01-31T11:00:01Z",
        )
        .await;
        assert_eq!(
            rows(&hours, &["hour"]),
            ["2026-01-31T10:00:00.000Z 1", "2026-01-31T11:00:00.000Z 3"]
        );
        assert_eq!(hours.json["resolution"], "hour");
        assert_eq!(
            hours.json["asked"],
            json!({ "from": "2026-01-31T10:59:00.000Z", "to": "2026-01-31T11:00:01.000Z" })
        );
        assert_eq!(
            hours.json["covered"],
            json!({ "from": "2026-01-31T10:00:00.000Z", "to": "2026-01-31T12:00:00.000Z" })
        );
        let days = ask(&admin, "group_by=session&from=2026-01-31T10:59:00Z").await;
        assert_eq!(
            days.json["covered"],
            json!({ "from": "2026-01-31T00:00:00.000Z", "to": "2026-02-01T00:00:00.000Z" })
        );
    }
}

#[tokio::test]
async fn sums_are_filtered() {
    for world in busy_worlds().await {
        let admin = world.admin().await;
        for (query, requests) in [
            ("provider=openai", "1"),
            ("model=claude", "7"),
            ("machine_id=m1", "7"),
            ("api_key_id=1", "7"),
            ("session_id=00000000-0000-0000-0000-000000000005", "7"),
            ("session_id=other", "0"),
            ("model=claude&from=2026-01-31T00:00:00Z", "3"),
        ] {
            assert_eq!(rows(&ask(&admin, query).await, &[]), [requests], "{query}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_naming_the_field() {
    for world in busy_worlds().await {
        let admin = world.admin().await;
        for (query, message) in [
            ("group_by=colour", "group_by: unknown dimension 'colour'"),
            ("group_by=day,user,model,key", "group_by: at most 3"),
            ("group_by=hour,session", "group_by: sums of sessions"),
            ("from=2026-01-31T00:00:00Z&to=2026-01-31T00:00:00Z", "to: must be later"),
            ("from=yesterday", "RFC 3339"),
            ("limit=10001", "limit: must be between 1 and 10000"),
            ("after=7", "after: must be"),
            ("group_by=user&after=5b5d", "after: must be"),
            ("format=xml", "format"),
            ("sort=cost", "sort"),
        ] {
            let refused = ask(&admin, query).await;
            assert_eq!(refused.status, 400, "{query}: {refused}");
            assert!(refused.json["error"].as_str().unwrap().contains(message), "{refused}");
        }
    }
}

#[tokio::test]
async fn pages_of_sums_neither_skip_nor_repeat() {
    for world in busy_worlds().await {
        let admin = world.admin().await;
        let whole = rows(&ask(&admin, "group_by=model,day").await, &["model", "day"]);
        let seen = page_by_page(&admin, "group_by=model,day", &["model", "day"]).await;
        assert_eq!((seen.len(), seen), (3, whole));
    }
}

/// A page reads the sessions that it is about, and no others.
#[tokio::test]
async fn pages_of_sessions_neither_skip_nor_repeat_over_short_and_long_spans() {
    for world in busy_worlds().await {
        let (admin, bob) = (world.admin().await, world.logged_in(ace_policies::UserId(2)).await);
        let fields = ["session_id", "model", "day"];
        for (client, span, count) in [
            (&admin, "from=2026-01-30T00:00:00Z", 3),
            (&admin, "from=2025-12-01T00:00:00Z", 4),
            (&bob, "from=2025-12-01T00:00:00Z", 2),
            (&admin, "from=2025-12-01T00:00:00Z&model=gpt", 2),
        ] {
            let query = format!("group_by=session,model,day&{span}");
            let whole = rows(&ask(client, &query).await, &fields);
            let seen = page_by_page(client, &query, &fields).await;
            assert_eq!((seen.len(), seen), (count, whole), "{span}");
        }
    }
}

#[tokio::test]
async fn a_table_is_saved_as_a_file_and_holds_no_formulas() {
    for world in busy_worlds().await {
        let admin = world.admin().await;
        let table = ask(&admin, "group_by=key&format=csv").await.ok();
        allow_duplicates!(assert_snapshot!(table.text.replace('\r', ""), @r"
        api_key_id,key_name,requests,errors,estimated_requests,input_tokens,cache_read_tokens,cache_write_5m_tokens,cache_write_1h_tokens,output_tokens,reasoning_tokens,audio_input_tokens,audio_output_tokens,total_tokens,cost_micro_usd,cost_usd,average_ttfb_ms,average_duration_ms
        ,,1,1,2,10,20,30,40,50,5,6,7,150,1500000,1.500000,100,250
        1,'=team,7,2,4,20,40,60,80,100,10,12,14,300,3000000,3.000000,29,71
        "));
        assert_eq!(
            table.header("content-disposition"),
            "attachment; filename=\"usage.csv\""
        );
        let first = ask(&admin, "group_by=key&format=csv&limit=1").await.ok();
        let next = first
            .header("link")
            .strip_prefix('<')
            .unwrap()
            .split_once('>')
            .unwrap()
            .0;
        let second = admin.get(next).await.ok();
        assert_eq!(second.text.lines().last(), table.text.lines().last());
        assert_eq!(second.header("link"), "");
    }
}
