//! Figures for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the journal has done since the start, and how it is. Read with `Ordering::Relaxed`.
#[derive(Debug, Default)]
pub struct JournalStats {
    /// Records written.
    pub records: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    /// Segments made.
    pub segments_made: AtomicU64,
    /// Segments on the disk now.
    pub segments: AtomicU64,
    /// Requests open now.
    pub open: AtomicU64,
    /// Records that are in memory alone now, because the disk did not take them.
    pub unsaved: AtomicU64,
    /// Requests refused.
    pub refused: AtomicU64,
    /// Attempts to write records that failed.
    pub write_errors: AtomicU64,
    /// Segments that could not be made, as on a full disk.
    pub allocation_errors: AtomicU64,
    /// Calls of `fdatasync`.
    pub fsyncs: AtomicU64,
    /// Those that failed.
    pub fsync_errors: AtomicU64,
    /// The longest, in microseconds. Who reports it may swap it for 0.
    pub fsync_max_us: AtomicU64,
}

impl JournalStats {
    pub(super) fn wrote(&self, records: u64, bytes: usize) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn synced(&self, took: Duration) {
        count(&self.fsyncs);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.fsync_max_us.fetch_max(took, Ordering::Relaxed);
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn set(gauge: &AtomicU64, value: u64) {
    gauge.store(value, Ordering::Relaxed);
}
