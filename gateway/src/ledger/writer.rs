//! Writes ledger rows in batches. Each batch is one transaction; a row that is there already is not written again.

use std::time::Duration;

use ace_migrations::Db;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection};
use tokio::sync::mpsc;
use tokio::time::Instant;

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
        Self {
            db,
            rows,
            backlog: ledger.backlog(),
            options,
            full_statement: statement(ROWS),
        }
    }

    /// Writes until every sender is gone and every row is written, or until `give_up` says that it must end.
    pub async fn run(mut self, give_up: impl Future<Output = ()>) {
        tokio::pin!(give_up);
        let mut batch = Vec::with_capacity(self.options.batch);
        while self.collect(&mut batch).await {
            let mut pause = Duration::from_millis(50);
            while let Err(error) = self.write(&batch).await {
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

    /// Waits for rows: the first as long as it takes, more for the flush interval. `false` when there will be none.
    async fn collect(&mut self, batch: &mut Vec<Entry>) -> bool {
        if self.rows.recv_many(batch, self.options.batch).await == 0 {
            return false;
        }
        let deadline = Instant::now() + self.options.flush;
        while batch.len() < self.options.batch {
            let room = self.options.batch - batch.len();
            match tokio::time::timeout_at(deadline, self.rows.recv_many(batch, room)).await {
                Ok(1..) => {}
                _ => break,
            }
        }
        true
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
                partial = statement(count);
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

fn statement(rows: usize) -> String {
    let row = |row: usize| {
        let numbers: Vec<_> = (1..=COLUMN_COUNT)
            .map(|column| format!("${}", row * COLUMN_COUNT + column))
            .collect();
        format!("({})", numbers.join(","))
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
        .bind(row.claims.tool.clone())
        .bind(row.provider.as_str().to_owned())
        .bind(row.key.map(|key| key.0))
        .bind(row.method.as_str().to_owned())
        .bind(row.path.clone())
        .bind(row.model_asked.clone())
        .bind(row.model_served.clone())
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
        .bind(row.upstream_request_id.clone())
        .bind(row.started_at_ms)
        .bind(gateway_id.to_owned())
}
