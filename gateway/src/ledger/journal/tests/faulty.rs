//! A disk that fails when it is told to.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use ace_policies::config::Fsync;
use parking_lot::Mutex;
use uuid::Uuid;

use super::super::segment::{Disk, System};
use super::super::*;
use super::sample::*;

const NO_SPACE: i32 = 28;
const IO: i32 = 5;

/// What it is told, and what was done with it.
#[derive(Default)]
pub struct Faults {
    /// Segments for which there is room.
    pub room: AtomicI64,
    /// Whether writing fails, after half of the bytes.
    pub writes_fail: AtomicBool,
    pub syncs_fail: AtomicBool,
    pub syncs: AtomicUsize,
    /// Writes that succeeded.
    pub writes: AtomicUsize,
    /// Inodes of files that were written to since they were synced.
    pub unsynced: Mutex<HashSet<u64>>,
}

fn inode(file: &File) -> u64 {
    file.metadata().expect("open").ino()
}

pub struct Faulty(pub Arc<Faults>);

impl Disk for Faulty {
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        if self.0.room.fetch_sub(1, Ordering::Relaxed) <= 0 {
            self.0.room.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::from_raw_os_error(NO_SPACE));
        }
        System.allocate(file, bytes)
    }

    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.0.writes_fail.load(Ordering::Relaxed) {
            file.write_all_at(&bytes[..bytes.len() / 2], at)?;
            return Err(io::Error::from_raw_os_error(IO));
        }
        self.0.writes.fetch_add(1, Ordering::Relaxed);
        self.0.unsynced.lock().insert(inode(file));
        System.write(file, bytes, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.0.syncs.fetch_add(1, Ordering::Relaxed);
        match self.0.syncs_fail.load(Ordering::Relaxed) {
            true => Err(io::Error::from_raw_os_error(IO)),
            false => {
                self.0.unsynced.lock().remove(&inode(file));
                System.sync(file)
            }
        }
    }
}

pub fn start_faulty(dir: &Path, fsync: Fsync, room: i64) -> (Journal, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    faults.room.store(room, Ordering::Relaxed);
    let disk = Box::new(Faulty(faults.clone()));
    let journal = Journal::start_on(disk, dir, Uuid::new_v4(), options(fsync)).expect("room for the first segment");
    (journal, faults)
}

pub fn load(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
