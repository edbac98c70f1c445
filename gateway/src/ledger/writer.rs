//! Writes the ledger's rows in batches, and with them every sum that they add to. Each batch is one transaction; a row that is there
//! already is neither written nor counted again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ace_migrations::Db;
use ace_policies::quota::{Amounts, Bucket, passed};
use sqlx::AnyConnection;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Backlog;
use super::book::Book;
use super::insert::{delete, insert, lost_entries};
use super::journal::{Journal, Kept, Opened};
use super::leases::Leases;
use super::lessor::Turns;
use super::opened::OpenRequests;
use super::row::Row;
use super::sql::{database_now, signed, values};
use super::sums::{Settled, Sums};
use crate::metrics::Metrics;
use crate::store::Store;

/// The longest pause between two attempts while the database is away.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long one batch may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the ledger tells its writer.
pub enum Message {
    /// A request was admitted.
    Opened(Uuid, Kept),
    /// A request has settled.
    Settled(Row),
}

/// Settings of the writer.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// The most rows of one transaction.
    pub batch: usize,
    /// How long a row may wait for others.
    pub flush: Duration,
    /// How long a request may be under way before the database is told.
    pub open_after: Duration,
    /// Percent of a limit at which events are raised.
    pub thresholds: Vec<u8>,
    /// Which gateway wrote a row.
    pub gateway_id: String,
    /// Which process of it.
    pub instance: String,
}

/// What the writer works with.
pub struct Desk {
    /// The leases that cover rows.
    pub leases: Arc<Leases>,
    /// What this process holds of them.
    pub book: Arc<Book>,
    /// Whose turn it is.
    pub turns: Arc<Turns>,
    /// Where rows are until the database has them.
    pub journal: Arc<Journal>,
    /// For the limits.
    pub store: Store,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Takes rows until the ledger is gone, then writes the rest and returns.
pub struct Writer {
    desk: Desk,
    messages: mpsc::UnboundedReceiver<Message>,
    open: OpenRequests,
    backlog: Backlog,
    options: WriterOptions,
}

/// What is written together.
#[derive(Default)]
struct Batch {
    rows: Vec<Row>,
    /// Requests that have become long.
    due: Vec<Opened>,
    /// Long ones that have settled.
    done: Vec<Uuid>,
}

/// A bucket's use, written, and what of it the lease covered.
type Covered = (Bucket, Amounts, Amounts);

impl Writer {
    /// A writer for what comes out of `messages`.
    pub fn new(
        desk: Desk,
        messages: mpsc::UnboundedReceiver<Message>,
        backlog: Backlog,
        options: WriterOptions,
    ) -> Self {
        let open = OpenRequests::new(options.open_after);
        Self {
            desk,
            messages,
            open,
            backlog,
            options,
        }
    }

    /// Writes until every sender is gone and every row is written, or until `give_up` says that it must end.
    pub async fn run(mut self, give_up: impl Future<Output = ()>) {
        tokio::pin!(give_up);
        while let Some(batch) = self.collect().await {
            let mut pause = Duration::from_millis(50);
            while let Err(error) = self.write_what_can_be(&batch).await {
                self.desk.turns.doubt();
                tracing::warn!(%error, rows = batch.rows.len(), waiting = self.backlog.rows(), "the ledger cannot be written; trying again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(MAX_PAUSE),
                    () = &mut give_up => {
                        tracing::error!(rows = self.backlog.rows(), "the ledger could not be written before the end; the journal has it");
                        return;
                    }
                }
            }
            self.desk.journal.forget(batch.rows.iter().filter_map(|row| row.seat));
            self.backlog.written(batch.rows.len());
        }
    }

