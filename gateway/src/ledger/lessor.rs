//! The lessor: the task that keeps the book in leases, gives back what is not needed, and settles the estate of processes that died.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ace_policies::quota::Bucket;
use tokio::sync::{mpsc, oneshot};

use super::book::{Book, Idle, Want};
use super::estate;
use super::leases::{Demand, LeaseError, Leases};
use crate::clock::now_ms;
use crate::metrics::Metrics;

/// How long one conversation with the database may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a request waits for leases.
const WAIT: Duration = Duration::from_secs(5);
/// Between two rounds of housekeeping.
const ROUND: Duration = Duration::from_secs(1);
/// How long something may lie idle before others may have it.
const IDLE: Duration = Duration::from_secs(10);
/// After a failure nobody waits for this long: it would only fail again.
const AWAY: Duration = Duration::from_millis(500);
/// Asks that are answered together.
const TOGETHER: usize = 256;

/// One that wants leases, and waits for them or not.
struct Ask {
    wants: Vec<Want>,
    done: Option<oneshot::Sender<()>>,
}

/// Asks the lessor.
#[derive(Clone)]
pub struct Lessees {
    asks: mpsc::Sender<Ask>,
}

/// The database did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away;

impl Lessees {
    /// Asks and waits, for a bounded time, until the book holds the answers.
    pub async fn ask(&self, wants: Vec<Want>) -> Result<(), Away> {
        let (done, wait) = oneshot::channel();
        let ask = Ask {
            wants,
            done: Some(done),
        };
        self.asks.try_send(ask).map_err(|_| Away)?;
        match tokio::time::timeout(WAIT, wait).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Away),
        }
    }

    /// Asks for what will be needed soon. Gives back what could not be asked.
    pub fn ask_ahead(&self, wants: Vec<Want>) -> Result<(), Vec<Want>> {
        use mpsc::error::TrySendError::{Closed, Full};
        self.asks
            .try_send(Ask { wants, done: None })
            .map_err(|(Full(ask) | Closed(ask))| ask.wants)
    }
}

/// Who talks to the database about leases or rows does it alone: between a transaction and the book's note of it, nobody else reads the
/// leases.
#[derive(Default)]
pub struct Turns {
    turn: tokio::sync::Mutex<()>,
    doubtful: AtomicBool,
}

impl Turns {
    /// Takes the turn.
    pub async fn take(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Notes that a transaction may or may not have happened.
    pub fn doubt(&self) {
        self.doubtful.store(true, Ordering::Relaxed);
    }
}

/// Keeps the book in leases; runs on the store's runtime.
pub struct Lessor {
    leases: Arc<Leases>,
    book: Arc<Book>,
    turns: Arc<Turns>,
    metrics: Arc<Metrics>,
    asks: mpsc::Receiver<Ask>,
    /// Where dead processes of this host have left their journals.
    journals: Option<PathBuf>,
    beaten: Instant,
    away_until: Option<Instant>,
}

impl Lessor {
    /// Joins those who hold leases. An error here is one at the start: the database must be there then.
    pub async fn start(
        leases: Arc<Leases>,
        turns: Arc<Turns>,
        metrics: Arc<Metrics>,
        journals: Option<PathBuf>,
    ) -> Result<(Self, Lessees, Arc<Book>), LeaseError> {
        let beaten = Instant::now();
        leases.join().await?;
        let book = Arc::new(Book::new(beaten + leases.ttl()));
        let (sender, asks) = mpsc::channel(16 * 1024);
        let lessor = Self {
            leases,
            book: book.clone(),
            turns,
            metrics,
            asks,
            journals,
            beaten,
            away_until: None,
        };
        Ok((lessor, Lessees { asks: sender }, book))
    }

    /// Serves until nobody can ask any more. Leases are kept: [`Lessor::leave`] gives them back, when the rows are written.
    pub async fn run(mut self) -> Self {
        let mut rounds = tokio::time::interval(ROUND.min(self.leases.ttl() / 5));
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asked = Vec::with_capacity(TOGETHER);
        loop {
            tokio::select! {
                count = self.asks.recv_many(&mut asked, TOGETHER) => match count {
                    0 => return self,
                    _ => self.serve(std::mem::take(&mut asked)).await,
                },
                _ = rounds.tick() => self.round().await,
            }
        }
    }

    /// Gives everything back.
    pub async fn leave(self) {
        let _turn = self.turns.take().await;
        if let Err(error) = patiently(self.leases.leave()).await {
            tracing::warn!(%error, "the leases could not be given back; they expire");
        }
    }

