//! A small writer of the ledger and its sums, and errors planted into what it wrote.

use ace_policies::quota::fortnight;
use sqlx::AssertSqlSafe;

use super::{LedgerVerified, Range};
use crate::testing::{NOON, World, worlds};

/// 2026-01-31T00:00:00Z and 2026-01-01T00:00:00Z, in which noon falls.
const TODAY: i64 = NOON - 43_200_000;
const THIS_MONTH: i64 = TODAY - 30 * DAY;
const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;

/// A request in the ledger; what is not said here is the same for all.
#[derive(Clone)]
pub(super) struct Settled {
    pub at: i64,
    pub user: i64,
    /// Without one it has neither machine nor key.
    pub session: Option<&'static str>,
    pub model: &'static str,
    pub status: i64,
    pub source: &'static str,
    pub upstream: Option<&'static str>,
}

pub(super) const REQUEST: Settled = Settled {
    at: NOON,
    user: 1,
    session: Some("s1"),
    model: "claude-opus-4-5",
    status: 200,
    source: "provider",
    upstream: None,
};

const LEDGER: &str = "
    INSERT INTO request_ledger (request_id, tenant_id, user_id, session_id, machine_id, api_key_id, model_served, status, usage_source,
                                started_at, day_start, month_start, upstream_request_id, charged_requests, tool, provider, method, path,
                                input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
                                reasoning_tokens, cost_micro_usd, ttfb_ms, duration_ms, gateway_id)
    VALUES ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 1, 'claude-code', 'anthropic', 'POST', '/v1/messages',
            10, 100, 20, 30, 5, 2, 1234, 50, 200, 'g')";

impl Settled {
    /// Writes the request into the ledger and adds it to all sums.
    pub async fn write(&self, world: &World) {
        self.write_ledger(world).await;
        let (day, month) = self.periods();
        for (kind, id) in self.accounts() {
            for (period, start) in [("day", day), ("month", month)] {
                self.run(world, format!(
                    "INSERT INTO quota_usage (account_kind, account_id, period, period_start, tokens, requests, cost_micro_usd, updated_at)
                     VALUES ('{kind}', '{id}', '{period}', {start}, 165, 1, 1234, 0)
                     ON CONFLICT (account_kind, account_id, period, period_start) DO UPDATE SET tokens = quota_usage.tokens + 165,
                     requests = quota_usage.requests + 1, cost_micro_usd = quota_usage.cost_micro_usd + 1234"
                )).await;
            }
        }
        self.add(world, "usage_hourly", "hour_start", self.at - self.at % HOUR, "")
            .await;
        let session = format!(", session_id = '{}'", self.session.unwrap_or_default());
        self.add(world, "usage_daily", "day_start", day, "").await;
        self.add(world, "usage_fortnights", "fortnight_start", fortnight(day), "")
            .await;
        self.add(world, "usage_sessions", "day_start", day, &session).await;
    }

    /// The ledger alone, as a writer would that forgets the sums.
    pub async fn write_ledger(&self, world: &World) {
        let (day, month) = self.periods();
        sqlx::query(LEDGER)
            .bind(uuid::Uuid::new_v4().to_string())
            .bind(self.user)
            .bind(self.session)
            .bind(self.session.map(|_| "m1"))
            .bind(self.session.map(|_| 7_i64))
            .bind(self.model)
            .bind(self.status)
            .bind(self.source)
            .bind(self.at)
            .bind(day)
            .bind(month)
            .bind(self.upstream)
            .execute(&world.database.db.write)
            .await
            .unwrap();
    }

    fn periods(&self) -> (i64, i64) {
        let day = self.at - self.at % DAY;
        (
            day,
            if day >= THIS_MONTH {
                THIS_MONTH
            } else {
                THIS_MONTH - 31 * DAY
            },
        )
    }

    fn accounts(&self) -> Vec<(&'static str, String)> {
        let mut accounts = vec![("user", self.user.to_string()), ("tenant", "1".to_owned())];
        if let Some(session) = self.session {
            accounts.extend([
                ("session", session.to_owned()),
                ("machine", "m1".to_owned()),
                ("api_key", "7".to_owned()),
            ]);
        }
        accounts
    }

