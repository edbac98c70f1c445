//! The journal: a local file to which every request is appended when it is admitted and when it ends, so that none is lost
//! before the database has its row.
//!
//! `<state directory>/journal/` holds, for each instance (a start of the program), a lock and its segments, files of a fixed size
//! that are allocated ahead ([`record`] and `segment.rs` have the format). [`Journal::open`] writes an [`Opened`] before the request
//! goes out, [`Journal::settle`] a [`Settled`], and [`Journal::forget`] tells that the database has the row. A segment that is full
//! and of which nothing is needed is deleted; a request that is open for long keeps the one segment in which it was opened.
//!
//! # What is safe when
//! | `ledger.fsync` | the process dies | power is lost |
//! |---|---|---|
//! | `always` | nothing is lost | nothing that `open` or `settle` returned for is lost; both wait for the disk, on their caller's thread |
//! | `interval` | nothing is lost but the ends below | what was written in the last `fsync_ms`, and while the last `fdatasync` ran, may be |
//! | `never` | nothing is lost | what the system had not written yet may be, typically up to 30 s |
//!
//! An admission is in the system's page cache when `open` or `confirm` returns, and an end when `settle` does, but for those of
//! the next section: `kill -9` right after loses nothing.
//!
//! # Several at once
//! A write into a file costs some microseconds whatever its length, so a busy thread puts several records into one: between
//! [`Journal::draft`] and [`Journal::confirm`] others have their turn, and whoever confirms first writes for all. With `interval`, the ends
//! of requests on a thread that calls [`Journal::rest`] whenever it is about to wait are written by the next confirmation, by that call,
//! or by the journal's own thread after `fsync_ms`: whichever comes first. A process that is killed in between leaves those requests
//! without their ends; they are charged by estimate then, as they would be had it been killed before their last byte.
//!
//! # A full disk
//! `open` succeeds only if there is allocated room for the request's own end and those of all other open requests; else it is an
//! error, and the request must be refused. So `settle` has nothing to fail for. If it cannot write all the same (a broken disk, or a
//! file system that promises no room, such as a compressing one), the record stays in memory, is tried again with
//! every following record and by the journal's own thread, and until then nothing is admitted.
//!
//! When `fdatasync` fails, the system may have dropped what it could not write, and asking again would not tell. Nothing is
//! admitted until a new segment was made and synced; then the journal goes on in that one. What was written to the old one since
//! its last success, and the ends of requests until then, are safe from the process's death but not from a loss of power.
//!
//! # After a crash
//! [`orphans`] gives the journals of dead instances, with what is known of their requests. A request may come back although the
//! database has its row, since a segment is deleted as a whole; and it may come back without its end, when that was in a segment
//! deleted already, but then the database has the row. Whoever writes the rows must therefore leave existing ones alone
//! (`ON CONFLICT (request_id) DO NOTHING`), and count only those that were new.

use std::cell::Cell;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ace_policies::config::{self, Fsync};
use parking_lot::Mutex;
use uuid::Uuid;

mod keeper;
mod lock;
mod pen;
pub mod record;
pub mod recovery;
mod segment;
mod shared;
pub mod stats;
#[cfg(test)]
mod tests;

pub use record::{Kept, MAX_OPENED_BYTES, MAX_SETTLED_BYTES, Opened, Settled};
pub use recovery::{Orphan, Records, Recovered, orphans};
pub use stats::JournalStats;

use keeper::Keeper;
use pen::Written;
use segment::{Disk, HEADER_BYTES, Names, System, remove};
use shared::Shared;

/// How the journal is written.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// When records are forced to the disk.
    pub fsync: Fsync,
    /// How often, for `Fsync::Interval`.
    pub interval: Duration,
    /// Bytes of one segment. Two are allocated from the start.
    pub segment_bytes: u64,
}

impl From<&config::Ledger> for JournalOptions {
    fn from(config: &config::Ledger) -> Self {
        Self {
            fsync: config.fsync,
            interval: Duration::from_millis(config.fsync_ms),
            segment_bytes: config.segment_bytes,
        }
    }
}

/// Why a request is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is no room for the request and its end.
    #[error("journal_full: the disk of the journal is full")]
    Full,
    /// The disk does not take it.
    #[error("journal_failed: the journal cannot be written: {0}")]
    Io(io::Error),
    /// `fdatasync` failed, and no new file could be begun since.
    #[error("journal_failed: the journal is not safe on the disk")]
    Sync,
    /// The journal was closed.
    #[error("journal_closed: the gateway is stopping")]
    Closed,
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(error),
        }
    }
}

/// The place of an open request. To be settled once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seat {
    opened_in: u64,
}

/// The place of a settled request. To be forgotten once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SettledSeat {
    opened_in: u64,
    settled_in: Option<u64>,
}

/// An admission that may not be in its file yet. To be confirmed before the request goes out.
pub struct Draft {
    /// The request's place.
    pub seat: Seat,
    /// What was written.
    pub kept: Kept,
    written: Written,
}

thread_local! {
    /// Whether this thread flushes when it is about to wait.
    static RESTS: Cell<bool> = const { Cell::new(false) };
}

/// The journal of this instance. Dropping it closes it.
pub struct Journal {
    shared: Arc<Shared>,
    keeper: Mutex<Option<Keeper>>,
}

impl Journal {
    /// Begins the journal of an instance in `dir`, which is made where it is missing. `instance` must be new with every start.
    pub fn start(dir: &Path, instance: Uuid, options: JournalOptions) -> Result<Self, JournalError> {
        Self::start_on(Box::new(System), dir, instance, options)
    }

