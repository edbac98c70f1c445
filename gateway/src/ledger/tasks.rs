//! The ledger put together, started and stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ace_migrations::Db;
use ace_policies::config::Config;
use ace_policies::quota::{Calendar, UnknownTimeZone};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::journal::{Journal, JournalError, JournalOptions};
use super::leases::{LeaseError, Leases};
use super::lessor::{Lessor, Turns};
use super::writer::{Desk, Writer, WriterOptions};
use super::{Ledger, LedgerOptions, Parts, recover};
use crate::metrics::Metrics;
use crate::prices::Prices;
use crate::store::Store;

/// How long the last rows may take.
const GRACE: Duration = Duration::from_secs(10);

/// What a ledger needs from outside.
pub struct Around {
    /// The database.
    pub db: Db,
    /// Where the journal is.
    pub folder: PathBuf,
    /// Which gateway this is.
    pub gateway_id: String,
    /// For the limits.
    pub store: Store,
    /// What tokens cost.
    pub prices: Prices,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Why a ledger does not start.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The journal.
    #[error("the journal in {folder} cannot be begun: {error}")]
    Journal {
        /// Where it is.
        folder: PathBuf,
        /// Why.
        error: JournalError,
    },
    /// The database.
    #[error("the ledger's tables cannot be read: {0}")]
    Leases(#[from] LeaseError),
    /// `quota.time_zone`.
    #[error("[quota] time_zone: {0}")]
    TimeZone(#[from] UnknownTimeZone),
}

/// The tasks behind a ledger.
pub struct Tasks {
    journal: Arc<Journal>,
    writer: JoinHandle<()>,
    lessor: JoinHandle<Lessor>,
    give_up: oneshot::Sender<()>,
}

/// Starts a ledger: first it writes what dead processes of this host have left in their journals.
pub async fn start(config: &Config, around: Around) -> Result<(Ledger, Tasks), LedgerError> {
    let Around {
        db,
        folder,
        gateway_id,
        store,
        prices,
        metrics,
    } = around;
    recover(&db, &folder, &gateway_id).await?;
    let instance = Uuid::new_v4();
    let journal = begin_journal(&folder, instance, config).await?;
    let ttl = Duration::from_secs(config.ledger.lease_ttl_s);
    let leases = Arc::new(Leases::new(db, instance.to_string(), gateway_id.clone(), ttl));
    let turns = Arc::new(Turns::default());
    let (lessor, lessees, book) = Lessor::start(leases.clone(), turns.clone(), metrics.clone(), Some(folder)).await?;
    let (ledger, messages) = Ledger::new(Parts {
        book: book.clone(),
        lessees,
        journal: journal.clone(),
        calendar: Calendar::new(&config.quota.time_zone)?,
        prices,
        metrics: metrics.clone(),
        options: LedgerOptions::of(config),
    });
    let desk = Desk {
        leases,
        book,
        turns,
        journal: journal.clone(),
        store,
        metrics,
    };
    let writer = Writer::new(
        desk,
        messages,
        ledger.backlog(),
        WriterOptions::of(config, gateway_id, instance),
    );
    let (give_up, gave_up) = oneshot::channel();
    let writer = tokio::spawn(writer.run(async {
        let _ = gave_up.await;
    }));
    let tasks = Tasks {
        journal,
        writer,
        lessor: tokio::spawn(lessor.run()),
        give_up,
    };
    Ok((ledger, tasks))
}

async fn begin_journal(folder: &std::path::Path, instance: Uuid, config: &Config) -> Result<Arc<Journal>, LedgerError> {
    let options = JournalOptions::from(&config.ledger);
    let path = folder.to_owned();
    let begun = tokio::task::spawn_blocking(move || Journal::start(&path, instance, options)).await;
    let journal = begun.unwrap_or(Err(JournalError::Closed));
    let folder = folder.to_owned();
    journal
        .map(Arc::new)
        .map_err(|error| LedgerError::Journal { folder, error })
}

impl Tasks {
    /// The journal, for its figures.
    pub fn journal(&self) -> Arc<Journal> {
        self.journal.clone()
    }

    /// Ends at once, as a process that is killed.
    #[cfg(test)]
    pub async fn abort(self) {
        self.writer.abort();
        self.lessor.abort();
        let _ = tokio::join!(self.writer, self.lessor);
    }

    /// Waits until every row is written, gives the leases back and ends the journal. The ledger must be dropped before. What cannot be
    /// written in time stays in the journal for the next start.
    pub async fn stop(self) {
        let Self {
            journal,
            mut writer,
            lessor,
            give_up,
        } = self;
        if tokio::time::timeout(GRACE, &mut writer).await.is_err() {
            let _ = give_up.send(());
            let _ = tokio::time::timeout(Duration::from_secs(1), writer).await;
        }
        // What is left to be written is covered by leases, which the next start settles with the journal.
        let left = tokio::task::spawn_blocking(move || journal.close()).await.unwrap_or(0);
        match tokio::time::timeout(GRACE, lessor).await {
            Ok(Ok(lessor)) if left == 0 => lessor.leave().await,
            _ => tracing::warn!(
                records = left,
                "the journal is not empty; the next start goes on with it"
            ),
        }
    }
}

impl LedgerOptions {
    /// Reads the settings from the configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            queue: config.ledger.queue,
            fail_open: config.quota.fail_open,
            default_output: config.quota.default_output_tokens,
            bytes_per_token: config.quota.bytes_per_token,
        }
    }
}

impl WriterOptions {
    /// Reads the settings from the configuration.
    pub fn of(config: &Config, gateway_id: String, instance: Uuid) -> Self {
        let thresholds = [config.quota.warn_percent, config.quota.alert_percent];
        Self {
            batch: config.ledger.batch,
            flush: Duration::from_millis(config.ledger.flush_ms),
            open_after: Duration::from_millis(config.ledger.open_after_ms),
            thresholds: thresholds.into_iter().filter(|percent| *percent > 0).collect(),
            gateway_id,
            instance: instance.to_string(),
        }
    }
}