    /// Adds the request to a table of sums. `more` is what its key has beyond that of the other, such as `, session_id = 's1'`.
    async fn add(&self, world: &World, table: &str, time: &str, start: i64, more: &str) {
        let (machine, key) = if self.session.is_some() { ("m1", 7) } else { ("", 0) };
        let key = format!(
            "{time} = {start}, tenant_id = 1, user_id = {}, machine_id = '{machine}', provider = 'anthropic', api_key_id = {key}, model = '{}'{more}",
            self.user, self.model
        );
        let errors = i64::from(self.status >= 400);
        let estimated = i64::from(matches!(self.source, "partial" | "estimated"));
        let measures = format!(
            "requests = 1, errors = {errors}, estimated = {estimated}, input_tokens = 10, cache_read_tokens = 100, cache_write_5m_tokens = 20,
             cache_write_1h_tokens = 30, output_tokens = 5, reasoning_tokens = 2, audio_input_tokens = 0, audio_output_tokens = 0,
             cost_micro_usd = 1234, ttfb_ms = 50, duration_ms = 200"
        );
        let pairs = |list: &str| -> Vec<(String, String)> {
            let pair = |pair: &str| {
                pair.trim()
                    .split_once(" = ")
                    .map(|(column, value)| (column.to_owned(), value.to_owned()))
                    .unwrap()
            };
            list.split(',').map(pair).collect()
        };
        let (key, measures) = (pairs(&key), pairs(&measures));
        let side = |of: &[(String, String)], value: bool| {
            of.iter()
                .map(|(c, v)| if value { v } else { c }.clone())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let sums: Vec<_> = measures
            .iter()
            .map(|(column, value)| format!("{column} = {table}.{column} + {value}"))
            .collect();
        self.run(
            world,
            format!(
                "INSERT INTO {table} ({}, {}) VALUES ({}, {}) ON CONFLICT ({}) DO UPDATE SET {}",
                side(&key, false),
                side(&measures, false),
                side(&key, true),
                side(&measures, true),
                side(&key, false),
                sums.join(", ")
            ),
        )
        .await;
    }

    async fn run(&self, world: &World, sql: String) {
        sqlx::query(AssertSqlSafe(sql))
            .execute(&world.database.db.write)
            .await
            .unwrap();
    }
}

/// Two months of requests of two users, some with errors and estimates, and one of before there were sums.
async fn busy_worlds() -> Vec<World> {
    let worlds = worlds().await;
    for world in &worlds {
        for n in 0..40 {
            let request = Settled {
                at: NOON - n * 37 * HOUR,
                user: 1 + n % 2,
                session: [Some("s1"), None, Some("s2")][usize::try_from(n % 3).unwrap()],
                status: if n % 7 == 0 { 529 } else { 200 },
                source: ["provider", "partial", "estimated"][usize::try_from(n % 3).unwrap()],
                ..REQUEST
            };
            request.write(world).await;
        }
        run(world, "INSERT INTO request_ledger (request_id, tenant_id, user_id, tool, provider, method, path, status, input_tokens,
                    usage_source, duration_ms, started_at, gateway_id)
                    VALUES ('old', 1, 1, '', 'openai', 'POST', '/', 200, 99, 'provider', 1, 1769860800000, 'g')").await;
    }
    worlds
}

async fn run(world: &World, sql: &'static str) {
    let changed = sqlx::query(sql).execute(&world.database.db.write).await.unwrap();
    assert!(changed.rows_affected() > 0, "{sql}");
}

async fn verify(world: &World) -> LedgerVerified {
    world.app.verify_ledger(Range::default(), 100).await.unwrap()
}

#[tokio::test]
async fn sums_that_are_right_are_found_right() {
    for world in busy_worlds().await {
        let verified = verify(&world).await;
        assert_eq!(verified.differences, []);
        let parts: Vec<_> = verified
            .parts
            .iter()
            .map(|part| format!("{} {} {}", part.name, part.sums, part.different))
            .collect();
        let expected = [
            "usage_hourly 40 0",
            "usage_daily 40 0",
            "usage_fortnights 20 0",
            "usage_sessions 40 0",
            "quota_usage: user, day 40 0",
            "quota_usage: tenant, day 40 0",
            "quota_usage: session, day 27 0",
            "quota_usage: machine, day 27 0",
            "quota_usage: api_key, day 27 0",
            "quota_usage: user, month 4 0",
            "quota_usage: tenant, month 2 0",
            "quota_usage: session, month 4 0",
            "quota_usage: machine, month 2 0",
            "quota_usage: api_key, month 2 0",
            "quota_leases 0 0",
        ];
        assert_eq!(parts, expected);
        assert_eq!(verified.notes, [""; 0]);
    }
}

/// Plants an error and looks which parts tell of it.
async fn plant(error: &'static str, expected: &[&str]) {
    for world in busy_worlds().await {
        run(&world, error).await;
        let verified = verify(&world).await;
        let found: Vec<_> = verified
            .parts
            .iter()
            .filter(|part| part.different > 0)
            .map(|part| part.name.as_str())
            .collect();
        assert_eq!(found, expected, "{error}");
        assert!(!verified.differences.is_empty());
    }
}

#[tokio::test]
async fn a_planted_error_is_found_in_every_table_of_sums() {
    plant("UPDATE usage_hourly SET reasoning_tokens = reasoning_tokens + 1 WHERE hour_start = (SELECT MAX(hour_start) FROM usage_hourly)", &["usage_hourly"]).await;
    plant(
        "DELETE FROM usage_hourly WHERE hour_start = (SELECT MIN(hour_start) FROM usage_hourly)",
        &["usage_hourly"],
    )
    .await;
    plant(
        "UPDATE usage_daily SET errors = errors + 1 WHERE day_start = (SELECT MIN(day_start) FROM usage_daily)",
        &["usage_daily"],
    )
    .await;
    plant(
        "UPDATE usage_daily SET model = 'other' WHERE day_start = (SELECT MAX(day_start) FROM usage_daily)",
        &["usage_daily"],
    )
    .await;
    plant(
        "UPDATE usage_fortnights SET requests = requests + 1 WHERE fortnight_start = (SELECT MIN(fortnight_start) FROM usage_fortnights)",
        &["usage_fortnights"],
    )
    .await;
    plant(
        "UPDATE usage_fortnights SET fortnight_start = fortnight_start + 86400000 WHERE user_id = 2",
        &["usage_fortnights"],
    )
    .await;
    plant(
        "UPDATE usage_sessions SET session_id = 's3' WHERE day_start = (SELECT MAX(day_start) FROM usage_sessions)",
        &["usage_sessions"],
    )
    .await;
    plant("UPDATE quota_usage SET tokens = tokens - 1 WHERE account_kind = 'machine' AND period = 'month' AND period_start = 1767225600000", &["quota_usage: machine, month"]).await;
    plant("UPDATE quota_usage SET requests = requests + 1 WHERE account_kind = 'session' AND account_id = 's2' AND period = 'month' AND period_start = 1767225600000", &["quota_usage: session, month"]).await;
    plant(
        "DELETE FROM quota_usage WHERE account_kind = 'user' AND period = 'day' AND period_start = 1769817600000",
        &["quota_usage: user, day"],
    )
    .await;
}

#[tokio::test]
async fn sums_of_what_never_was_are_found_wherever_they_are() {
    for start in [0_i64, i64::MAX, -5 * DAY] {
        for world in busy_worlds().await {
            sqlx::query("INSERT INTO quota_usage (account_kind, account_id, period, period_start, tokens, updated_at) VALUES ('tenant', '9', 'day', $1, 1, 0)")
                .bind(start).execute(&world.database.db.write).await.unwrap();
            let verified = verify(&world).await;
            assert_eq!(verified.different(), 1, "{start}");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_in_no_sum_is_found_in_all_it_belongs_to() {
    for world in busy_worlds().await {
        REQUEST.write_ledger(&world).await;
        let verified = verify(&world).await;
        assert_eq!(verified.different(), 14);
        let told: Vec<_> = verified.differences.iter().map(ToString::to_string).collect();
        let expected = "quota_usage: day 2026-01-31T00:00:00.000Z, user '1': tokens is kept as 165, computed as 330";
        assert!(told.iter().any(|line| line == expected), "{told:#?}");
    }
}

#[tokio::test]
async fn a_row_of_the_ledger_that_was_changed_or_removed_is_found() {
    for (error, different) in [
        ("UPDATE request_ledger SET output_tokens = 6 WHERE id = 1", 14),
        ("DELETE FROM request_ledger WHERE id = 1", 14),
        ("UPDATE request_ledger SET day_start = 0 WHERE id = 1", 14),
        ("UPDATE request_ledger SET month_start = 0 WHERE id = 1", 5),
        ("UPDATE request_ledger SET error_kind = 'client_gone' WHERE id = 2", 4),
    ] {
        for world in busy_worlds().await {
            run(&world, error).await;
            assert_eq!(verify(&world).await.different(), different, "{error}");
        }
    }
}

#[tokio::test]
async fn what_is_leased_must_be_what_the_leases_say() {
    for world in busy_worlds().await {
        run(&world, "UPDATE quota_usage SET leased_tokens = 50 WHERE account_kind = 'user' AND account_id = '1' AND period = 'day' AND period_start = 1769817600000").await;
        assert_eq!(verify(&world).await.different(), 1);
        run(&world, "INSERT INTO quota_leases VALUES ('i1', 'user', '1', 'day', 1769817600000, 20, 0, 0), ('i2', 'user', '1', 'day', 1769817600000, 30, 0, 0)").await;
        run(
            &world,
            "INSERT INTO ledger_instances VALUES ('i1', 'g', 0, 1869817600000), ('i2', 'g', 0, 5)",
        )
        .await;
        let verified = verify(&world).await;
        assert_eq!(verified.differences, []);
        assert_eq!(
            verified.notes,
            ["1 gateways that are gone still hold leases; a running gateway takes them over"]
        );
        run(
            &world,
            "INSERT INTO quota_leases VALUES ('i1', 'tenant', '1', 'open', 0, 0, 1, 0)",
        )
        .await;
        let line = verify(&world).await.differences[0].to_string();
        assert_eq!(
            line,
            "quota_leases: open 1970-01-01T00:00:00.000Z, tenant '1': leased_requests is kept as 0, computed as 1"
        );
    }
}

#[tokio::test]
async fn a_limit_that_is_passed_is_a_note_and_no_difference() {
    for world in busy_worlds().await {
        run(&world, "INSERT INTO quota_limits VALUES ('user', '1', 'tokens_per_day', 164, 0, 0), ('user', '1', 'requests_per_day', 1, 0, 0)").await;
        let verified = verify(&world).await;
        assert_eq!(
            (verified.different(), &verified.notes[..]),
            (
                0,
                &["user 1: 165 of 164 tokens_per_day are used or leased".to_owned()][..]
            )
        );
    }
}

#[tokio::test]
async fn a_range_holds_the_periods_that_begin_in_it() {
    for world in busy_worlds().await {
        run(&world, "UPDATE usage_daily SET requests = requests + 1").await;
        let count =
            async |from: Option<i64>, to: Option<i64>| world.app.verify_ledger(Range { from, to }, 5).await.unwrap();
        assert_eq!(count(None, None).await.different(), 40);
        assert_eq!(
            count(None, None).await.differences.len(),
            5,
            "no more are told than asked for"
        );
        assert_eq!(count(Some(TODAY), None).await.different(), 1);
        assert_eq!(count(None, Some(TODAY)).await.different(), 39);
        assert_eq!(count(Some(TODAY + 1), None).await.different(), 0);
        assert_eq!(count(Some(TODAY), Some(TODAY)).await.different(), 0);
    }
}

#[tokio::test]
async fn a_model_that_was_asked_for_counts_only_where_it_was_charged() {
    for world in worlds().await {
        Settled { model: "", ..REQUEST }.write(&world).await;
        run(
            &world,
            "UPDATE request_ledger SET model_served = NULL, model_asked = 'anything', charged_requests = 0",
        )
        .await;
        run(&world, "UPDATE quota_usage SET requests = 0").await;
        assert_eq!(verify(&world).await.differences, []);
        run(&world, "UPDATE request_ledger SET charged_requests = 1").await;
        run(&world, "UPDATE quota_usage SET requests = 1").await;
        let verified = verify(&world).await;
        let different: Vec<_> = verified
            .parts
            .iter()
            .map(|part| part.different)
            .filter(|different| *different > 0)
            .collect();
        assert_eq!(
            different,
            [2, 2, 2, 2],
            "by hour, day, fortnight and session, under '' and under its name"
        );
    }
}
