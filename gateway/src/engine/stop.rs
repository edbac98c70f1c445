//! The end of the process, as connections and requests learn of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// How long a connection that was accepted before the end began may take to send its first request.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// The phases of a process that ends. A phase never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Running,
    /// No new connections; requests in flight go on.
    Draining,
    /// Requests in flight are to end now, each in its protocol's way.
    Ending,
}

/// Tells connections and requests about the end of the process, and counts them.
#[derive(Clone)]
pub struct Stop {
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) active: Arc<AtomicUsize>,
}

impl Stop {
    /// Waits until streams are to end.
    pub async fn ending(&mut self) {
        self.reached(Phase::Ending).await;
    }

    /// Waits until no new requests are wanted.
    pub async fn draining(&mut self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits until a connection on which no request has come yet has no more time for one: its client connected before the
    /// listeners were closed, and may be about to send.
    pub(super) async fn nothing_came(&mut self) {
        self.reached(Phase::Draining).await;
        let _expected = self.enter();
        tokio::time::sleep(FIRST_REQUEST_GRACE).await;
    }

    /// Waits until the process is in this phase or a later one.
    pub(super) async fn reached(&mut self, wanted: Phase) {
        if self.phase.wait_for(|phase| *phase >= wanted).await.is_err() {
            // The sender lives as long as the process.
            std::future::pending().await
        }
    }

    /// Whether new requests are still wanted.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Counts a request for as long as what it returns lives.
    pub(super) fn enter(&self) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(self.active.clone())
    }
}

/// A request that is counted.
pub(super) struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
