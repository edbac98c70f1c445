//! The journal's own figures, as Prometheus sees them.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounter, IntGauge, Registry};

use super::register;
use crate::ledger::journal::JournalStats;

/// The metrics that stand for [`JournalStats`].
pub struct JournalFigures {
    counters: [IntCounter; 8],
    gauges: [IntGauge; 4],
}

const COUNTERS: [(&str, &str); 8] = [
    ("ace_journal_records_total", "Records written to the journal"),
    ("ace_journal_bytes_total", "Bytes of them"),
    ("ace_journal_segments_total", "Journal files made"),
    (
        "ace_journal_refused_total",
        "Requests refused because the journal did not take them",
    ),
    (
        "ace_journal_write_errors_total",
        "Times that the disk did not take what was to be written to the journal",
    ),
    (
        "ace_journal_allocation_errors_total",
        "Journal files that could not be made, as on a full disk",
    ),
    (
        "ace_journal_fsyncs_total",
        "Times that the journal was forced to the disk",
    ),
    ("ace_journal_fsync_errors_total", "Of those, failures"),
];
const GAUGES: [(&str, &str); 4] = [
    ("ace_journal_segments", "Journal files on the disk"),
    (
        "ace_journal_open_requests",
        "Requests that are admitted and not settled",
    ),
    (
        "ace_journal_unsaved_records",
        "Records that only memory holds, because the disk did not take them",
    ),
    (
        "ace_journal_fsync_max_microseconds",
        "The longest time to force the journal to the disk since the last scrape",
    ),
];

impl JournalFigures {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |(name, help): (&str, &str)| register(registry, IntCounter::new(name, help)?);
        let gauge = |(name, help): (&str, &str)| register(registry, IntGauge::new(name, help)?);
        let [a, b, c, d, e, f, g, h] = COUNTERS;
        let [i, j, k, l] = GAUGES;
        Ok(Self {
            counters: [
                counter(a)?,
                counter(b)?,
                counter(c)?,
                counter(d)?,
                counter(e)?,
                counter(f)?,
                counter(g)?,
                counter(h)?,
            ],
            gauges: [gauge(i)?, gauge(j)?, gauge(k)?, gauge(l)?],
        })
    }

    pub(super) fn bring_up_to_date(&self, stats: &JournalStats) {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let counted = [
            read(&stats.records),
            read(&stats.bytes),
            read(&stats.segments_made),
            read(&stats.refused),
            read(&stats.write_errors),
            read(&stats.allocation_errors),
            read(&stats.fsyncs),
            read(&stats.fsync_errors),
        ];
        for (counter, now) in self.counters.iter().zip(counted) {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
        let longest = stats.fsync_max_us.swap(0, Ordering::Relaxed);
        let gauged = [read(&stats.segments), read(&stats.open), read(&stats.unsaved), longest];
        for (gauge, now) in self.gauges.iter().zip(gauged) {
            gauge.set(i64::try_from(now).unwrap_or(i64::MAX));
        }
    }
}
