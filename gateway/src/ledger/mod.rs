//! The request ledger: one row for every request of a known caller, whatever became of it.
//!
//! A [`Reservation`] is taken when a request is admitted and settled when it is dropped, so no way out of a request forgets
//! its row. Rows go through a queue to the writer ([`writer`]), off the hot path.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ace_policies::token::Claims;
use ace_policies::usage::{Source, Usage};
use ace_policies::{KeyId, Provider};
use http::Method;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::provider::{Meter, RealtimeMeter, tokens_in};
use crate::refusal::Refusal;

pub mod journal;
pub mod writer;

/// A row of the ledger.
pub struct Entry {
    /// The request's id, the row's identity.
    pub request_id: Uuid,
    /// Who called: user, tenant, session, machine, tool.
    pub claims: Arc<Claims>,
    /// Whose API was called.
    pub provider: Provider,
    /// The key that it went out with.
    pub key: Option<KeyId>,
    /// Method and path of the request, without its query.
    pub method: Method,
    /// See `method`.
    pub path: String,
    /// Model that was asked for.
    pub model_asked: Option<String>,
    /// Model that answered, by the answer's own word.
    pub model_served: Option<String>,
    /// Status sent to the client; 499 where it left before there was one.
    pub status: u16,
    /// Why it is not a complete answer: a refusal's reason, `client_gone`, `upstream_…`.
    pub error_kind: Option<&'static str>,
    /// Tokens by class.
    pub usage: Usage,
    /// Where the figures come from.
    pub source: Source,
    /// Whether the answer was a stream of events.
    pub streamed: bool,
    /// UTC milliseconds at which the request's head was read.
    pub started_at_ms: i64,
    /// From there to the first byte of the answer.
    pub ttfb_ms: Option<u64>,
    /// From there to the end.
    pub duration_ms: u64,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// The id under which the provider knows the request.
    pub upstream_request_id: Option<String>,
}

/// Takes rows for the writer.
#[derive(Clone)]
pub struct Ledger {
    rows: mpsc::UnboundedSender<Entry>,
    waiting: Arc<AtomicUsize>,
    limit: usize,
    metrics: Arc<Metrics>,
}

impl Ledger {
    /// A ledger that admits requests while fewer than `limit` rows wait, and the receiving end for its writer.
    pub fn new(limit: usize, metrics: Arc<Metrics>) -> (Self, mpsc::UnboundedReceiver<Entry>) {
        let (rows, receiver) = mpsc::unbounded_channel();
        (
            Self {
                rows,
                waiting: Arc::default(),
                limit,
                metrics,
            },
            receiver,
        )
    }

    /// Rows that are not in the database yet.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The same figure for somebody who must not keep the ledger open.
    pub fn backlog(&self) -> Backlog {
        Backlog(self.waiting.clone())
    }

    /// Takes the request's place in the ledger; `None` while too many rows wait: what cannot be recorded is not admitted.
    pub fn reserve(&self, entry: Entry, started: Instant) -> Option<Reservation> {
        (self.waiting() < self.limit).then(|| Reservation {
            entry: Some(Box::new(entry)),
            meter: None,
            started,
            bytes_per_token: 3,
            ledger: self.clone(),
        })
    }

    fn settle(&self, entry: Entry) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.rows.send(entry).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            tracing::error!("the ledger's writer is gone; a row is lost");
        }
    }
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

/// A request's row in the making. Dropping it settles it.
pub struct Reservation {
    /// Always there until the drop.
    entry: Option<Box<Entry>>,
    meter: Option<Reader>,
    started: Instant,
    /// Bytes of text that are taken for a token while it is not known how many there are.
    bytes_per_token: u64,
    ledger: Ledger,
}

/// Who reads an answer.
enum Reader {
    Answer(Box<Meter>),
    Realtime(Box<RealtimeMeter>),
}

impl Reservation {
    /// The row, to be filled as the request goes on.
    pub fn entry(&mut self) -> &mut Entry {
        self.entry
            .as_mut()
            .expect("the entry is there until the reservation is dropped")
    }

    /// Has the answer read by `meter` from here on.
    pub fn read_with(&mut self, meter: Meter) {
        self.meter = Some(Reader::Answer(Box::new(meter)));
    }

    /// Has the messages of a realtime connection read from here on.
    pub fn read_messages_with(&mut self, meter: RealtimeMeter) {
        self.meter = Some(Reader::Realtime(Box::new(meter)));
    }

    /// Who reads the answer, unless that is a realtime connection.
    pub fn answer(&self) -> Option<&Meter> {
        match &self.meter {
            Some(Reader::Answer(meter)) => Some(meter),
            _ => None,
        }
    }

    /// Who reads a realtime connection.
    pub fn conversation(&self) -> Option<&RealtimeMeter> {
        match &self.meter {
            Some(Reader::Realtime(meter)) => Some(meter),
            _ => None,
        }
    }

    /// Charges a request whose answer nobody waited for by its body: the provider reads it all the same, and bills it.
    pub fn estimate_input(&mut self) {
        let entry = self.entry();
        entry.usage.input = tokens_in(entry.bytes_in);
        entry.source = Source::Estimated;
    }

    /// Whether what has flowed is about to outgrow what is reserved; asked after every piece.
    pub fn is_short(&self) -> bool {
        false
    }

    /// Reserves more for what is still to flow. It may be dropped before it is ready, and asked again.
    ///
    /// # Errors
    /// The limit that is spent.
    #[expect(
        clippy::unused_async,
        reason = "what a limit leaves may be a question to the database"
    )]
    pub async fn extend(&mut self) -> Result<(), Refusal> {
        Ok(())
    }

    /// What has flowed so far, counted safely high. Cheap enough for every piece.
    #[expect(dead_code, reason = "what is reserved is not compared with it yet")]
    pub(crate) fn flowed(&self) -> Usage {
        let bytes_in = self.entry.as_ref().map_or(0, |entry| entry.bytes_in);
        match &self.meter {
            Some(Reader::Answer(meter)) => meter.so_far_at_most(self.bytes_per_token, bytes_in),
            Some(Reader::Realtime(meter)) => meter.so_far_at_most(self.bytes_per_token),
            None => Usage::default(),
        }
    }

    /// Reads a piece of the answer's body that goes to the client.
    pub fn meter(&mut self, data: &[u8]) {
        self.entry().bytes_out += data.len() as u64;
        self.meter_unsent(data);
    }

    /// Reads a piece of the answer's body that nobody gets.
    pub fn meter_unsent(&mut self, data: &[u8]) {
        match &mut self.meter {
            Some(Reader::Answer(meter)) => meter.feed(data),
            Some(Reader::Realtime(meter)) => meter.feed(data),
            None => {}
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else {
            return;
        };
        if let Some(meter) = self.meter.take() {
            let metered = match meter {
                Reader::Answer(meter) => meter.finish().with_estimated_input(entry.bytes_in),
                Reader::Realtime(meter) => meter.finish(),
            };
            entry.usage = metered.usage;
            entry.source = metered.source;
            entry.model_served = metered.model_served;
        }
        let duration = self.started.elapsed();
        entry.duration_ms = millis(duration);
        let first_byte = entry.ttfb_ms.map(Duration::from_millis);
        self.ledger
            .metrics
            .answered(entry.provider, entry.status, first_byte, duration, &entry.usage);
        self.ledger.settle(*entry);
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
