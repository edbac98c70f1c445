//! Recomputes every sum from the ledger and says where what is kept differs.

use std::fmt;

use ace_migrations::Engine;
use ace_policies::quota::{LimitName, Metric};
use sqlx::any::AnyRow;
use sqlx::{Any, AssertSqlSafe, Row, Transaction};

use super::check::{self, Check, Chunk, Kind};
use crate::App;
use crate::when::When;

/// Which periods are compared: those that begin in this span. UTC milliseconds; `None` is from the first, to the last.
#[derive(Clone, Copy, Default, Debug)]
pub struct Range {
    /// Included.
    pub from: Option<i64>,
    /// Not included.
    pub to: Option<i64>,
}

/// What came of it.
#[derive(Default, Debug)]
pub struct LedgerVerified {
    /// Part by part: how many sums there are, and how many of them differ.
    pub parts: Vec<Part>,
    /// The first differences that were found, up to a limit.
    pub differences: Vec<Difference>,
    /// What is worth a look, and no difference.
    pub notes: Vec<String>,
}

/// Sums of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Such as `quota_usage: user, day`.
    pub name: String,
    pub sums: i64,
    pub different: i64,
}

/// A figure that is kept and is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Which sum, such as `quota_usage: day 2026-01-31T00:00:00.000Z, user 7`.
    pub sum: String,
    pub column: &'static str,
    pub kept: i64,
    pub computed: i64,
}

impl LedgerVerified {
    /// How many sums differ.
    pub fn different(&self) -> i64 {
        self.parts.iter().map(|part| part.different).sum()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sum,
            column,
            kept,
            computed,
        } = self;
        write!(f, "{sum}: {column} is kept as {kept}, computed as {computed}")
    }
}

impl App {
    /// Compares `quota_usage` and the tables of usage with the ledger, and what is leased with the leases. Of the differences `keep`
    /// figures are told, all are counted. May be done while gateways write.
    pub async fn verify_ledger(&self, range: Range, keep: usize) -> Result<LedgerVerified, sqlx::Error> {
        let mut verified = LedgerVerified::default();
        for check in check::all() {
            self.compare(&check, range, keep, &mut verified).await?;
        }
        self.compare_leases(keep, &mut verified).await?;
        self.note_passed_limits(&mut verified).await?;
        self.note_dead_instances(&mut verified).await?;
        Ok(verified)
    }

    async fn compare(
        &self,
        check: &Check,
        range: Range,
        keep: usize,
        verified: &mut LedgerVerified,
    ) -> Result<(), sqlx::Error> {
        let mut part = Part {
            name: check.name(),
            sums: 0,
            different: 0,
        };
        let end = range.to.map_or(i64::MAX, |to| to.saturating_sub(1));
        let mut from = range.from.unwrap_or(i64::MIN);
        while let Some(first) = self.next(check, from).await?.filter(|first| *first <= end) {
            let chunk = check.chunk(first, end);
            let (sums, different) = self.count(check, chunk).await?;
            part.sums += sums;
            part.different += different;
            let room = keep.saturating_sub(verified.differences.len());
            if different > 0 && room > 0 {
                let found = self.differences(check, chunk, room).await?;
                verified.differences.extend(found.into_iter().take(room));
            }
            match chunk.last.checked_add(1) {
                Some(next) => from = next,
                None => break,
            }
        }
        verified.parts.push(part);
        Ok(())
    }

    /// Where the next periods are that either side knows, from a time on. Years without any cost nothing.
    async fn next(&self, check: &Check, from: i64) -> Result<Option<i64>, sqlx::Error> {
        let kept: Option<i64> = sqlx::query_scalar(AssertSqlSafe(check.next_kept()))
            .bind(from)
            .fetch_one(&self.db().read)
            .await?;
        let started: Option<i64> =
            sqlx::query_scalar("SELECT MIN(started_at) FROM request_ledger WHERE started_at >= $1")
                .bind(Check::started_from(from))
                .fetch_one(&self.db().read)
                .await?;
        let computed = started.map(|started| check.next_computed(from, started));
        Ok(kept.into_iter().chain(computed).min())
    }

