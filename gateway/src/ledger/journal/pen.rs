//! What is under the append lock: the segments, the promise of room, and which records are still needed.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::record::MAX_SETTLED_BYTES;
use super::segment::{Disk, HEADER_BYTES, Segment};

/// Where and when a record was added.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub segment: u64,
    pub at: u64,
    /// How many records there were with it.
    pub number: u64,
    /// How many times `fdatasync` had failed.
    pub failures: u64,
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
    /// Full segments with records that are not in their files yet, in order.
    late: VecDeque<Segment>,
    /// Records so far.
    number: u64,
    /// Of those, how many are in their files.
    flushed: u64,
    /// Whether anybody ever calls `fdatasync`.
    syncs: bool,
    /// Whether `current` was added to since it was last taken by `take_unsynced`.
    dirty: bool,
    /// Full segments of which that was so.
    left_dirty: Vec<Arc<File>>,
    failures: u64,
    /// `fdatasync` failed, and no new segment was begun since.
    pub distrusted: bool,
    /// Whether the disk did not take the last records.
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
            late: VecDeque::new(),
            number: 0,
            flushed: 0,
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
        ends_in(left) + self.ends_in_new(spare) > self.open
    }

    /// Whether new segments alone have room for all ends that are to come.
    pub fn has_new_room(&self) -> bool {
        self.ends_in_new(self.ready.len()) > self.open
    }

    const fn capacity(&self) -> u64 {
        self.segment_bytes - HEADER_BYTES as u64
    }

    const fn ends_in_new(&self, segments: usize) -> u64 {
        segments as u64 * ends_in(self.capacity())
    }

    /// Adds a record to the current segment, or the next one if it does not fit. An error means that there is none.
    pub fn write(&mut self, record: &mut [u8]) -> io::Result<Written> {
        if self.current.room() < record.len() as u64 {
            self.turn()?;
        }
        let at = self.current.append(record);
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

    /// Puts all records into their files, and says how many that were and how long.
    pub fn flush(&mut self, disk: &dyn Disk) -> io::Result<(u64, usize)> {
        let mut bytes = 0;
        while let Some(segment) = self.late.front_mut() {
            bytes += segment.flush(disk)?;
            self.late.pop_front();
        }
        bytes += self.current.flush(disk)?;
        let records = self.number - std::mem::replace(&mut self.flushed, self.number);
        Ok((records, bytes))
    }

    /// Whether all records are in their files.
    pub const fn is_all_flushed(&self) -> bool {
        self.flushed == self.number
    }

    /// Whether a record is in its file.
    pub const fn is_flushed(&self, written: &Written) -> bool {
        written.number <= self.flushed
    }

    /// Takes an admission back that is not in its file yet.
    pub fn void(&mut self, written: &Written) {
        let segments = self.late.iter_mut().chain([&mut self.current]);
        for segment in segments.filter(|segment| segment.sequence == written.segment) {
            segment.void(written.at);
        }
        self.withdraw(written);
    }

    /// Goes on in the next segment.
    fn turn(&mut self) -> io::Result<()> {
        let next = self.ready.pop_front().ok_or(ErrorKind::StorageFull)?;
        let full = std::mem::replace(&mut self.current, next);
        if std::mem::take(&mut self.dirty) {
            self.left_dirty.push(full.file.clone());
        }
        match full.needed {
            0 => self.garbage.push(full.sequence),
            needed => drop(self.full.insert(full.sequence, needed)),
        }
        self.late.push_back(full);
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

    /// Takes an admission back that is voided in its file.
    pub fn withdraw(&mut self, written: &Written) {
        self.settled();
        self.release(written.segment, 1);
    }

    /// Says that `count` records of a segment are needed no longer.
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

    /// Records that are needed.
    pub fn needed(&self) -> u64 {
        self.current.needed + self.full.values().sum::<u64>()
    }

    /// Files with records that no `fdatasync` covers yet, and how many records they cover when that is done. To be asked after a flush.
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

    /// Records that the disk did not take.
    pub const fn unsaved(&self) -> u64 {
        if self.failing { self.number - self.flushed } else { 0 }
    }
}

/// How many ends of requests surely fit.
const fn ends_in(room: u64) -> u64 {
    room / MAX_SETTLED_BYTES as u64
}
