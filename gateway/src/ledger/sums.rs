//! The sums that each batch of rows adds to: usage by hour and day, and what every account has used of its day and month.

use std::collections::BTreeMap;

use ace_migrations::Engine;
use ace_policies::quota::{Amounts, Bucket, Period};
use ace_policies::usage::Source;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection};

use super::row::{Entry, Row};
use super::sql::{bind_bucket, read_amounts, read_bucket, signed, storable, values};

const HOUR_MS: i64 = 3_600_000;
/// Rows of one statement.
const ROWS: usize = 16;

/// The sums of some rows, to be added to those in the database.
#[derive(Default)]
pub struct Sums {
    used: BTreeMap<Bucket, Used>,
    hourly: BTreeMap<Hour, Totals>,
    daily: BTreeMap<Day, Totals>,
}

/// What a bucket has used: by requests that charge a lease, and all in all.
#[derive(Clone, Copy, Default, Debug)]
pub struct Used {
    /// Everything; below zero where a correction takes back.
    pub all: [i64; 3],
    /// What of it leases of this process have to cover.
    pub leased: Amounts,
}

/// What a bucket's sums are after they were added to.
pub struct Settled {
    /// The bucket.
    pub bucket: Bucket,
    /// What was added.
    pub added: Used,
    /// What has been used now.
    pub total: Amounts,
}