    /// Waits for something to write, then lets others gather. `None` when there will be nothing more.
    ///
    /// Sleeping on the clock and not on the queue: a request that settles has nobody to wake up.
    async fn collect(&mut self) -> Option<Batch> {
        let mut messages = Vec::with_capacity(self.options.batch);
        let due = self.open.next_due();
        let received = tokio::select! {
            count = self.messages.recv_many(&mut messages, self.options.batch) => count,
            () = until(due) => usize::MAX,
        };
        if received == 0 {
            return None;
        }
        if messages.len() + self.messages.len() < self.options.batch && !self.messages.is_closed() {
            tokio::time::sleep(self.options.flush).await;
        }
        while messages.len() < self.options.batch
            && let Ok(message) = self.messages.try_recv()
        {
            messages.push(message);
        }
        Some(self.sort(messages))
    }

    fn sort(&mut self, messages: Vec<Message>) -> Batch {
        let now = Instant::now();
        let mut batch = Batch::default();
        for message in messages {
            match message {
                Message::Opened(id, opened) => self.open.open(id, opened, now),
                Message::Settled(row) => {
                    if self.open.settle(&row.entry.request_id) {
                        batch.done.push(row.entry.request_id);
                    }
                    batch.rows.push(row);
                }
            }
        }
        batch.due = self.open.due(now);
        batch
    }

    /// Writes a batch; where the database refuses it for what is in it, row by row, so that one bad row costs only itself.
    async fn write_what_can_be(&self, batch: &Batch) -> Result<(), sqlx::Error> {
        if batch.rows.is_empty() && batch.due.is_empty() {
            return Ok(());
        }
        match self.write(&batch.rows, batch).await {
            Err(error) if is_about_data(&error) => {}
            result => return result,
        }
        self.write(&[], batch).await?;
        for row in &batch.rows {
            match self.write(std::slice::from_ref(row), &Batch::default()).await {
                Err(error) if is_about_data(&error) => {
                    tracing::error!(%error, request_id = %row.entry.request_id, "the database refuses a row of the ledger; it is lost");
                    self.desk.metrics.ledger_rows_lost.inc();
                }
                result => result?,
            }
        }
        Ok(())
    }

    async fn write(&self, rows: &[Row], batch: &Batch) -> Result<(), sqlx::Error> {
        let _turn = self.desk.turns.take().await;
        let written = tokio::time::timeout(PATIENCE, self.transact(rows, batch)).await;
        for (bucket, used, covered) in written.unwrap_or(Err(sqlx::Error::PoolTimedOut))? {
            self.desk.book.written(&bucket, used, covered);
        }
        Ok(())
    }

    async fn transact(&self, rows: &[Row], batch: &Batch) -> Result<Vec<Covered>, sqlx::Error> {
        let mut transaction = self.desk.leases.db().begin_write().await?;
        let settled = record(self.desk.leases.db(), &mut transaction, rows, &self.options.gateway_id).await?;
        let covered = self.cover(&mut transaction, &settled).await?;
        self.raise_events(&mut transaction, &settled).await?;
        self.tell_open(&mut transaction, batch).await?;
        transaction.commit().await?;
        Ok(covered)
    }

    /// Takes what requests have used out of the leases that were held for them.
    async fn cover(&self, connection: &mut AnyConnection, settled: &[Settled]) -> Result<Vec<Covered>, sqlx::Error> {
        let mut covered = Vec::new();
        for Settled { bucket, added, .. } in settled.iter().filter(|settled| !settled.added.leased.is_zero()) {
            let by = self.desk.leases.cover(connection, bucket, added.leased).await?;
            covered.push((*bucket, added.leased, by));
        }
        Ok(covered)
    }

