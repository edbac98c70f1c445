//! The one clock of the control plane. Everything else is handed the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the time comes from. In UTC always: a local time would shift every expiry by the zone's offset.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// A clock that stands still until it is set: for tests, where time is set and not slept.
    Set(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `now_ms`, UTC milliseconds since 1970.
    pub fn set_to(now_ms: i64) -> Self {
        Self::Set(Arc::new(AtomicI64::new(now_ms)))
    }

    /// The time in UTC milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        match self {
            Self::System => system_ms(),
            Self::Set(now) => now.load(Ordering::SeqCst),
        }
    }

    /// Moves a set clock on; the system's goes by itself.
    pub fn advance(&self, by: Duration) {
        if let Self::Set(now) = self {
            now.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the program's one clock")]
fn system_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
