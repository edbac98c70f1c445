//! Rows of `request_ledger`: inserting them, and looking up those that were only estimated.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use ace_migrations::Engine;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, Row as _};
use uuid::Uuid;

use super::row::{Entry, LOST, Row};
use super::sql::{signed, storable, values};

/// Columns of `request_ledger` in the order in which [`bind`] binds them.
const COLUMNS: &str = "request_id, tenant_id, user_id, session_id, machine_id, tool, provider, api_key_id, method, path, model_asked, \
    model_served, status, error_kind, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, \
    reasoning_tokens, audio_input_tokens, audio_output_tokens, usage_source, streamed, ttfb_ms, duration_ms, bytes_in, bytes_out, \
    upstream_request_id, started_at, gateway_id, cost_micro_usd, price, service_tier, charged_requests, day_start, month_start";
const COLUMN_COUNT: usize = 37;
/// The most rows of one statement, a power of two. Each statement is a trip to the database and back: with 32 rows it takes a third of
/// the time, with more than 128 hardly less.
const ROWS: usize = 128;

/// Inserts the rows whose ids are not there yet, and says which they were.
///
/// Nearly always all of them are new. Which are is asked for only when one is not: to be told costs as much as to insert.
pub async fn insert(
    engine: Engine,
    connection: &mut AnyConnection,
    rows: &[Row],
    gateway_id: &str,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    sqlx::query("SAVEPOINT rows_of_the_ledger")
        .execute(&mut *connection)
        .await?;
    let mut inserted = 0;
    for chunk in statements(rows) {
        let text = statement(engine, chunk.len());
        let query = sqlx::query(sqlx::AssertSqlSafe(text));
        inserted += bind_all(query, chunk, gateway_id)
            .execute(&mut *connection)
            .await?
            .rows_affected();
    }
    if inserted == rows.len() as u64 {
        sqlx::query("RELEASE SAVEPOINT rows_of_the_ledger")
            .execute(&mut *connection)
            .await?;
        return Ok(rows.iter().map(|row| row.entry.request_id).collect());
    }
    sqlx::query("ROLLBACK TO SAVEPOINT rows_of_the_ledger")
        .execute(&mut *connection)
        .await?;
    insert_telling(engine, connection, rows, gateway_id).await
}

/// Rows by statement: as many as fit, then a power of two each, so that there are few statements to be prepared.
fn statements(mut rows: &[Row]) -> impl Iterator<Item = &[Row]> {
    std::iter::from_fn(move || {
        let (statement, rest) = rows.split_at(1 << rows.len().min(ROWS).checked_ilog2()?);
        rows = rest;
        Some(statement)
    })
}

async fn insert_telling(
    engine: Engine,
    connection: &mut AnyConnection,
    rows: &[Row],
    gateway_id: &str,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let mut new = HashSet::with_capacity(rows.len());
    for chunk in statements(rows) {
        let text = format!("{} RETURNING request_id", statement(engine, chunk.len()));
        let query = sqlx::query(sqlx::AssertSqlSafe(text));
        for row in bind_all(query, chunk, gateway_id).fetch_all(&mut *connection).await? {
            new.extend(row.try_get::<String, _>(0)?.parse::<Uuid>());
        }
    }
    Ok(new)
}

fn bind_all<'q>(query: Query<'q, Any, AnyArguments>, rows: &[Row], gateway_id: &str) -> Query<'q, Any, AnyArguments> {
    rows.iter()
        .fold(query, |query, row| bind(query, &row.entry, gateway_id))
}

/// Of rows that are there already, those that stand for a gateway that was taken for dead, with what was charged for them.
pub async fn lost_entries<'r>(
    connection: &mut AnyConnection,
    rows: &[&'r Row],
) -> Result<Vec<(&'r Row, Entry)>, sqlx::Error> {
    let mut lost = Vec::new();
    for row in rows.iter().filter(|row| row.entry.error_kind != Some(LOST)) {
        let text = "SELECT * FROM request_ledger WHERE request_id = $1 AND error_kind = $2";
        let query = sqlx::query(text).bind(row.entry.request_id.to_string()).bind(LOST);
        if let Some(found) = query.fetch_optional(&mut *connection).await? {
            lost.push((*row, charged(&found, &row.entry)?));
        }
    }
    Ok(lost)
}

