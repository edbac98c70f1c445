//! What the agent has to say beside output, from the moment it is said until the server is known to have it.
//!
//! Saying never waits and what was said is not lost with a connection. It has an end all the same: answers are as many as the
//! commands of the server, a CLI waits for the answers to its questions, and of a session's statuses and wishes for a token only the
//! latest waits, however long the server is away.

mod words;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ace_policies::{SessionId, wire::FromAgent};
use tokio::{sync::Notify, time::Instant};

use words::Words;

/// Something to say, and the line of output that was printed before it and goes before it.
#[derive(Debug)]
pub struct Said {
    /// What.
    pub message: FromAgent,
    /// A session and the number of its last line by then; [`None`] where the order does not matter.
    pub after: Option<(SessionId, i64)>,
}

/// Everything that waits to be sent, and what was sent and may not have arrived.
///
/// A WebSocket's answer to a ping tells that everything before the ping has arrived; a long poll's answer tells it of its request.
#[derive(Default)]
pub struct Outbox {
    words: Mutex<Words>,
    /// Rung when something was said.
    news: Notify,
}

impl Outbox {
    /// Takes what is to be said. Never waits.
    pub fn push(&self, said: Said) {
        self.lock().push(said);
        self.news.notify_one();
    }

    /// The same for what has no place between a session's lines.
    pub fn say(&self, message: FromAgent) {
        self.push(Said { message, after: None });
    }

    /// Whether something waits to be sent.
    pub fn has_news(&self) -> bool {
        self.lock().has_waiting()
    }

    /// Waits until something may have been said.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// A connection begins: what was sent on another and is not known to have arrived is sent again on this one, first and in order.
    pub(crate) fn again(&self) {
        self.lock().again();
    }

    /// The next word to send now; it counts as sent. `is_out` tells whether a session's lines up to a number went before.
    pub(crate) fn next(&self, now: Instant, is_out: impl Fn(SessionId, i64) -> bool) -> Option<FromAgent> {
        self.lock().next(now, is_out)
    }

    /// When a word goes out although the lines before it have not.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.lock().deadline()
    }

    /// Names everything that was sent until now.
    pub(crate) fn mark(&self) -> u64 {
        self.lock().mark()
    }

    /// Everything that was sent up to a mark has arrived.
    pub(crate) fn confirm(&self, mark: u64) {
        self.lock().confirm(mark);
    }

    /// Whether something that was sent may not have arrived.
    pub(crate) fn is_unconfirmed(&self) -> bool {
        self.lock().is_unconfirmed()
    }

    fn lock(&self) -> MutexGuard<'_, Words> {
        // Every change is whole by the time a call returns.
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
