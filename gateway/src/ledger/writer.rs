//! Writes ledger rows in batches. Each batch is one transaction; a row that is there already is not written again.

use std::time::Duration;

use ace_migrations::{Db, Engine};
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection};
use tokio::sync::mpsc;

use super::{Backlog, Entry, Ledger};

/// Columns of `request_ledger` in the order in which [`bind`] binds them.
const COLUMNS: &str = "request_id, tenant_id, user_id, session_id, machine_id, tool, provider, api_key_id, method, path, model_asked, \
    model_served, status, error_kind, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, \
    reasoning_tokens, audio_input_tokens, audio_output_tokens, usage_source, streamed, ttfb_ms, duration_ms, bytes_in, bytes_out, \
    upstream_request_id, started_at, gateway_id";
const COLUMN_COUNT: usize = 31;
/// Rows of one statement: few enough parameters for both engines, and one prepared statement for most of the work.
const ROWS: usize = 32;
/// The longest pause between two attempts while the database is away.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Settings of the writer.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// The most rows of one transaction.
    pub batch: usize,
    /// How long a row may wait for others.
    pub flush: Duration,
    /// Which gateway wrote a row.
    pub gateway_id: String,
}

/// Takes rows until the ledger is gone, then writes the rest and returns.
pub struct Writer {
    db: Db,
    rows: mpsc::UnboundedReceiver<Entry>,
    backlog: Backlog,
    options: WriterOptions,
    full_statement: String,
}

impl Writer {
    /// A writer for the rows of `ledger`.
    pub fn new(db: Db, ledger: &Ledger, rows: mpsc::UnboundedReceiver<Entry>, options: WriterOptions) -> Self {
        let engine = db.engine;
        Self {
            db,
            rows,
            backlog: ledger.backlog(),
            options,
            full_statement: statement(engine, ROWS),
        }
    }

    /// Writes until every sender is gone and every row is written, or until `give_up` says that it must end.
    pub async fn run(mut self, give_up: impl Future<Output = ()>) {
        tokio::pin!(give_up);
        let mut batch = Vec::with_capacity(self.options.batch);
        while self.collect(&mut batch).await {
            let mut pause = Duration::from_millis(50);
            while let Err(error) = self.write_what_can_be(&batch).await {
                tracing::warn!(%error, rows = batch.len(), "the ledger cannot be written; trying again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(MAX_PAUSE),
                    () = &mut give_up => {
                        tracing::error!(rows = batch.len() + self.rows.len(), "the ledger could not be written before the end");
                        return;
                    }
                }
            }
            self.backlog.written(batch.len());
            batch.clear();
        }
    }

    /// Waits for a first row as long as it takes, then lets others gather. `false` when there will be none.
    ///
    /// Sleeping on the clock and not on the queue: a request that settles has nobody to wake up.
    async fn collect(&mut self, batch: &mut Vec<Entry>) -> bool {
        if self.rows.recv_many(batch, self.options.batch).await == 0 {
            return false;
        }
        if batch.len() + self.rows.len() < self.options.batch && !self.rows.is_closed() {
            tokio::time::sleep(self.options.flush).await;
        }
        while batch.len() < self.options.batch
            && let Ok(row) = self.rows.try_recv()
        {
            batch.push(row);
        }
        true
    }

    /// Writes a batch; where the database refuses it for what is in it, row by row, so that one bad row costs only itself.
    async fn write_what_can_be(&self, batch: &[Entry]) -> Result<(), sqlx::Error> {
        match self.write(batch).await {
            Err(error) if is_about_data(&error) => {}
            result => return result,
        }
        for row in batch {
            match self.write(std::slice::from_ref(row)).await {
                Err(error) if is_about_data(&error) => {
                    tracing::error!(%error, request_id = %row.request_id, "the database refuses a row of the ledger; it is lost");
                }
                result => result?,
            }
        }
        Ok(())
    }

    async fn write(&self, batch: &[Entry]) -> Result<(), sqlx::Error> {
        let mut transaction = self.db.begin_write().await?;
        for rows in batch.chunks(ROWS) {
            self.insert(&mut transaction, rows).await?;
        }
        transaction.commit().await
    }

    async fn insert(&self, connection: &mut AnyConnection, rows: &[Entry]) -> Result<(), sqlx::Error> {
        let partial;
        let text = match rows.len() {
            ROWS => &self.full_statement,
            count => {
                partial = statement(self.db.engine, count);
                &partial
            }
        };
        let mut query = sqlx::query(sqlx::AssertSqlSafe(text.clone()));
        for row in rows {
            query = bind(query, row, &self.options.gateway_id);
        }
        query.execute(connection).await.map(|_| ())
    }
}

/// Whether the same rows would be refused again: classes 22 and 23 of SQLSTATE, and SQLite's codes for too large, constraint and
/// mismatch.
fn is_about_data(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return matches!(error, sqlx::Error::Encode(_));
    };
    error.code().is_some_and(|code| match code.parse::<u32>() {
        Ok(code) if code < 10_000 => matches!(code & 0xff, 18..=20),
        _ => code.starts_with("22") || code.starts_with("23"),
    })
}

/// Text that both engines can hold: PostgreSQL has no U+0000, and a client may put one into a model's name.
fn storable(text: &str) -> String {
    match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}"),
        false => text.to_owned(),
    }
}

/// SQLite looks every named parameter up in a list, so that `$1` to `$992` cost more than the rows they insert: there they are
/// nameless.
fn statement(engine: Engine, rows: usize) -> String {
    let parameter = |number: usize| match engine {
        Engine::Sqlite => "?".to_owned(),
        Engine::Postgres => format!("${number}"),
    };
    let row = |row: usize| {
        let parameters: Vec<_> = (1..=COLUMN_COUNT)
            .map(|column| parameter(row * COLUMN_COUNT + column))
            .collect();
        format!("({})", parameters.join(","))
    };
    let rows: Vec<_> = (0..rows).map(row).collect();
    format!(
        "INSERT INTO request_ledger ({COLUMNS}) VALUES {} ON CONFLICT (request_id) DO NOTHING",
        rows.join(",")
    )
}