    fn start_on(
        disk: Box<dyn Disk>,
        dir: &Path,
        instance: Uuid,
        options: JournalOptions,
    ) -> Result<Self, JournalError> {
        if options.segment_bytes < (HEADER_BYTES + MAX_OPENED_BYTES + MAX_SETTLED_BYTES) as u64 {
            return Err(JournalError::Io(ErrorKind::InvalidInput.into()));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let names = Names {
            dir: dir.to_owned(),
            instance,
        };
        let lock_path = names.lock();
        let lock = lock::take(&lock_path)?;
        let shared = Shared::start(names, options, disk, lock).inspect_err(|_| remove(&lock_path))?;
        let shared = Arc::new(shared);
        let keeper = Keeper::start(shared.clone())?;
        Ok(Self {
            shared,
            keeper: Mutex::new(Some(keeper)),
        })
    }

    /// Writes a request down before it goes out. An error means that it must not.
    ///
    /// Gives the request's place, and what was written.
    ///
    /// With `Fsync::Always`, and when a segment has to be made that was not ready in time, it waits for the disk.
    pub fn open(&self, opened: &Opened<impl AsRef<str>>) -> Result<(Seat, Kept), JournalError> {
        let draft = self.draft(opened)?;
        self.confirm(&draft)?;
        Ok((draft.seat, draft.kept))
    }

    /// The first half of [`open`](Self::open). From here on the request has to be settled, unless it cannot be confirmed.
    pub fn draft(&self, opened: &Opened<impl AsRef<str>>) -> Result<Draft, JournalError> {
        self.admit(opened)
            .inspect_err(|_| stats::count(&self.shared.stats.refused))
    }

    /// The second half: only then may the request go out. After an error it is as if it had never been drafted.
    pub fn confirm(&self, draft: &Draft) -> Result<(), JournalError> {
        self.shared
            .confirm(&draft.written)
            .inspect_err(|_| stats::count(&self.shared.stats.refused))
    }

    fn admit(&self, opened: &Opened<impl AsRef<str>>) -> Result<Draft, JournalError> {
        let mut buffer = [0; MAX_OPENED_BYTES];
        let record = record::opened(opened, &mut buffer);
        let written = self.shared.admit(record)?;
        if self.shared.options.fsync == Fsync::Always {
            self.shared.confirm(&written)?;
            self.shared
                .sync_to(&written)
                .inspect_err(|_| self.shared.withdraw(&written, record))?;
        }
        Ok(Draft {
            seat: Seat {
                opened_in: written.segment,
            },
            kept: Kept::of(record),
            written,
        })
    }

    /// Writes the end of a request down. There is room for it.
    pub fn settle(&self, seat: Seat, settled: &Settled<impl AsRef<str>>) -> SettledSeat {
        let mut buffer = [0; MAX_SETTLED_BYTES];
        let record = record::settled(seat.opened_in, settled, &mut buffer);
        let may_wait = self.shared.options.fsync == Fsync::Interval && RESTS.get();
        let written = self.shared.end(record, !may_wait);
        if self.shared.options.fsync == Fsync::Always
            && let Some(written) = &written
        {
            // The request is over, whatever the disk says; a failure is logged and stops admission.
            let _ = self.shared.sync_to(written);
        }
        SettledSeat {
            opened_in: seat.opened_in,
            settled_in: written.map(|written| written.segment),
        }
    }

    /// To be called by a thread whenever it has nothing left to do. From its first call on, what it settles may wait for the next.
    pub fn rest(&self) {
        RESTS.set(true);
        self.shared.flush_now();
    }

    /// Tells that the rows of these requests are in the database.
    pub fn forget(&self, seats: impl IntoIterator<Item = SettledSeat>) {
        let mut records = Vec::new();
        for seat in seats {
            tally(&mut records, seat.opened_in);
            if let Some(segment) = seat.settled_in {
                tally(&mut records, segment);
            }
        }
        let mut pen = self.shared.pen();
        for (segment, count) in records {
            pen.release(segment, count);
        }
        self.shared.put_down(pen);
    }

    /// Figures for the metrics.
    pub fn stats(&self) -> &JournalStats {
        &self.shared.stats
    }

    /// The process whose journal it is.
    pub fn instance(&self) -> Uuid {
        self.shared.names.instance
    }

    /// Ends the journal: nothing is admitted any more, and if every request is forgotten its files are deleted. Returns how many
    /// records are still needed; they stay for another instance, once this process has ended, or until this is called again.
    /// Waits for the disk.
    pub fn close(&self) -> u64 {
        self.shared.pen().closed = true;
        let keeper = self.keeper.lock().take();
        if let Some(keeper) = keeper {
            keeper.stop();
        }
        // What fails here is logged, and is among what is still needed.
        self.shared.flush_now();
        if self.shared.options.fsync != Fsync::Never {
            self.shared.sync();
        }
        self.shared.delete_garbage();
        let pen = self.shared.pen();
        let needed = pen.needed();
        if needed == 0 {
            self.shared.delete_all(&pen);
        }
        needed
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// Counts records by segment. A batch is in few of them, mostly one after the other.
fn tally(records: &mut Vec<(u64, u64)>, segment: u64) {
    match records.iter_mut().rev().find(|(found, _)| *found == segment) {
        Some((_, count)) => *count += 1,
        None => records.push((segment, 1)),
    }
}
