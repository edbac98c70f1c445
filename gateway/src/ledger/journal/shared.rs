//! What the threads that append, the keeper and the database's writer share.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::OnceLock;
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::pen::{Pen, Written};
use super::record::void;
use super::segment::{Disk, Names, Segment, remove, rewrite};
use super::stats::{JournalStats, count, set};
use super::{Fsync, JournalError, JournalOptions};

/// How long a disk that was full or broken is left alone.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1_000 });

/// Locks are taken in the order `synced`, `maker`, `pen`, and only `pen` by those who append.
pub(super) struct Shared {
    pub names: Names,
    pub options: JournalOptions,
    pub disk: Box<dyn Disk>,
    pub stats: JournalStats,
    pub keeper: OnceLock<Thread>,
    pen: Mutex<Pen>,
    maker: Mutex<Maker>,
    /// How many records are safe from a loss of power. Whoever has it calls `fdatasync` for all who wait.
    synced: Mutex<u64>,
    /// Held for as long as the instance lives.
    _lock: File,
}

/// Makes segments.
struct Maker {
    next: u64,
    /// When the last attempt failed, and how.
    failed: Option<(Instant, ErrorKind)>,
}

impl Shared {
    pub fn start(names: Names, options: JournalOptions, disk: Box<dyn Disk>, lock: File) -> io::Result<Self> {
        let syncs = options.fsync != Fsync::Never;
        let first = Segment::create(&names, 0, options.segment_bytes, &*disk, syncs)?;
        let shared = Self {
            pen: Mutex::new(Pen::new(first, options.segment_bytes, syncs)),
            maker: Mutex::new(Maker { next: 1, failed: None }),
            synced: Mutex::new(0),
            stats: JournalStats::default(),
            keeper: OnceLock::new(),
            names,
            options,
            disk,
            _lock: lock,
        };
        count(&shared.stats.segments_made);
        set(&shared.stats.segments, 1);
        Ok(shared)
    }