fn bind<'q>(query: Query<'q, Any, AnyArguments>, row: &Entry, gateway_id: &str) -> Query<'q, Any, AnyArguments> {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
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
        .bind(count(row.usage.input))
        .bind(count(row.usage.cache_read))
        .bind(count(row.usage.cache_write_5m))
        .bind(count(row.usage.cache_write_1h))
        .bind(count(row.usage.output))
        .bind(count(row.usage.reasoning))
        .bind(count(row.usage.audio_input))
        .bind(count(row.usage.audio_output))
        .bind(row.source.as_str().to_owned())
        .bind(i64::from(row.streamed))
        .bind(row.ttfb_ms.map(count))
        .bind(count(row.duration_ms))
        .bind(count(row.bytes_in))
        .bind(count(row.bytes_out))
        .bind(row.upstream_request_id.as_deref().map(storable))
        .bind(row.started_at_ms)
        .bind(gateway_id.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant as Clock;

    use ace_migrations::testing::test_databases;
    use ace_policies::token::Claims;
    use ace_policies::usage::{Source, Usage};
    use ace_policies::{KeyId, Provider, TenantId, UserId};
    use uuid::Uuid;

    use super::*;
    use crate::clock::request_id;
    use crate::metrics::Metrics;

    fn entry(id: Uuid, output: u64) -> Entry {
        let claims = Claims {
            session: None,
            user: UserId(7),
            tenant: TenantId(1),
            machine: None,
            provider: None,
            tool: "test".to_owned(),
            models: None,
            iat: 0,
            exp: 0,
            jti: Uuid::nil(),
            generation: 0,
        };
        Entry {
            request_id: id,
            claims: Arc::new(claims),
            provider: Provider::Anthropic,
            key: Some(KeyId(3)),
            method: http::Method::POST,
            path: "/v1/messages".to_owned(),
            model_asked: Some("a".to_owned()),
            model_served: None,
            status: 200,
            error_kind: None,
            usage: Usage {
                input: 1,
                output,
                ..Usage::default()
            },
            source: Source::Provider,
            streamed: true,
            started_at_ms: 5,
            ttfb_ms: Some(2),
            duration_ms: 0,
            bytes_in: 10,
            bytes_out: u64::MAX,
            upstream_request_id: None,
        }
    }

    fn ledger(db: &Db) -> (Ledger, Writer) {
        let metrics = Arc::new(Metrics::new().expect("distinct names"));
        let (ledger, rows) = Ledger::new(1_000_000, metrics);
        let options = WriterOptions {
            batch: 512,
            flush: Duration::from_millis(20),
            gateway_id: "g".to_owned(),
        };
        let writer = Writer::new(db.clone(), &ledger, rows, options);
        (ledger, writer)
    }

    async fn sums(db: &Db) -> (i64, i64) {
        sqlx::query_as("SELECT COUNT(*), CAST(COALESCE(SUM(output_tokens), 0) AS BIGINT) FROM request_ledger")
            .fetch_one(&db.read)
            .await
            .expect("readable")
    }

    #[tokio::test]
    async fn every_settled_request_is_one_row_on_both_engines() {
        for database in test_databases().await {
            let (ledger, writer) = ledger(&database.db);
            let backlog = ledger.backlog();
            let writing = tokio::spawn(writer.run(std::future::pending()));
            let started = Clock::now();
            for _ in 0..10_000 {
                drop(ledger.reserve(entry(request_id(5), 2), started).expect("room"));
            }
            drop(ledger);
            writing.await.expect("the writer ends when there is no more to write");
            let rate = 10_000.0 / started.elapsed().as_secs_f64();
            println!("{:?}: {rate:.0} rows/s", database.engine());
            assert_eq!(sums(&database.db).await, (10_000, 20_000), "{:?}", database.engine());
            assert_eq!(backlog.rows(), 0);
        }
    }

    #[tokio::test]
    async fn a_row_that_is_there_is_not_written_again() {
        for database in test_databases().await {
            let id = request_id(5);
            for output in [2, 900] {
                let (ledger, writer) = ledger(&database.db);
                drop(ledger.reserve(entry(id, output), Clock::now()).expect("room"));
                drop(ledger);
                writer.run(std::future::pending()).await;
            }
            assert_eq!(sums(&database.db).await, (1, 2), "{:?}", database.engine());
        }
    }

    #[tokio::test]
    async fn rows_wait_while_the_database_is_away_and_admission_stops_at_the_limit() {
        for database in test_databases().await {
            let away = database.open_again().await;
            away.close().await;
            let metrics = Arc::new(Metrics::new().expect("distinct names"));
            let (ledger, rows) = Ledger::new(2, metrics);
            let options = WriterOptions {
                batch: 8,
                flush: Duration::from_millis(1),
                gateway_id: "g".to_owned(),
            };
            let writer = Writer::new(away, &ledger, rows, options);
            let (give_up, gave_up) = tokio::sync::oneshot::channel::<()>();
            let writing = tokio::spawn(writer.run(async {
                let _ = gave_up.await;
            }));
            for _ in 0..2 {
                drop(ledger.reserve(entry(request_id(5), 1), Clock::now()).expect("room"));
            }
            assert!(
                ledger.reserve(entry(request_id(5), 1), Clock::now()).is_none(),
                "the limit is reached"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(ledger.waiting(), 2);
            drop(give_up);
            writing.await.expect("gives up when told to");
        }
    }
}
