//! What accompanies a request from its head to its answer: its id and its clock.

use std::time::{Duration, Instant};

use http::HeaderMap;
use uuid::Uuid;

use crate::clock::{now_ms, request_id};
use crate::engine::AnswerHead;

/// A request's id, and how its time was spent.
pub struct Ticket {
    /// The id.
    pub id: Uuid,
    /// When the head was read, UTC milliseconds.
    pub started_at_ms: i64,
    /// The same moment on the steady clock.
    pub started: Instant,
    /// Time spent waiting for the client's body and for the provider: not our own.
    pub waited: Duration,
}

impl Ticket {
    /// A ticket for a request whose head was just read.
    pub fn new() -> Self {
        let started_at_ms = now_ms();
        Self {
            id: request_id(started_at_ms),
            started_at_ms,
            started: Instant::now(),
            waited: Duration::ZERO,
        }
    }

    /// Waits for something that is not our own work.
    pub async fn wait<T>(&mut self, other: impl Future<Output = T>) -> T {
        let since = Instant::now();
        let result = other.await;
        self.waited += since.elapsed();
        result
    }

    /// The gateway's own time so far.
    pub fn own(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.waited)
    }

    /// Adds what every answer carries: the request's id, and `Server-Timing` with our own milliseconds.
    pub fn stamp(&self, head: &mut AnswerHead) {
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        let id = self.id.hyphenated().encode_lower(&mut id).as_bytes();
        head.headers.push("x-ace-request-id", id);
        if !head.headers.contains("x-request-id") {
            head.headers.push("x-request-id", id);
        }
        self.stamp_time(head);
    }

    /// Adds `Server-Timing` with our own milliseconds.
    pub fn stamp_time(&self, head: &mut AnswerHead) {
        let micros = self.own().as_micros();
        let timing = format!("gw;dur={}.{:03}", micros / 1000, micros % 1000);
        head.headers.push("server-timing", timing.as_bytes());
    }
}

impl Default for Ticket {
    fn default() -> Self {
        Self::new()
    }
}

/// A value of a header as text, where it is text.
pub fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