    /// Tells once of every soft threshold that was passed.
    async fn raise_events(&self, connection: &mut AnyConnection, settled: &[Settled]) -> Result<(), sqlx::Error> {
        for Settled { bucket, added, total } in settled {
            let limits = self.desk.store.snapshot().limits.of(&bucket.account).to_vec();
            for limit in limits.iter().filter(|limit| limit.name.period() == bucket.period) {
                let metric = limit.name.metric();
                let after = total.of(metric);
                let before = after.saturating_sub(u64::try_from(added.all[metric as usize]).unwrap_or(0));
                for percent in passed(&self.options.thresholds, limit.maximum, before, after) {
                    tracing::warn!(account = %bucket.account, limit = %limit.name, percent, used = after, maximum = limit.maximum,
                        dry_run = limit.dry_run, "a limit is nearly reached");
                    self.desk.metrics.quota_threshold(limit.name, percent);
                    insert_event(connection, self.desk.leases.db(), bucket, limit, percent, after).await?;
                }
            }
        }
        Ok(())
    }

    async fn tell_open(&self, connection: &mut AnyConnection, batch: &Batch) -> Result<(), sqlx::Error> {
        let engine = self.desk.leases.db().engine;
        for opened in batch.due.chunks(64) {
            let values = values(engine, 3, opened.len());
            let text = format!(
                "INSERT INTO open_requests (request_id, instance_id, opened) VALUES {values} ON CONFLICT (request_id) DO NOTHING"
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
            for opened in opened {
                let json = serde_json::to_string(opened).map_err(|error| sqlx::Error::Encode(error.into()))?;
                let json = super::sql::storable(&json.replace("\\u0000", "\\ufffd"));
                query = query
                    .bind(opened.request_id.to_string())
                    .bind(self.options.instance.clone())
                    .bind(json);
            }
            query.execute(&mut *connection).await?;
        }
        for done in batch.done.chunks(64) {
            let values = values(engine, done.len(), 1);
            let text = format!("DELETE FROM open_requests WHERE request_id IN {values}");
            let query = sqlx::query(sqlx::AssertSqlSafe(text));
            let query = done.iter().fold(query, |query, id| query.bind(id.to_string()));
            query.execute(&mut *connection).await?;
        }
        Ok(())
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Inserts the rows that are not there yet, and adds them to the sums. A row that was only estimated, because its gateway was taken for
/// dead, gives way to the truth.
pub async fn record(
    db: &Db,
    connection: &mut AnyConnection,
    rows: &[Row],
    gateway_id: &str,
) -> Result<Vec<Settled>, sqlx::Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut new = insert(db.engine, connection, rows, gateway_id).await?;
    let mut lost = Vec::new();
    if new.len() < rows.len() {
        let known: Vec<&Row> = rows.iter().filter(|row| !new.contains(&row.entry.request_id)).collect();
        lost = lost_entries(connection, &known).await?;
    }
    let mut sums = Sums::default();
    for (row, lost) in &lost {
        delete(connection, &lost.request_id).await?;
        sums.take_back(lost);
        new.extend(insert(db.engine, connection, std::slice::from_ref(*row), gateway_id).await?);
    }
    let mut seen = HashSet::with_capacity(new.len());
    for row in rows.iter().filter(|row| new.contains(&row.entry.request_id)) {
        if seen.insert(row.entry.request_id) {
            sums.add(row);
        }
    }
    let now = database_now(db, connection).await?;
    sums.write(connection, db.engine, now).await
}

async fn insert_event(
    connection: &mut AnyConnection,
    db: &Db,
    bucket: &Bucket,
    limit: &ace_policies::quota::Limit,
    percent: u8,
    used: u64,
) -> Result<(), sqlx::Error> {
    let text = "INSERT INTO quota_events (at, account_kind, account_id, limit_name, period_start, percent, used, maximum, dry_run)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";
    let now = database_now(db, connection).await?;
    sqlx::query(text)
        .bind(now)
        .bind(bucket.account.kind())
        .bind(bucket.account.id())
        .bind(limit.name.as_str())
        .bind(bucket.start_ms)
        .bind(i64::from(percent))
        .bind(signed(used))
        .bind(signed(limit.maximum))
        .bind(i64::from(limit.dry_run))
        .execute(connection)
        .await
        .map(drop)
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
