//! What is compared: tables of sums, and how the ledger says that they must be. Pure: text of statements comes out.
//!
//! Both sides are put one below the other and added up by key. A statement sees one moment of the database, so a ledger that is being
//! written while it is checked is no difference.

use ace_policies::quota::FORTNIGHT_MS;

/// A table of sums, or a part of it, and how it is computed from the ledger.
pub(super) struct Check {
    pub table: &'static str,
    /// What its rows are told apart by: what it is called, the column, and how the ledger has it. The first is where the period begins.
    pub key: Vec<Column>,
    /// What is added up.
    pub measures: &'static [Measure],
    /// Which rows of the table; `true` for all.
    pub kept: String,
    /// Which rows of the ledger; `true` for all.
    pub computed: String,
    /// How long before a request its period may begin, in milliseconds.
    pub reach_ms: i64,
    /// How much time is compared in one statement, in milliseconds. It bounds what the database has to sort at once.
    pub chunk_ms: i64,
}

pub(super) struct Column {
    pub name: &'static str,
    pub column: &'static str,
    pub computed: &'static str,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Time,
    Number,
    Text,
}

pub(super) struct Measure {
    pub column: &'static str,
    pub computed: &'static str,
}

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How far a request's period may be off the time at which it began: it is admitted a little later.
const SLACK_MS: i64 = DAY_MS;

/// Rows that were written before there were sums are in none.
const SUMMED: &str = "day_start > 0";

const fn column(name: &'static str, column: &'static str, computed: &'static str, kind: Kind) -> Column {
    Column {
        name,
        column,
        computed,
        kind,
    }
}

const fn measure(column: &'static str, computed: &'static str) -> Measure {
    Measure { column, computed }
}

/// A measure that the ledger has under the same name.
const fn same(column: &'static str) -> Measure {
    measure(column, column)
}

const USAGE: &[Measure] = &[
    measure("requests", "1"),
    // As `policies::usage::is_error` has it.
    measure(
        "errors",
        "CASE WHEN status >= 400 OR error_kind IS NOT NULL THEN 1 ELSE 0 END",
    ),
    // As `policies::usage::Source::is_estimated` has it.
    measure(
        "estimated",
        "CASE WHEN usage_source IN ('estimated', 'partial') THEN 1 ELSE 0 END",
    ),
    same("input_tokens"),
    same("cache_read_tokens"),
    same("cache_write_5m_tokens"),
    same("cache_write_1h_tokens"),
    same("output_tokens"),
    same("reasoning_tokens"),
    same("audio_input_tokens"),
    same("audio_output_tokens"),
    same("cost_micro_usd"),
    measure("ttfb_ms", "COALESCE(ttfb_ms, 0)"),
    same("duration_ms"),
];

const QUOTA: &[Measure] = &[
    measure(
        "tokens",
        "input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens + output_tokens",
    ),
    measure("requests", "charged_requests"),
    same("cost_micro_usd"),
];

/// Every table of sums, part by part.
pub(super) fn all() -> Vec<Check> {
    let quota = ["day", "month"]
        .into_iter()
        .flat_map(|period| ACCOUNTS.map(|account| quota(account, period)));
    [hourly(), daily(), fortnights(), sessions()]
        .into_iter()
        .chain(quota)
        .collect()
}

fn hourly() -> Check {
    let hour = column("hour", "hour_start", "started_at - started_at % 3600000", Kind::Time);
    Check {
        table: "usage_hourly",
        key: std::iter::once(hour).chain(usage_key()).collect(),
        measures: USAGE,
        kept: "true".to_owned(),
        computed: "true".to_owned(),
        reach_ms: HOUR_MS,
        chunk_ms: 7 * DAY_MS,
    }
}

fn daily() -> Check {
    let day = column("day", "day_start", "day_start", Kind::Time);
    Check {
        table: "usage_daily",
        key: std::iter::once(day).chain(usage_key()).collect(),
        measures: USAGE,
        kept: "true".to_owned(),
        computed: "true".to_owned(),
        reach_ms: 2 * DAY_MS,
        chunk_ms: 7 * DAY_MS,
    }
}

/// A day begins within its fortnight, and may end a day and an hour behind it.
fn fortnights() -> Check {
    // `policies::quota::FORTNIGHT_MS`.
    let computed = "day_start - day_start % 1209600000";
    let fortnight = column("fortnight", "fortnight_start", computed, Kind::Time);
    Check {
        table: "usage_fortnights",
        key: std::iter::once(fortnight).chain(usage_key()).collect(),
        reach_ms: FORTNIGHT_MS + 2 * DAY_MS,
        chunk_ms: 2 * FORTNIGHT_MS,
        ..daily()
    }
}

fn sessions() -> Check {
    let session = column("session", "session_id", "COALESCE(session_id, '')", Kind::Text);
    let daily = daily();
    Check {
        table: "usage_sessions",
        key: daily.key.into_iter().chain([session]).collect(),
        ..daily
    }
}

/// What was asked for counts only where it was charged: a client may ask for anything.
const MODEL: &str = "COALESCE(model_served, CASE WHEN charged_requests > 0 THEN model_asked END, '')";

fn usage_key() -> [Column; 6] {
    [
        column("tenant", "tenant_id", "tenant_id", Kind::Number),
        column("user", "user_id", "user_id", Kind::Number),
        column("machine", "machine_id", "COALESCE(machine_id, '')", Kind::Text),
        column("provider", "provider", "provider", Kind::Text),
        column("key", "api_key_id", "COALESCE(api_key_id, 0)", Kind::Number),
        column("model", "model", MODEL, Kind::Text),
    ]
}