    async fn count(&self, check: &Check, chunk: Chunk) -> Result<(i64, i64), sqlx::Error> {
        let mut patient = self.patient().await?;
        let query = sqlx::query(AssertSqlSafe(check.count()))
            .bind(chunk.first)
            .bind(chunk.last);
        let query = query.bind(chunk.started_first).bind(chunk.started_last);
        let row = query.fetch_one(&mut *patient).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    async fn differences(&self, check: &Check, chunk: Chunk, limit: usize) -> Result<Vec<Difference>, sqlx::Error> {
        let mut patient = self.patient().await?;
        let query = sqlx::query(AssertSqlSafe(check.differences(limit)))
            .bind(chunk.first)
            .bind(chunk.last);
        let query = query.bind(chunk.started_first).bind(chunk.started_last);
        let rows = query.fetch_all(&mut *patient).await?;
        let figures: Result<Vec<_>, _> = rows.iter().map(|row| check.read(row)).collect();
        Ok(figures?.into_iter().flatten().collect())
    }

    /// A transaction that only reads, and in which a statement may take its time: the usual limit is for people who wait.
    async fn patient(&self) -> Result<Transaction<'static, Any>, sqlx::Error> {
        let mut transaction = self.db().read.begin().await?;
        if self.db().engine == Engine::Postgres {
            sqlx::query("SET LOCAL statement_timeout = 0")
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction)
    }

    /// What is leased of each bucket must be what its leases say.
    async fn compare_leases(&self, keep: usize, verified: &mut LedgerVerified) -> Result<(), sqlx::Error> {
        let rows = sqlx::query(LEASES).fetch_all(&self.db().read).await?;
        let mut part = Part {
            name: "quota_leases".to_owned(),
            sums: i64::try_from(rows.len()).unwrap_or(i64::MAX),
            different: 0,
        };
        for row in &rows {
            let found = leased(row)?;
            part.different += i64::from(!found.is_empty());
            let room = keep.saturating_sub(verified.differences.len());
            verified.differences.extend(found.into_iter().take(room));
        }
        verified.parts.push(part);
        Ok(())
    }

    /// Notes where more is used and leased than a limit allows now. That is no error where the limit was set or lowered later.
    async fn note_passed_limits(&self, verified: &mut LedgerVerified) -> Result<(), sqlx::Error> {
        for name in LimitName::ALL {
            let period = name.period();
            let (start, _) = self.config().calendar.bounds(period, self.now());
            let rows = sqlx::query(passed(name.metric()))
                .bind(name.as_str())
                .bind(period.as_str())
                .bind(start)
                .fetch_all(&self.db().read)
                .await?;
            for row in rows {
                let (kind, id): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                let (held, maximum): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
                verified
                    .notes
                    .push(format!("{kind} {id}: {held} of {maximum} {name} are used or leased"));
            }
        }
        Ok(())
    }

    async fn note_dead_instances(&self, verified: &mut LedgerVerified) -> Result<(), sqlx::Error> {
        let sql = "SELECT COUNT(DISTINCT instance_id) FROM quota_leases WHERE instance_id NOT IN
                   (SELECT instance_id FROM ledger_instances WHERE expires_at > $1)";
        let dead: i64 = sqlx::query_scalar(sql)
            .bind(self.now())
            .fetch_one(&self.db().read)
            .await?;
        if dead > 0 {
            verified.notes.push(format!(
                "{dead} gateways that are gone still hold leases; a running gateway takes them over"
            ));
        }
        Ok(())
    }
}

impl Check {
    fn name(&self) -> String {
        match &self.key[..] {
            [period, account] => format!("{}: {}, {}", self.table, account.name, period.name),
            _ => self.table.to_owned(),
        }
    }