type Hour = (i64, i64, i64, String, &'static str, i64, String);
type Day = (i64, i64, i64, String, String, &'static str, i64, String);
/// Requests, errors, estimated ones, eight token classes, cost, time to first byte, duration.
type Totals = [i64; 14];

const TOTALS: [&str; 14] = [
    "requests",
    "errors",
    "estimated",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "cost_micro_usd",
    "ttfb_ms",
    "duration_ms",
];
const HOUR: [&str; 7] = [
    "hour_start",
    "tenant_id",
    "user_id",
    "machine_id",
    "provider",
    "api_key_id",
    "model",
];
const DAY: [&str; 8] = [
    "day_start",
    "tenant_id",
    "user_id",
    "session_id",
    "machine_id",
    "provider",
    "api_key_id",
    "model",
];

impl Sums {
    /// Adds a row that is new.
    pub fn add(&mut self, row: &Row) {
        self.count(&row.entry, 1);
        let amounts = row.entry.amounts();
        for charge in row.charges.iter().filter(|charge| charge.bucket.period.is_settled()) {
            let used = self.used.entry(charge.bucket).or_default();
            used.leased = used.leased.plus(charge.caps.limited(amounts));
        }
    }

    /// Takes an entry out again that was there before.
    pub fn take_back(&mut self, entry: &Entry) {
        self.count(entry, -1);
    }

    fn count(&mut self, entry: &Entry, sign: i64) {
        let amounts = entry.amounts();
        if !amounts.is_zero() {
            let amounts =
                [amounts.tokens, amounts.requests, amounts.cost_micro_usd].map(|amount| sign * signed(amount));
            for bucket in buckets(entry) {
                add(&mut self.used.entry(bucket).or_default().all, amounts);
            }
        }
        let totals = totals(entry).map(|total| sign * total);
        let text = |id: Option<String>| id.unwrap_or_default();
        let (tenant, user, key) = (
            entry.claims.tenant.0,
            entry.claims.user.0,
            entry.key.map_or(0, |key| key.0),
        );
        let machine = text(entry.claims.machine.map(|machine| machine.to_string()));
        let session = text(entry.claims.session.map(|session| session.to_string()));
        let (provider, model) = (entry.provider.as_str(), storable(entry.model()));
        let hour = entry.started_at_ms - entry.started_at_ms.rem_euclid(HOUR_MS);
        let hour = (hour, tenant, user, machine.clone(), provider, key, model.clone());
        add(self.hourly.entry(hour).or_default(), totals);
        let day = (entry.day.start_ms, tenant, user, session, machine, provider, key, model);
        add(self.daily.entry(day).or_default(), totals);
    }

    /// Adds them to the database, in an order that is the same for everybody, so that nobody waits in a circle. Gives what every
    /// bucket has used now; its row is locked until the transaction ends.
    pub async fn write(
        self,
        connection: &mut AnyConnection,
        engine: Engine,
        now_ms: i64,
    ) -> Result<Vec<Settled>, sqlx::Error> {
        let mut settled = Vec::with_capacity(self.used.len());
        let used: Vec<_> = self.used.into_iter().collect();
        // Corrections, which may be below zero, go alone.
        for chunk in used.chunk_by(|(_, one), (_, other)| !one.is_correction() && !other.is_correction()) {
            for chunk in chunk.chunks(ROWS) {
                settled.extend(match chunk {
                    [(bucket, used)] if used.is_correction() => vec![correct(connection, bucket, used, now_ms).await?],
                    _ => add_used(connection, engine, chunk, now_ms).await?,
                });
            }
        }
        let hourly: Vec<_> = self.hourly.into_iter().collect();
        for chunk in hourly.chunks(ROWS) {
            let text = statement(engine, "usage_hourly", &HOUR, &TOTALS, chunk.len());
            let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
            for ((hour, tenant, user, machine, provider, key, model), totals) in chunk {
                query = query.bind(*hour).bind(*tenant).bind(*user).bind(machine.clone());
                query = bind_all(query.bind(*provider).bind(*key).bind(model.clone()), totals);
            }
            query.execute(&mut *connection).await?;
        }
        let daily: Vec<_> = self.daily.into_iter().collect();
        for chunk in daily.chunks(ROWS) {
            let text = statement(engine, "usage_daily", &DAY, &TOTALS, chunk.len());
            let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
            for ((day, tenant, user, session, machine, provider, key, model), totals) in chunk {
                query = query
                    .bind(*day)
                    .bind(*tenant)
                    .bind(*user)
                    .bind(session.clone())
                    .bind(machine.clone());
                query = bind_all(query.bind(*provider).bind(*key).bind(model.clone()), totals);
            }
            query.execute(&mut *connection).await?;
        }
        Ok(settled)
    }
}

impl Used {
    fn is_correction(&self) -> bool {
        self.all.iter().any(|amount| *amount < 0)
    }
}

/// Corrects a bucket that is there.
async fn correct(
    connection: &mut AnyConnection,
    bucket: &Bucket,
    used: &Used,
    now_ms: i64,
) -> Result<Settled, sqlx::Error> {
    let text = "UPDATE quota_usage SET tokens = tokens + $1, requests = requests + $2, cost_micro_usd = cost_micro_usd + $3, updated_at = $4
                 WHERE account_kind = $5 AND account_id = $6 AND period = $7 AND period_start = $8
                RETURNING tokens, requests, cost_micro_usd";
    let query = bind_bucket(bind_all(sqlx::query(text), &used.all).bind(now_ms), bucket);
    let row = query.fetch_one(connection).await?;
    Ok(Settled {
        bucket: *bucket,
        added: *used,
        total: read_amounts(&row, 0)?,
    })
}

async fn add_used(
    connection: &mut AnyConnection,
    engine: Engine,
    chunk: &[(Bucket, Used)],
    now_ms: i64,
) -> Result<Vec<Settled>, sqlx::Error> {
    const KEY: [&str; 4] = ["account_kind", "account_id", "period", "period_start"];
    const SUMS: [&str; 3] = ["tokens", "requests", "cost_micro_usd"];
    let text = statement(
        engine,
        "quota_usage",
        &[&KEY[..], &["updated_at"]].concat(),
        &SUMS,
        chunk.len(),
    );
    let text = text.replace(
        "(account_kind, account_id, period, period_start, updated_at) DO",
        "(account_kind, account_id, period, period_start) DO",
    );
    let text =
        format!("{text} RETURNING account_kind, account_id, period, period_start, tokens, requests, cost_micro_usd");
    let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
    for (bucket, used) in chunk {
        query = query
            .bind(bucket.account.kind())
            .bind(bucket.account.id())
            .bind(bucket.period.as_str());
        query = bind_all(query.bind(bucket.start_ms).bind(now_ms), &used.all);
    }
    let rows = query.fetch_all(connection).await?;
    let added: BTreeMap<_, _> = chunk.iter().copied().collect();
    let settled = rows.iter().map(|row| {
        let bucket = read_bucket(row)?;
        Ok(Settled {
            bucket,
            added: added.get(&bucket).copied().unwrap_or_default(),
            total: read_amounts(row, 4)?,
        })
    });
    settled.collect()
}

/// The day and the month of every account that an entry is charged to.
fn buckets(entry: &Entry) -> impl Iterator<Item = Bucket> {
    let day = entry.day;
    entry.accounts().into_iter().flatten().flat_map(move |account| {
        [(Period::Day, day.start_ms), (Period::Month, day.month_start_ms)].map(|(period, start_ms)| Bucket {
            account,
            period,
            start_ms,
        })
    })
}

fn totals(entry: &Entry) -> Totals {
    let usage = &entry.usage;
    let is_error = entry.status >= 400 || entry.error_kind.is_some();
    let is_estimated = matches!(entry.source, Source::Estimated | Source::Partial);
    [
        1,
        i64::from(is_error),
        i64::from(is_estimated),
        signed(usage.input),
        signed(usage.cache_read),
        signed(usage.cache_write_5m),
        signed(usage.cache_write_1h),
        signed(usage.output),
        signed(usage.reasoning),
        signed(usage.audio_input),
        signed(usage.audio_output),
        signed(entry.cost_micro_usd),
        signed(entry.ttfb_ms.unwrap_or(0)),
        signed(entry.duration_ms),
    ]
}

fn add<const N: usize>(sums: &mut [i64; N], more: [i64; N]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum = sum.saturating_add(more);
    }
}

fn bind_all<'q>(query: Query<'q, Any, AnyArguments>, values: &[i64]) -> Query<'q, Any, AnyArguments> {
    values.iter().fold(query, |query, value| query.bind(*value))
}

/// Adds rows of sums to a table whose key the first columns are.
fn statement(engine: Engine, table: &str, key: &[&str], sums: &[&str], rows: usize) -> String {
    let columns = key.len() + sums.len();
    let values = values(engine, columns, rows);
    let added: Vec<_> = sums
        .iter()
        .map(|sum| format!("{sum} = {table}.{sum} + excluded.{sum}"))
        .collect();
    format!(
        "INSERT INTO {table} ({}, {}) VALUES {values} ON CONFLICT ({}) DO UPDATE SET {}",
        key.join(", "),
        sums.join(", "),
        key.join(", "),
        added.join(", ")
    )
}
