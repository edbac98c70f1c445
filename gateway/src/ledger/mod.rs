//! The ledger: every request of a known caller is one row, is charged once, and never passes a hard limit.
//!
//! A [`Reservation`] is a request's place in the ledger, and dropping it settles it, so that no way out of a request forgets its row.
//! [`Reservation::admit`] takes what it may use out of the leases in the [`book`] and puts it into the [`journal`]; both are local.
//! Rows go through a queue to the [`writer`], and the [`lessor`] keeps the book in leases, off the hot path.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ace_policies::quota::{Amounts, Calendar, Day};
use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use self::book::{Book, Denial, Reserved, Shortage};
use self::charge::{Charge, leave_out_dry_runs};
use self::journal::Journal;
use self::lessor::Lessees;
use self::row::{Entry, Row};
use self::writer::Message;
use crate::clock::now_ms;
use crate::metrics::Metrics;
use crate::prices::Prices;
use crate::refusal::{Refusal, Spent};

pub mod book;
pub mod charge;
mod estate;
mod insert;
pub mod journal;
pub mod leases;
pub mod lessor;
mod opened;
mod reservation;
pub mod row;
mod sql;
mod sums;
pub mod tasks;
#[cfg(test)]
mod tests;
pub mod writer;

pub use estate::recover;
pub use reservation::{Estimate, Reservation, millis};

/// How often a request asks for leases before it is told to come again: others may take them from under it.
const ATTEMPTS: usize = 8;
/// How long a caller is told to wait when the ledger takes nobody.
const RETRY_AFTER_S: u64 = 5;

/// Settings of the ledger's hot path.
#[derive(Debug, Clone)]
pub struct LedgerOptions {
    /// Rows that may wait for the writer.
    pub queue: usize,
    /// Whether requests go through when leases cannot be had.
    pub fail_open: bool,
    /// Output tokens that are reserved where the request does not limit them.
    pub default_output: u64,
    /// Bytes that are taken for one token.
    pub bytes_per_token: u64,
}

/// Admits requests, and takes their rows for the writer. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Ledger {
    rows: mpsc::UnboundedSender<Message>,
    shared: Arc<Shared>,
}

struct Shared {
    waiting: Arc<AtomicUsize>,
    book: Arc<Book>,
    lessees: Lessees,
    journal: Arc<Journal>,
    calendar: Calendar,
    today: ArcSwap<Day>,
    prices: Prices,
    metrics: Arc<Metrics>,
    options: LedgerOptions,
}

/// What a ledger is made of.
pub struct Parts {
    /// Leases in memory.
    pub book: Arc<Book>,
    /// Who gets more of them.
    pub lessees: Lessees,
    /// The local journal.
    pub journal: Arc<Journal>,
    /// Where days begin.
    pub calendar: Calendar,
    /// What tokens cost.
    pub prices: Prices,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub options: LedgerOptions,
}

