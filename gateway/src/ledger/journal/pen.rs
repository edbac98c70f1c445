//! What is under the append lock: the segments, the promise of room, and which records are still needed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::record::MAX_SETTLED_BYTES;
use super::segment::{Disk, HEADER_BYTES, Segment};

/// Where a request's end is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Spot {
    /// In the segment of this sequence.
    Segment(u64),
    /// In memory, because the disk did not take it: the number of the attempt.
    Unsaved(u64),
}

/// Where and when a record was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub segment: u64,
    pub at: u64,
    /// How many records had been written with it.
    pub number: u64,
    /// How many times `fdatasync` had failed.
    pub failures: u64,
}

struct Unsaved {
    attempt: u64,
    record: Vec<u8>,
}

/// The state of an instance's journal.
pub(super) struct Pen {
    current: Segment,
    /// Segments made ahead, in order.
    ready: VecDeque<Segment>,
    /// Records still needed in the segments that are full, by sequence. None is 0.
    full: BTreeMap<u64, u64>,
    /// Sequences of segments that may be deleted.
    garbage: Vec<u64>,
    /// Bytes of every segment.
    segment_bytes: u64,
    open: u64,
    unsaved: VecDeque<Unsaved>,
    /// Where attempts that failed at first were written later.
    saved: HashMap<u64, u64>,
    attempts: u64,
    /// Records written.
    number: u64,
    /// Whether anybody ever calls `fdatasync`.
    syncs: bool,
    /// Whether `current` was written to since it was last taken by `unsynced`.
    dirty: bool,
    /// Full segments of which that was so.
    left_dirty: Vec<Arc<File>>,
    failures: u64,
    /// `fdatasync` failed, and no new segment was begun since.
    pub distrusted: bool,
    /// Whether the disk took the last record.
    pub failing: bool,
    pub closed: bool,
    /// Whether the keeper waits to be woken by the next record.
    pub asleep: bool,
    /// Whether there is something for the keeper to do at once.
    pub urgent: bool,
}

impl Pen {
    pub fn new(current: Segment, segment_bytes: u64, syncs: bool) -> Self {
        Self {
            current,
            ready: VecDeque::new(),
            full: BTreeMap::new(),
            garbage: Vec::new(),
            segment_bytes,
            open: 0,
            unsaved: VecDeque::new(),
            saved: HashMap::new(),
            attempts: 0,
            number: 0,
            syncs,
            dirty: false,
            left_dirty: Vec::new(),
            failures: 0,
            distrusted: false,
            failing: false,
            closed: false,
            asleep: false,
            urgent: true,
        }
    }

    /// Whether a record of `len` can be written so that there is room for its request's end and those of all open requests.
    ///
    /// A record is never in two segments, so each may lose some bytes at its end. Of records no longer than M, a segment with
    /// room R takes R/M, rounded down, whatever their lengths: the first that does not fit would make n + 1 of them longer
    /// than R.
    pub fn has_room(&self, len: usize) -> bool {
        let len = len as u64;
        let (left, spare) = match self.current.room().checked_sub(len) {
            Some(left) => (left, self.ready.len()),
            None if self.ready.is_empty() => return false,
            None => (self.capacity() - len, self.ready.len() - 1),
        };
        ends_in(left) + self.ends_in_new(spare) > self.promised()
    }

    /// Whether new segments alone have room for all ends that are to come.
    pub fn has_new_room(&self) -> bool {
        self.ends_in_new(self.ready.len()) > self.promised()
    }

    fn promised(&self) -> u64 {
        self.open + self.unsaved.len() as u64
    }

    const fn capacity(&self) -> u64 {
        self.segment_bytes - HEADER_BYTES as u64
    }

    const fn ends_in_new(&self, segments: usize) -> u64 {
        segments as u64 * ends_in(self.capacity())
    }

    /// Writes a record into the current segment, or the next one if it does not fit.
    pub fn write(&mut self, record: &mut [u8], disk: &dyn Disk) -> io::Result<Written> {
        if self.current.room() < record.len() as u64 {
            self.turn()?;
        }
        let at = self.current.append(record, disk)?;
        self.current.needed += 1;
        self.number += 1;
        self.dirty = self.syncs;
        Ok(Written {
            segment: self.current.sequence,
            at,
            number: self.number,
            failures: self.failures,
        })
    }

