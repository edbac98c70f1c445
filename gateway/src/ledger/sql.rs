//! What the ledger's statements have in common.

use ace_migrations::{Db, Engine};
use ace_policies::quota::{Account, Amounts, Bucket, Limit, Period};
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, Row as _};

/// The columns that name a bucket.
pub const BUCKET: &str = "account_kind, account_id, period, period_start";

/// `rows` rows of `columns` parameters. SQLite looks every named parameter up in a list, so that `$1` to `$992` cost more than the rows
/// they insert: there they are nameless.
pub fn values(engine: Engine, columns: usize, rows: usize) -> String {
    let parameter = |number: usize| match engine {
        Engine::Sqlite => "?".to_owned(),
        Engine::Postgres => format!("${number}"),
    };
    let row = |row: usize| {
        let parameters: Vec<_> = (1..=columns).map(|column| parameter(row * columns + column)).collect();
        format!("({})", parameters.join(","))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(",")
}

/// The database's own clock, UTC milliseconds: the one that all nodes agree on.
pub async fn database_now(db: &Db, connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
    let text = match db.engine {
        Engine::Sqlite => "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        Engine::Postgres => "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    };
    sqlx::query_scalar(text).fetch_one(connection).await
}

/// Text that both engines can hold: PostgreSQL has no U+0000, and a client may put one into a model's name.
pub fn storable(text: &str) -> String {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}"),
        false => text.to_owned(),
    }
}

/// Binds a bucket's four columns.
pub fn bind_bucket<'q>(query: Query<'q, Any, AnyArguments>, bucket: &Bucket) -> Query<'q, Any, AnyArguments> {
    let query = query.bind(bucket.account.kind()).bind(bucket.account.id());
    query.bind(bucket.period.as_str()).bind(bucket.start_ms)
}

/// Binds tokens, requests and cost.
pub fn bind_amounts<'q>(query: Query<'q, Any, AnyArguments>, amounts: &Amounts) -> Query<'q, Any, AnyArguments> {
    let query = query.bind(signed(amounts.tokens)).bind(signed(amounts.requests));
    query.bind(signed(amounts.cost_micro_usd))
}

/// The bucket in a row's first four columns.
pub fn read_bucket(row: &AnyRow) -> Result<Bucket, sqlx::Error> {
    let (kind, id, period): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (Some(account), Ok(period)) = (Account::parse(&kind, &id), period.parse::<Period>()) else {
        return Err(sqlx::Error::Decode(format!("no bucket: {kind} {id} {period}").into()));
    };
    let start_ms = row.try_get(3)?;
    Ok(Bucket {
        account,
        period,
        start_ms,
    })
}

/// Tokens, requests and cost in three columns from `at` on.
pub fn read_amounts(row: &AnyRow, at: usize) -> Result<Amounts, sqlx::Error> {
    let amount = |at: usize| Ok::<_, sqlx::Error>(u64::try_from(row.try_get::<i64, _>(at)?).unwrap_or(0));
    Ok(Amounts {
        tokens: amount(at)?,
        requests: amount(at + 1)?,
        cost_micro_usd: amount(at + 2)?,
    })
}

/// A limit in a row's columns name, maximum and dry_run from `at` on; `None` where this program does not know it.
pub fn read_limit(row: &AnyRow, at: usize) -> Result<Option<Limit>, sqlx::Error> {
    let Ok(name) = row.try_get::<String, _>(at)?.parse() else {
        return Ok(None);
    };
    let maximum = u64::try_from(row.try_get::<i64, _>(at + 1)?).unwrap_or(0);
    let dry_run = row.try_get::<i64, _>(at + 2)? != 0;
    Ok(Some(Limit { name, maximum, dry_run }))
}

/// A count as the database holds it.
pub fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