impl Ledger {
    /// A ledger, and the receiving end for its writer.
    pub fn new(parts: Parts) -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (rows, receiver) = mpsc::unbounded_channel();
        let shared = Shared {
            waiting: Arc::default(),
            book: parts.book,
            lessees: parts.lessees,
            journal: parts.journal,
            calendar: parts.calendar,
            today: ArcSwap::default(),
            prices: parts.prices,
            metrics: parts.metrics,
            options: parts.options,
        };
        let shared = Arc::new(shared);
        (Self { rows, shared }, receiver)
    }

    /// To be called by a thread whenever it has nothing left to do.
    pub fn rest(&self) {
        self.shared.journal.rest();
    }

    /// Rows that are not in the database yet.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// The same figure for somebody who must not keep the ledger open.
    pub fn backlog(&self) -> Backlog {
        Backlog(self.shared.waiting.clone())
    }

    /// Whether so many rows wait that no more requests are taken.
    pub fn is_full(&self) -> bool {
        self.waiting() >= self.shared.options.queue
    }

    /// Begins a request's row; `None` while too many rows wait: what cannot be recorded is not admitted.
    pub fn record(&self, entry: Entry, started: Instant) -> Option<Reservation> {
        (!self.is_full()).then(|| Reservation::new(entry, started, self.clone()))
    }

    /// The day that a moment falls into. Asked for every request and different once a day.
    fn day(&self, at_ms: i64) -> Day {
        let today = **self.shared.today.load();
        if today.holds(at_ms) {
            return today;
        }
        let day = self.shared.calendar.day(at_ms);
        self.shared.today.store(Arc::new(day));
        day
    }

    /// Takes charges out of the leases, asking for more where there are too few. `taking` is tried until it has what it needs.
    async fn take(&self, mut taking: impl FnMut(&Book, Instant) -> Result<Reserved, Shortage>) -> Result<(), Untaken> {
        for _ in 0..ATTEMPTS {
            match taking(&self.shared.book, Instant::now()) {
                Ok(reserved) => {
                    self.note(reserved);
                    return Ok(());
                }
                Err(Shortage::Denied(denial)) => return Err(Untaken::Refused(self.refuse(&denial))),
                Err(Shortage::Expired) => return Err(Untaken::Away),
                Err(Shortage::Ask(wants)) => self.shared.lessees.ask(wants).await.map_err(|_| Untaken::Away)?,
            }
        }
        let busy = unavailable("Too many requests share what is left of a limit; try again");
        Err(Untaken::Refused(busy))
    }

    /// Takes a request's charges. Where leases cannot be had, dry runs refuse nobody, and the configuration may say the same of all.
    async fn admit(&self, charges: &mut Vec<Charge>) -> Result<(), Refusal> {
        if charges.is_empty() {
            return Ok(());
        }
        match self.take(|book, now| book.reserve(charges, now)).await {
            Ok(()) => return Ok(()),
            Err(Untaken::Refused(refusal)) => return Err(refusal),
            Err(Untaken::Away) => {}
        }
        if leave_out_dry_runs(charges) && self.take(|book, now| book.reserve(charges, now)).await.is_ok() {
            return Ok(());
        }
        charges.clear();
        self.go_on_trust()
    }

    /// Takes charges where that is possible without waiting, and asks for what is missing.
    fn take_now(&self, charges: &mut [Charge], more: Amounts) -> bool {
        match self.shared.book.extend(charges, more, Instant::now()) {
            Ok(reserved) => {
                self.note(reserved);
                true
            }
            Err(Shortage::Ask(wants)) => {
                // Whoever cannot be asked now is asked when the stream waits for it.
                let _ = self.shared.lessees.ask_ahead(wants);
                false
            }
            Err(_) => false,
        }
    }

    fn note(&self, reserved: Reserved) {
        for denial in &reserved.would_refuse {
            let (account, limit, used) = (denial.account, denial.limit, denial.used);
            tracing::info!(%account, limit = %limit.name, used, maximum = limit.maximum, "dry run: the request would be refused");
            self.shared.metrics.quota_dry_run(limit.name);
        }
        if !reserved.ahead.is_empty()
            && let Err(wants) = self.shared.lessees.ask_ahead(reserved.ahead)
        {
            self.shared.book.unasked(wants.iter().map(|want| want.bucket));
        }
    }

    fn refuse(&self, denial: &Denial) -> Refusal {
        self.shared.metrics.quota_refused(denial.limit.name);
        let spent = Spent {
            account: denial.account,
            limit: denial.limit.name,
            used: denial.used,
            reserved: denial.reserved,
            maximum: denial.limit.maximum,
            resets_at_ms: denial.resets_ms,
        };
        spent.refusal(now_ms())
    }

    /// What becomes of a request that no lease is to be had for.
    fn go_on_trust(&self) -> Result<(), Refusal> {
        if self.shared.options.fail_open {
            self.shared.metrics.quota_failed_open.inc();
            return Ok(());
        }
        Err(unavailable("The gateway cannot reach its database to check the limits"))
    }

    fn settle(&self, row: Row) {
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        if self.rows.send(Message::Settled(row)).is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            tracing::error!("the ledger's writer is gone; the row is in the journal");
        }
    }
}

/// Why charges were not taken.
enum Untaken {
    /// A limit is spent.
    Refused(Refusal),
    /// The database cannot be asked.
    Away,
}

/// How many rows wait to be written.
#[derive(Clone)]
pub struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    /// Rows that are not in the database yet.
    pub fn rows(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn written(&self, rows: usize) {
        self.0.fetch_sub(rows, Ordering::Relaxed);
    }
}

fn unavailable(message: &'static str) -> Refusal {
    Refusal::Unavailable {
        message,
        retry_after_s: RETRY_AFTER_S,
    }
}