    async fn serve(&mut self, asked: Vec<Ask>) {
        let (mut wants, mut waiting) = (Vec::new(), Vec::new());
        for ask in asked {
            wants.extend(ask.wants);
            waiting.extend(ask.done);
        }
        let buckets: Vec<_> = wants.iter().map(|want| want.bucket).collect();
        if self.away_until.is_some_and(|until| Instant::now() < until) {
            // Whoever is turned away here does not make it longer.
            return self.book.unasked(buckets.into_iter());
        }
        match self.ask(wants).await {
            Ok(()) => {
                self.away_until = None;
                for waiter in waiting {
                    let _ = waiter.send(());
                }
            }
            Err(error) => {
                self.failed(&error, "leases cannot be taken").await;
                self.away_until = Some(Instant::now() + AWAY);
                self.book.unasked(buckets.into_iter());
            }
        }
    }

    async fn ask(&mut self, wants: Vec<Want>) -> Result<(), LeaseError> {
        let asked_at = Instant::now();
        {
            let _turn = self.turns.take().await;
            self.settle_doubts().await?;
            for answer in patiently(self.leases.ask(demands(wants))).await? {
                self.metrics.leases_asked.inc();
                self.book
                    .answer(&answer.want, answer.granted, answer.denials, Instant::now());
            }
        }
        self.beaten(asked_at);
        Ok(())
    }

    /// Sets the book right after a transaction of which nobody knows whether it happened. Only within a turn.
    async fn settle_doubts(&self) -> Result<(), LeaseError> {
        if self.turns.doubtful.load(Ordering::Relaxed) {
            let leases = patiently(self.leases.all()).await?;
            self.book.resync(&leases);
            self.turns.doubtful.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn round(&mut self) {
        if let Err(error) = self.keep_house().await {
            self.failed(&error, "leases cannot be kept").await;
        }
    }

    async fn keep_house(&mut self) -> Result<(), LeaseError> {
        let rests = self.book.sweep(now_ms(), Instant::now(), IDLE);
        if !rests.is_empty() {
            self.release(&rests).await?;
        }
        if self.beaten.elapsed() < self.leases.ttl() / 5 {
            return Ok(());
        }
        let at = Instant::now();
        {
            let _turn = self.turns.take().await;
            self.settle_doubts().await?;
            patiently(self.leases.beat()).await?;
        }
        self.beaten(at);
        self.settle_estates().await
    }

    async fn release(&self, rests: &[Idle]) -> Result<(), LeaseError> {
        let _turn = self.turns.take().await;
        self.settle_doubts().await?;
        patiently(self.leases.release(rests)).await
    }

    /// What dead processes have left: first those of this host, whose journals tell everything, then those that nobody brings back.
    async fn settle_estates(&self) -> Result<(), LeaseError> {
        if let Some(folder) = &self.journals {
            estate::recover(self.leases.db(), folder, self.leases.gateway_id()).await?;
        }
        for instance in self.leases.dead(self.leases.ttl()).await? {
            estate::give_up(&self.leases, &instance).await?;
        }
        estate::clear_old_minutes(self.leases.db()).await
    }

    fn beaten(&mut self, at: Instant) {
        self.beaten = at;
        self.book.good_until(at + self.leases.ttl());
    }

    async fn failed(&mut self, error: &LeaseError, what: &'static str) {
        self.turns.doubt();
        if !matches!(error, LeaseError::Dead) {
            tracing::warn!(%error, what);
            return;
        }
        tracing::error!(
            "the database was away for so long that the leases of this process were given to others; starting anew"
        );
        let at = Instant::now();
        if self.join_anew().await.is_ok() {
            self.beaten(at);
        }
    }

    /// Joins again, without what was held: the leases are good for use again only when the book knows that they are gone.
    async fn join_anew(&self) -> Result<(), LeaseError> {
        let _turn = self.turns.take().await;
        patiently(self.leases.join()).await?;
        self.settle_doubts().await
    }
}

/// One demand for each bucket.
fn demands(wants: Vec<Want>) -> Vec<Demand> {
    let mut demands: HashMap<Bucket, Demand> = HashMap::with_capacity(wants.len());
    for want in wants {
        demands
            .entry(want.bucket)
            .and_modify(|demand| {
                demand.want.need = demand.want.need.plus(want.need);
                demand.least = demand.least.at_most(want.need);
            })
            .or_insert(Demand { want, least: want.need });
    }
    demands.into_values().collect()
}

async fn patiently<T>(conversation: impl Future<Output = Result<T, LeaseError>>) -> Result<T, LeaseError> {
    let answered = tokio::time::timeout(PATIENCE, conversation).await;
    answered.unwrap_or(Err(LeaseError::Database(sqlx::Error::PoolTimedOut)))
}
