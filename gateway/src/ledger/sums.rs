//! The sums that each batch of rows adds to: usage by hour, day and fortnight, and what every account has used of its day
//! and month.

mod table;

use std::collections::{BTreeMap, HashMap};

use ace_migrations::Engine;
use ace_policies::quota::{Account, Amounts, Bucket, Period, fortnight};
use ace_policies::usage::is_error;
use ace_policies::{KeyId, Provider, TenantId, UserId};
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection};

use super::row::{Entry, Row};
use super::sql::{bind_bucket, read_amounts, read_bucket, signed, storable, values};
use table::Table;

const HOUR_MS: i64 = 3_600_000;
/// Rows of one statement.
const ROWS: usize = 16;

/// The sums of some rows, to be added to those in the database.
#[derive(Default)]
pub struct Sums<'r> {
    /// Rows that have everything in common that is summed up by: nearly always few.
    groups: HashMap<Group<'r>, Totals, ahash::RandomState>,
    leased: HashMap<Bucket, Amounts, ahash::RandomState>,
}

/// What a row is summed up by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Group<'r> {
    hour_ms: i64,
    day_ms: i64,
    month_ms: i64,
    accounts: [Option<Account>; 5],
    provider: Provider,
    model: &'r str,
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

/// What a row of usage is told apart by, in the order of the tables' keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Only where sums are kept by session.
    session: Option<String>,
    start_ms: i64,
    model: String,
    provider: &'static str,
    key: i64,
    user: i64,
    machine: String,
    tenant: i64,
}

/// Requests, errors, estimated ones, eight token classes, cost, time to first byte, duration; behind them what is charged and not
/// summed up by itself: requests.
type Totals = [i64; COUNTS];

const COUNTS: usize = 15;
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

impl<'r> Sums<'r> {
    /// Adds a row that is new.
    pub fn add(&mut self, row: &'r Row) {
        self.count(&row.entry, 1);
        let amounts = row.entry.amounts();
        for charge in row.charges.iter().filter(|charge| charge.bucket.period.is_settled()) {
            let leased = self.leased.entry(charge.bucket).or_default();
            *leased = leased.plus(charge.caps.limited(amounts));
        }
    }

    /// Takes an entry out again that was there before.
    pub fn take_back(&mut self, entry: &'r Entry) {
        self.count(entry, -1);
    }

    fn count(&mut self, entry: &'r Entry, sign: i64) {
        let totals = totals(entry).map(|total| sign * total);
        add(self.groups.entry(Group::of(entry)).or_default(), totals);
    }

    /// What every bucket has used.
    fn used(&self) -> BTreeMap<Bucket, Used> {
        let mut used = BTreeMap::<_, Used>::new();
        for (group, totals) in &self.groups {
            let amounts = amounts(totals);
            if amounts != [0; 3] {
                for bucket in group.buckets() {
                    add(&mut used.entry(bucket).or_default().all, amounts);
                }
            }
        }
        for (bucket, leased) in self.leased.iter().filter(|(_, leased)| !leased.is_zero()) {
            used.entry(*bucket).or_default().leased = *leased;
        }
        used
    }

    fn usage(&self, table: Table) -> BTreeMap<Key, Totals> {
        let mut sums = BTreeMap::new();
        for (group, totals) in &self.groups {
            add(sums.entry(group.key(table)).or_insert([0; COUNTS]), *totals);
        }
        sums
    }

    /// Adds them to the database, in an order that is the same for everybody, so that nobody waits in a circle. Gives what every
    /// bucket has used now; its row is locked until the transaction ends.
    pub async fn write(
        &self,
        connection: &mut AnyConnection,
        engine: Engine,
        now_ms: i64,
    ) -> Result<Vec<Settled>, sqlx::Error> {
        let used: Vec<_> = self.used().into_iter().collect();
        let mut settled = Vec::with_capacity(used.len());
        // Corrections, which may be below zero, go alone.
        for chunk in used.chunk_by(|(_, one), (_, other)| !one.is_correction() && !other.is_correction()) {
            for chunk in chunk.chunks(ROWS) {
                settled.extend(match chunk {
                    [(bucket, used)] if used.is_correction() => vec![correct(connection, bucket, used, now_ms).await?],
                    _ => add_used(connection, engine, chunk, now_ms).await?,
                });
            }
        }
        for table in Table::ALL {
            let sums: Vec<_> = self.usage(table).into_iter().collect();
            for chunk in sums.chunks(ROWS) {
                add_usage(connection, engine, table, chunk).await?;
            }
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

async fn add_usage(
    connection: &mut AnyConnection,
    engine: Engine,
    table: Table,
    chunk: &[(Key, Totals)],
) -> Result<(), sqlx::Error> {
    let text = statement(engine, table.name(), &table.key(), &TOTALS, chunk.len());
    let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
    for (key, totals) in chunk {
        if let Some(session) = &key.session {
            query = query.bind(session.clone());
        }
        query = query.bind(key.start_ms).bind(key.model.clone()).bind(key.provider);
        query = query
            .bind(key.key)
            .bind(key.user)
            .bind(key.machine.clone())
            .bind(key.tenant);
        query = bind_all(query, &totals[..TOTALS.len()]);
    }
    query.execute(connection).await.map(drop)
}

impl<'r> Group<'r> {
    fn of(entry: &'r Entry) -> Self {
        Self {
            hour_ms: entry.started_at_ms - entry.started_at_ms.rem_euclid(HOUR_MS),
            day_ms: entry.day.start_ms,
            month_ms: entry.day.month_start_ms,
            accounts: entry.accounts(),
            provider: entry.provider,
            model: entry.model(),
        }
    }

    /// The day and the month of every account that is charged.
    fn buckets(&self) -> impl Iterator<Item = Bucket> {
        let periods = [(Period::Day, self.day_ms), (Period::Month, self.month_ms)];
        self.accounts.into_iter().flatten().flat_map(move |account| {
            periods.map(|(period, start_ms)| Bucket {
                account,
                period,
                start_ms,
            })
        })
    }

    /// The row of a table that it is added to: 0 and "" for what there is none of.
    fn key(&self, table: Table) -> Key {
        let [user, tenant, session, machine, key] = self.accounts;
        let number = |account| match account {
            Some(Account::User(UserId(id)) | Account::Tenant(TenantId(id)) | Account::ProviderKey(KeyId(id))) => id,
            _ => 0,
        };
        let text = |account: Option<Account>| account.map(|account| account.id()).unwrap_or_default();
        Key {
            session: table.is_by_session().then(|| text(session)),
            start_ms: match table {
                Table::Hourly => self.hour_ms,
                Table::Daily | Table::Sessions => self.day_ms,
                Table::Fortnights => fortnight(self.day_ms),
            },
            model: storable(self.model),
            provider: self.provider.as_str(),
            key: number(key),
            user: number(user),
            machine: text(machine),
            tenant: number(tenant),
        }
    }
}

fn totals(entry: &Entry) -> Totals {
    let usage = &entry.usage;
    let is_error = is_error(entry.status, entry.error_kind);
    [
        1,
        i64::from(is_error),
        i64::from(entry.source.is_estimated()),
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
        signed(entry.charged_requests),
    ]
}

/// Tokens, requests and cost that are charged.
fn amounts(totals: &Totals) -> [i64; 3] {
    let [
        _,
        _,
        _,
        input,
        read,
        write_5m,
        write_1h,
        output,
        _,
        _,
        _,
        cost,
        _,
        _,
        requests,
    ] = totals;
    [input + read + write_5m + write_1h + output, *requests, *cost]
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