    /// Goes on in the next segment.
    fn turn(&mut self) -> io::Result<()> {
        let next = self.ready.pop_front().ok_or(ErrorKind::StorageFull)?;
        let full = std::mem::replace(&mut self.current, next);
        if std::mem::take(&mut self.dirty) {
            self.left_dirty.push(full.file);
        }
        match full.needed {
            0 => self.garbage.push(full.sequence),
            needed => drop(self.full.insert(full.sequence, needed)),
        }
        self.urgent = true;
        Ok(())
    }

    /// Leaves a file that `fdatasync` failed on, as far as there is another.
    pub fn leave_distrusted(&mut self) -> io::Result<()> {
        self.dirty = false;
        self.left_dirty.clear();
        self.turn()?;
        self.distrusted = false;
        Ok(())
    }

    pub fn distrust(&mut self) {
        self.failures += 1;
        self.distrusted = true;
        self.urgent = true;
    }

    /// Whether `fdatasync` failed since a record was written, or its file is one that it failed on.
    pub const fn is_unsafe(&self, written: &Written) -> bool {
        self.distrusted || self.failures != written.failures
    }

    pub fn push_ready(&mut self, segment: Segment) {
        self.ready.push_back(segment);
    }

    pub fn is_prepared(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn opened(&mut self) {
        self.open += 1;
    }

    pub fn settled(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Takes an admission back.
    pub fn withdraw(&mut self, written: &Written) {
        self.settled();
        self.release(written.segment, 1);
    }

    /// Keeps a record in memory that could not be written.
    pub fn keep(&mut self, record: &[u8]) -> Spot {
        self.attempts += 1;
        self.urgent = true;
        self.unsaved.push_back(Unsaved {
            attempt: self.attempts,
            record: record.to_owned(),
        });
        Spot::Unsaved(self.attempts)
    }

    /// Takes the oldest of those out, to be tried again; whoever cannot gives it back.
    pub fn save_next(&mut self, disk: &dyn Disk) -> io::Result<Option<usize>> {
        let Some(mut next) = self.unsaved.pop_front() else {
            return Ok(None);
        };
        match self.write(&mut next.record, disk) {
            Ok(written) => {
                self.saved.insert(next.attempt, written.segment);
                Ok(Some(next.record.len()))
            }
            Err(error) => {
                self.unsaved.push_front(next);
                Err(error)
            }
        }
    }

    /// Says that a record at this place is needed no longer.
    pub fn forget(&mut self, spot: Spot) {
        match spot {
            Spot::Segment(segment) => self.release(segment, 1),
            Spot::Unsaved(attempt) => match self.saved.remove(&attempt) {
                Some(segment) => self.release(segment, 1),
                None => self.unsaved.retain(|unsaved| unsaved.attempt != attempt),
            },
        }
    }

    /// Says so of `count` records of a segment.
    pub fn release(&mut self, segment: u64, count: u64) {
        if segment == self.current.sequence {
            self.current.needed = self.current.needed.saturating_sub(count);
        } else if let Some(needed) = self.full.get_mut(&segment) {
            *needed = needed.saturating_sub(count);
            if *needed == 0 {
                self.full.remove(&segment);
                self.garbage.push(segment);
                self.urgent = true;
            }
        }
    }

    /// Records that are needed, in files or in memory alone.
    pub fn needed(&self) -> u64 {
        self.current.needed + self.full.values().sum::<u64>() + self.unsaved.len() as u64
    }

    /// Files with records that no `fdatasync` covers yet, and how many records they cover when that is done.
    pub fn take_unsynced(&mut self) -> (Vec<Arc<File>>, u64) {
        let mut files = std::mem::take(&mut self.left_dirty);
        if std::mem::take(&mut self.dirty) {
            files.push(self.current.file.clone());
        }
        (files, self.number)
    }

    /// Whether there are any. Not in a file that `fdatasync` failed on: asking again would hear that all is well.
    pub fn is_worth_syncing(&self) -> bool {
        !self.distrusted && (self.dirty || !self.left_dirty.is_empty())
    }

    pub fn take_garbage(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.garbage)
    }

    /// The sequences of all segments that are not full.
    pub fn unfilled(&self) -> impl Iterator<Item = u64> {
        std::iter::once(&self.current)
            .chain(&self.ready)
            .map(|segment| segment.sequence)
    }

    pub fn segments(&self) -> u64 {
        1 + (self.ready.len() + self.full.len() + self.garbage.len()) as u64
    }

    pub const fn open(&self) -> u64 {
        self.open
    }

    pub fn unsaved(&self) -> u64 {
        self.unsaved.len() as u64
    }
}

/// How many ends of requests surely fit.
const fn ends_in(room: u64) -> u64 {
    room / MAX_SETTLED_BYTES as u64
}