/// Deletes a row that another takes the place of.
pub async fn delete(connection: &mut AnyConnection, id: &Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM request_ledger WHERE request_id = $1")
        .bind(id.to_string())
        .execute(connection)
        .await
        .map(drop)
}

/// What a row in the database was charged with; who it was charged to is what the truth says.
fn charged(row: &AnyRow, truth: &Entry) -> Result<Entry, sqlx::Error> {
    let count = |column: &str| Ok::<_, sqlx::Error>(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0));
    let mut entry = truth.clone();
    entry.model_served = row.try_get("model_served")?;
    entry.status = u16::try_from(row.try_get::<i64, _>("status")?).unwrap_or(0);
    entry.error_kind = Some(LOST);
    entry.usage.input = count("input_tokens")?;
    entry.usage.cache_read = count("cache_read_tokens")?;
    entry.usage.cache_write_5m = count("cache_write_5m_tokens")?;
    entry.usage.cache_write_1h = count("cache_write_1h_tokens")?;
    entry.usage.output = count("output_tokens")?;
    entry.usage.reasoning = count("reasoning_tokens")?;
    entry.usage.audio_input = count("audio_input_tokens")?;
    entry.usage.audio_output = count("audio_output_tokens")?;
    entry.source = row.try_get::<String, _>("usage_source")?.parse().unwrap_or_default();
    entry.ttfb_ms = row
        .try_get::<Option<i64>, _>("ttfb_ms")?
        .and_then(|ms| u64::try_from(ms).ok());
    entry.duration_ms = count("duration_ms")?;
    entry.cost_micro_usd = count("cost_micro_usd")?;
    entry.charged_requests = count("charged_requests")?;
    Ok(entry)
}

/// The statement for so many rows. Its text is long, and wanted some hundred times a second.
fn statement(engine: Engine, rows: usize) -> Arc<str> {
    const LENGTHS: usize = ROWS.ilog2() as usize + 1;
    static TEXTS: [[OnceLock<Arc<str>>; LENGTHS]; 2] = [const { [const { OnceLock::new() }; LENGTHS] }; 2];
    let write = || {
        let values = values(engine, COLUMN_COUNT, rows);
        format!("INSERT INTO request_ledger ({COLUMNS}) VALUES {values} ON CONFLICT (request_id) DO NOTHING").into()
    };
    TEXTS[engine as usize][rows.ilog2() as usize].get_or_init(write).clone()
}

fn bind<'q>(query: Query<'q, Any, AnyArguments>, row: &Entry, gateway_id: &str) -> Query<'q, Any, AnyArguments> {
    query
        .bind(row.request_id.to_string())
        .bind(row.claims.tenant.0)
        .bind(row.claims.user.0)
        .bind(row.claims.session.map(|session| session.to_string()))
        .bind(row.claims.machine.map(|machine| machine.to_string()))
        .bind(storable(&row.claims.tool))
        .bind(row.provider.as_str().to_owned())
        .bind(row.key.map(|key| key.0))
        .bind(row.method.as_str().to_owned())
        .bind(storable(&row.path))
        .bind(row.model_asked.as_deref().map(storable))
        .bind(row.model_served.as_deref().map(storable))
        .bind(i64::from(row.status))
        .bind(row.error_kind.map(str::to_owned))
        .bind(signed(row.usage.input))
        .bind(signed(row.usage.cache_read))
        .bind(signed(row.usage.cache_write_5m))
        .bind(signed(row.usage.cache_write_1h))
        .bind(signed(row.usage.output))
        .bind(signed(row.usage.reasoning))
        .bind(signed(row.usage.audio_input))
        .bind(signed(row.usage.audio_output))
        .bind(row.source.as_str().to_owned())
        .bind(i64::from(row.streamed))
        .bind(row.ttfb_ms.map(signed))
        .bind(signed(row.duration_ms))
        .bind(signed(row.bytes_in))
        .bind(signed(row.bytes_out))
        .bind(row.upstream_request_id.as_deref().map(storable))
        .bind(row.started_at_ms)
        .bind(gateway_id.to_owned())
        .bind(signed(row.cost_micro_usd))
        .bind(row.price.as_deref().map(storable))
        .bind(row.service_tier.as_deref().map(storable))
        .bind(signed(row.charged_requests))
        .bind(row.day.start_ms)
        .bind(row.day.month_start_ms)
}