    /// The figures of a row of `differences` that differ.
    fn read(&self, row: &AnyRow) -> Result<Vec<Difference>, sqlx::Error> {
        let key: Result<Vec<_>, _> = self
            .key
            .iter()
            .enumerate()
            .map(|(n, column)| value(row, n, column.kind).map(|value| format!("{} {value}", column.name)))
            .collect();
        let sum = format!("{}: {}", self.table, key?.join(", "));
        let columns = self.measures.iter().map(|measure| measure.column);
        figures(row, &sum, self.key.len(), columns)
    }
}

fn value(row: &AnyRow, column: usize, kind: Kind) -> Result<String, sqlx::Error> {
    Ok(match kind {
        Kind::Text => format!("'{}'", row.try_get::<String, _>(column)?),
        Kind::Number => row.try_get::<i64, _>(column)?.to_string(),
        Kind::Time => When(row.try_get(column)?).to_string(),
    })
}

/// Pairs of kept and computed from a column on, where the two differ.
fn figures(
    row: &AnyRow,
    sum: &str,
    first: usize,
    columns: impl Iterator<Item = &'static str>,
) -> Result<Vec<Difference>, sqlx::Error> {
    let figure = |(n, column): (usize, &'static str)| -> Result<Difference, sqlx::Error> {
        Ok(Difference {
            sum: sum.to_owned(),
            column,
            kept: row.try_get(first + 2 * n)?,
            computed: row.try_get(first + 2 * n + 1)?,
        })
    };
    let all: Result<Vec<_>, _> = columns.enumerate().map(figure).collect();
    Ok(all?
        .into_iter()
        .filter(|figure| figure.kept != figure.computed)
        .collect())
}

const LEASES: &str = "
    SELECT account_kind, account_id, period, period_start,
           CAST(SUM(kept_tokens) AS BIGINT), CAST(SUM(tokens) AS BIGINT),
           CAST(SUM(kept_requests) AS BIGINT), CAST(SUM(requests) AS BIGINT),
           CAST(SUM(kept_cost) AS BIGINT), CAST(SUM(cost) AS BIGINT)
    FROM (SELECT account_kind, account_id, period, period_start, leased_tokens AS kept_tokens, leased_requests AS kept_requests,
                 leased_cost_micro_usd AS kept_cost, 0 AS tokens, 0 AS requests, 0 AS cost
          FROM quota_usage WHERE leased_tokens <> 0 OR leased_requests <> 0 OR leased_cost_micro_usd <> 0
          UNION ALL
          SELECT account_kind, account_id, period, period_start, 0, 0, 0, tokens, requests, cost_micro_usd FROM quota_leases) AS both_sides
    GROUP BY account_kind, account_id, period, period_start ORDER BY account_kind, account_id, period, period_start";

fn leased(row: &AnyRow) -> Result<Vec<Difference>, sqlx::Error> {
    let text = |column: usize| row.try_get::<String, _>(column);
    let start = When(row.try_get(3)?);
    let sum = format!("quota_leases: {} {start}, {} '{}'", text(2)?, text(0)?, text(1)?);
    let columns = ["leased_tokens", "leased_requests", "leased_cost_micro_usd"];
    figures(row, &sum, 4, columns.into_iter())
}

/// The accounts whose bucket holds more than their limit: the limit's name, the period's name, where it begins.
const fn passed(metric: Metric) -> &'static str {
    macro_rules! passed {
        ($used:literal) => {
            concat!(
                "SELECT quota_usage.account_kind, quota_usage.account_id, ",
                $used,
                ", maximum
                 FROM quota_limits JOIN quota_usage ON quota_usage.account_kind = quota_limits.account_kind
                                                   AND quota_usage.account_id = quota_limits.account_id
                 WHERE name = $1 AND period = $2 AND period_start = $3 AND ",
                $used,
                " > maximum
                 ORDER BY quota_usage.account_kind, quota_usage.account_id"
            )
        };
    }
    match metric {
        Metric::Tokens => passed!("tokens + leased_tokens"),
        Metric::Requests => passed!("requests + leased_requests"),
        Metric::Cost => passed!("cost_micro_usd + leased_cost_micro_usd"),
    }
}