/// Kinds of accounts, and where the ledger has their ids.
const ACCOUNTS: [(&str, &str); 5] = [
    ("user", "user_id"),
    ("tenant", "tenant_id"),
    ("session", "session_id"),
    ("machine", "machine_id"),
    ("api_key", "api_key_id"),
];

fn quota((kind, id): (&'static str, &'static str), period: &'static str) -> Check {
    let (start, reach_ms, chunk_ms) = match period {
        "day" => ("day_start", 2 * DAY_MS, 7 * DAY_MS),
        _ => ("month_start", 33 * DAY_MS, 62 * DAY_MS),
    };
    let id_as_text = match id {
        "user_id" => "CAST(user_id AS TEXT)",
        "tenant_id" => "CAST(tenant_id AS TEXT)",
        "api_key_id" => "CAST(api_key_id AS TEXT)",
        text => text,
    };
    Check {
        table: "quota_usage",
        key: vec![
            column(period, "period_start", start, Kind::Time),
            column(kind, "account_id", id_as_text, Kind::Text),
        ],
        measures: QUOTA,
        kept: format!("account_kind = '{kind}' AND period = '{period}'"),
        computed: format!("{id} IS NOT NULL"),
        reach_ms,
        chunk_ms,
    }
}

/// Where a period may begin, both ends included, and when requests of it may have begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    pub first: i64,
    pub last: i64,
    pub started_first: i64,
    pub started_last: i64,
}

impl Check {
    /// The part of the time that begins at `first` and does not go beyond `end`.
    pub fn chunk(&self, first: i64, end: i64) -> Chunk {
        let last = first.saturating_add(self.chunk_ms - 1).min(end);
        Chunk {
            first,
            last,
            started_first: first.saturating_sub(SLACK_MS),
            started_last: last.saturating_add(self.reach_ms).saturating_add(SLACK_MS),
        }
    }

    /// The first period from `$1` on that has sums.
    pub fn next_kept(&self) -> String {
        let (table, start, kept) = (self.table, self.key[0].column, &self.kept);
        format!("SELECT MIN({start}) FROM {table} WHERE {start} >= $1 AND {kept}")
    }

    /// Where to look for the first period from `first` on that the ledger has requests of, when the first request not much before it
    /// began at `started`.
    pub fn next_computed(&self, first: i64, started: i64) -> i64 {
        started.saturating_sub(self.reach_ms).max(first)
    }

    /// From when on a request may belong to a period that begins at `first` or later.
    pub fn started_from(first: i64) -> i64 {
        first.saturating_sub(SLACK_MS)
    }

    /// How many sums there are in a chunk, and how many of them differ.
    pub fn count(&self) -> String {
        let (rows, key, differs) = (self.rows(), self.key_names(), self.differs());
        format!(
            "SELECT COUNT(*), CAST(COALESCE(SUM(differs), 0) AS BIGINT) FROM
             (SELECT CASE WHEN {differs} THEN 1 ELSE 0 END AS differs FROM ({rows}) AS both_sides GROUP BY {key}) AS sums"
        )
    }

    /// The sums of a chunk that differ: the key, then kept and computed of each measure; no more than `limit`.
    pub fn differences(&self, limit: usize) -> String {
        let (rows, key, differs) = (self.rows(), self.key_names(), self.differs());
        let sum = |n: usize| format!("CAST(SUM(kept_{n}) AS BIGINT), CAST(SUM(computed_{n}) AS BIGINT)");
        let sums = listed(self.measures.len(), sum, ", ");
        format!(
            "SELECT {key}, {sums} FROM ({rows}) AS both_sides GROUP BY {key} HAVING {differs} ORDER BY {key} LIMIT {limit}"
        )
    }

    /// Both sides, one below the other.
    fn rows(&self) -> String {
        let (table, kept, computed) = (self.table, &self.kept, &self.computed);
        let start = &self.key[0];
        let kept_key = listed(self.key.len(), |n| format!("{} AS key_{n}", self.key[n].column), ", ");
        let computed_key = listed(self.key.len(), |n| self.key[n].computed.to_owned(), ", ");
        let measure = |n: usize| format!("{} AS kept_{n}, 0 AS computed_{n}", self.measures[n].column);
        let kept_measures = listed(self.measures.len(), measure, ", ");
        let computed_measures = listed(
            self.measures.len(),
            |n| format!("0, {}", self.measures[n].computed),
            ", ",
        );
        format!(
            "SELECT {kept_key}, {kept_measures} FROM {table} WHERE {kept_start} BETWEEN $1 AND $2 AND {kept}
             UNION ALL
             SELECT {computed_key}, {computed_measures} FROM request_ledger
             WHERE started_at BETWEEN $3 AND $4 AND {SUMMED} AND {computed_start} BETWEEN $1 AND $2 AND {computed}",
            kept_start = start.column,
            computed_start = start.computed,
        )
    }

    fn key_names(&self) -> String {
        listed(self.key.len(), |n| format!("key_{n}"), ", ")
    }

    fn differs(&self) -> String {
        listed(
            self.measures.len(),
            |n| format!("SUM(kept_{n}) <> SUM(computed_{n})"),
            " OR ",
        )
    }
}

fn listed(count: usize, item: impl Fn(usize) -> String, joint: &str) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(joint)
}