    pub fn pen(&self) -> MutexGuard<'_, Pen> {
        self.pen.lock()
    }

    /// Ends a turn with the pen: figures, and waking the keeper where there is something to do.
    pub fn put_down(&self, mut pen: MutexGuard<'_, Pen>) {
        set(&self.stats.open, pen.open());
        set(&self.stats.unsaved, pen.unsaved());
        set(&self.stats.segments, pen.segments());
        let records_wait = pen.asleep && pen.is_worth_syncing();
        let wake = std::mem::take(&mut pen.urgent) || records_wait;
        if wake {
            pen.asleep = false;
        }
        drop(pen);
        if wake && let Some(keeper) = self.keeper.get() {
            keeper.unpark();
        }
    }

    /// Adds an admission, if there is room for it and for all that it promises. It may go out when it is [flushed](Self::confirm).
    pub fn admit(&self, record: &mut [u8]) -> Result<Written, JournalError> {
        loop {
            let mut pen = self.pen();
            if pen.closed {
                return Err(JournalError::Closed);
            }
            if pen.distrusted {
                return Err(JournalError::Sync);
            }
            let well = if pen.failing { self.flush(&mut pen) } else { Ok(()) };
            if well.is_err() || pen.has_room(record.len()) {
                let written = well.and_then(|()| pen.write(record)).inspect(|_| pen.opened());
                self.put_down(pen);
                return Ok(written?);
            }
            drop(pen);
            self.make_room(record.len())?;
        }
    }

    /// Makes sure that an admission is in its file; where it cannot be, it is taken back.
    pub fn confirm(&self, written: &Written) -> Result<(), JournalError> {
        let mut pen = self.pen();
        let done = match pen.is_flushed(written) {
            true => Ok(()),
            false => self.flush(&mut pen).inspect_err(|_| pen.void(written)),
        };
        self.put_down(pen);
        Ok(done?)
    }

    /// Adds a request's end, and puts it into its file at once or leaves that to whoever flushes next. Where the disk does not take it,
    /// it stays in memory and is tried again with the next record.
    pub fn end(&self, record: &mut [u8], at_once: bool) -> Option<Written> {
        let mut pen = self.pen();
        pen.settled();
        let written = pen.write(record);
        if at_once || pen.failing {
            // Its failure is counted and logged, and stops admission.
            let _ = self.flush(&mut pen);
        }
        self.put_down(pen);
        written
            .inspect_err(|error| tracing::error!(%error, "no room for the end of a request, although it was promised"))
            .ok()
    }

    /// Puts all records into their files, with a turn of its own. Whether the disk took them.
    pub fn flush_now(&self) -> bool {
        let mut pen = self.pen();
        if pen.is_all_flushed() {
            return true;
        }
        let flushed = self.flush(&mut pen);
        self.put_down(pen);
        flushed.is_ok()
    }

    /// The same within one.
    fn flush(&self, pen: &mut Pen) -> io::Result<()> {
        let flushed = pen.flush(&*self.disk);
        self.note(pen, flushed.as_ref().err());
        flushed.map(|(records, bytes)| self.stats.wrote(records, bytes))
    }

    fn note(&self, pen: &mut Pen, error: Option<&io::Error>) {
        let Some(error) = error else {
            pen.failing = false;
            return;
        };
        count(&self.stats.write_errors);
        if !std::mem::replace(&mut pen.failing, true) {
            pen.urgent = true;
            tracing::error!(dir = %self.names.dir.display(), %error, "the journal cannot be written; requests are refused");
        }
    }

    /// Makes a segment where one is missing for a record of `len`.
    fn make_room(&self, len: usize) -> Result<(), JournalError> {
        let mut maker = self.maker.lock();
        if self.pen().has_room(len) {
            return Ok(());
        }
        match maker.failed {
            Some((at, kind)) if at.elapsed() < RETRY_AFTER => Err(io::Error::from(kind).into()),
            _ => Ok(self.make(&mut maker)?),
        }
    }

    /// Makes the next segment ahead. Whether there is one now.
    pub fn prepare(&self) -> bool {
        let mut maker = self.maker.lock();
        self.pen().is_prepared() || self.make(&mut maker).is_ok()
    }

    fn make(&self, maker: &mut Maker) -> io::Result<()> {
        let sequence = maker.next;
        maker.next += 1;
        let durable = self.options.fsync != Fsync::Never;
        let made = Segment::create(&self.names, sequence, self.options.segment_bytes, &*self.disk, durable);
        match made {
            Ok(segment) => {
                maker.failed = None;
                count(&self.stats.segments_made);
                let mut pen = self.pen();
                pen.push_ready(segment);
                self.put_down(pen);
                Ok(())
            }
            Err(error) => {
                count(&self.stats.allocation_errors);
                if maker.failed.replace((Instant::now(), error.kind())).is_none() {
                    tracing::error!(dir = %self.names.dir.display(), %error, "the journal cannot grow");
                }
                Err(error)
            }
        }
    }

    /// Begins a new segment after `fdatasync` failed, with room for all that is promised. Whether all is well now.
    pub fn renew(&self) -> bool {
        if !self.pen().distrusted {
            return true;
        }
        let mut maker = self.maker.lock();
        // At least one is made anew, header and all: the disk has to prove itself.
        while self.make(&mut maker).is_ok() {
            let mut pen = self.pen();
            if pen.has_new_room() && pen.leave_distrusted().is_ok() {
                tracing::warn!("the journal goes on in a new file");
                self.put_down(pen);
                return true;
            }
        }
        false
    }

    /// Returns when a record is safe from a loss of power, with all others written until then.
    pub fn sync_to(&self, written: &Written) -> Result<(), JournalError> {
        let mut synced = self.synced.lock();
        // Asked first: what was written before a failure is not safe, whatever succeeded since.
        if self.pen().is_unsafe(written) {
            return Err(JournalError::Sync);
        }
        if *synced >= written.number {
            return Ok(());
        }
        self.sync_all(&mut synced)
    }

    /// The same for all records. Whether there were any.
    pub fn sync(&self) -> bool {
        let mut synced = self.synced.lock();
        if !self.pen().is_worth_syncing() {
            return false;
        }
        // Its failure is counted and logged, and stops admission.
        let _ = self.sync_all(&mut synced);
        true
    }

    fn sync_all(&self, synced: &mut u64) -> Result<(), JournalError> {
        let (files, number) = {
            let mut pen = self.pen();
            let flushed = self.flush(&mut pen);
            let unsynced = flushed.map(|()| pen.take_unsynced());
            self.put_down(pen);
            unsynced?
        };
        for file in files {
            let begun = Instant::now();
            let done = self.disk.sync(&file);
            self.stats.synced(begun.elapsed());
            if let Err(error) = done {
                self.distrust(&error);
                return Err(JournalError::Sync);
            }
        }
        *synced = number;
        Ok(())
    }

    fn distrust(&self, error: &io::Error) {
        count(&self.stats.fsync_errors);
        tracing::error!(dir = %self.names.dir.display(), %error, "the journal is not safe on the disk; requests are refused");
        let mut pen = self.pen();
        pen.distrust();
        self.put_down(pen);
    }

    /// Takes an admission back, so that a recovery does not charge what was refused.
    pub fn withdraw(&self, written: &Written, record: &mut [u8]) {
        void(record);
        if let Err(error) = rewrite(&self.names, written.segment, record, written.at, &*self.disk) {
            tracing::warn!(%error, "a refused request stays in the journal");
        }
        let mut pen = self.pen();
        pen.withdraw(written);
        self.put_down(pen);
    }

    /// Deletes the segments of which nothing is needed.
    pub fn delete_garbage(&self) {
        let mut pen = self.pen();
        let garbage = pen.take_garbage();
        self.put_down(pen);
        for sequence in garbage {
            remove(&self.names.segment(sequence));
        }
    }

    /// Deletes everything, the lock last.
    pub fn delete_all(&self, pen: &Pen) {
        for sequence in pen.unfilled() {
            remove(&self.names.segment(sequence));
        }
        remove(&self.names.lock());
    }
}
