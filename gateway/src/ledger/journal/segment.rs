//! A file of the journal: its name, its header, and the room in it.
//!
//! `<instance>-<sequence>.log` begins with 40 bytes: magic, version u32 LE, the instance's UUID, the sequence u64 LE, and the crc32
//! of all that, which is also where the checksums of its records begin. Records follow, then zeros up to the allocated end.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::Errno;
use uuid::Uuid;

use super::record;

/// The version of header and records. A file of another version is left alone.
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 40;
const MAGIC: [u8; 8] = *b"ACEJRNL\n";
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The calls that a full or broken disk fails. Tests have a disk of their own.
pub(super) trait Disk: Send + Sync {
    /// Gives a new file `bytes` of room that nobody else can take.
    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            // Zeros claim the room where the file system cannot; some do so only when they are on their way to the disk.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, bytes).and_then(|()| Ok(fdatasync(file)?)),
            done => Ok(done?),
        }
    }

    /// Writes all of `bytes`.
    fn write(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    /// Returns when the file's contents would survive a loss of power.
    fn sync(&self, file: &File) -> io::Result<()> {
        Ok(fdatasync(file)?)
    }
}

/// The real disk.
pub(super) struct System;

impl Disk for System {}

pub(super) fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let mut at = 0;
    while at < bytes {
        let left = usize::try_from(bytes - at).unwrap_or(usize::MAX);
        let piece = &ZEROS[..left.min(ZEROS.len())];
        file.write_all_at(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// The names of an instance's files.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub dir: PathBuf,
    pub instance: Uuid,
}

impl Names {
    pub fn lock(&self) -> PathBuf {
        self.dir.join(format!("{}.lock", self.instance))
    }

    pub fn segment(&self, sequence: u64) -> PathBuf {
        self.dir.join(format!("{}-{sequence:08}.log", self.instance))
    }

    /// The instance whose file it is, and for a segment its sequence.
    pub fn parse(name: &str) -> Option<(Uuid, Option<u64>)> {
        if let Some(instance) = name.strip_suffix(".lock") {
            return Some((instance.parse().ok()?, None));
        }
        let (instance, sequence) = name.strip_suffix(".log")?.rsplit_once('-')?;
        Some((instance.parse().ok()?, Some(sequence.parse().ok()?)))
    }
}

/// A segment that can be written to.
pub(super) struct Segment {
    pub sequence: u64,
    pub file: Arc<File>,
    /// Records in it that are not in the database yet.
    pub needed: u64,
    seed: u32,
    /// Where the next record begins.
    at: u64,
    end: u64,
    /// The last records, which are not in the file yet.
    page: Vec<u8>,
}

impl Segment {
    /// Makes the file with all its room; `durable`: so that a loss of power does not undo it. Nothing is left of a failure.
    pub fn create(names: &Names, sequence: u64, bytes: u64, disk: &dyn Disk, durable: bool) -> io::Result<Self> {
        let path = names.segment(sequence);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        let header = header(names.instance, sequence);
        prepare(&file, &header, &names.dir, bytes, disk, durable).inspect_err(|_| remove(&path))?;
        Ok(Self {
            sequence,
            file: Arc::new(file),
            needed: 0,
            seed: seed(&header),
            at: HEADER_BYTES as u64,
            end: bytes,
            page: Vec::new(),
        })
    }

    /// Bytes that are left.
    pub const fn room(&self) -> u64 {
        self.end - self.at
    }

    /// Adds a record, which must fit, to those that [`flush`](Self::flush) writes next, and says where it begins.
    pub fn append(&mut self, record: &mut [u8]) -> u64 {
        record::seal(record, self.seed);
        self.page.extend_from_slice(record);
        let at = self.at;
        self.at += record.len() as u64;
        at
    }

    /// Writes what is not in the file yet, and says how many bytes that were. After an error all of it is still to be written.
    pub fn flush(&mut self, disk: &dyn Disk) -> io::Result<usize> {
        let bytes = self.page.len();
        if bytes > 0 {
            disk.write(&self.file, &self.page, self.at - bytes as u64)?;
            self.page.clear();
        }
        Ok(bytes)
    }

    /// Makes a record that is not in the file yet one that is passed over.
    pub fn void(&mut self, at: u64) {
        let written = self.at - self.page.len() as u64;
        let begin = at.checked_sub(written).and_then(|begin| usize::try_from(begin).ok());
        if let Some(record) = begin
            .and_then(|begin| self.page.get_mut(begin..))
            .and_then(record::first)
        {
            record::void(record);
            record::seal(record, self.seed);
        }
    }
}

/// Writes over a record with one of the same length.
pub(super) fn rewrite(names: &Names, sequence: u64, record: &mut [u8], at: u64, disk: &dyn Disk) -> io::Result<()> {
    let file = File::options().write(true).open(names.segment(sequence))?;
    record::seal(record, seed(&header(names.instance, sequence)));
    disk.write(&file, record, at)
}

fn prepare(file: &File, header: &[u8], dir: &Path, bytes: u64, disk: &dyn Disk, durable: bool) -> io::Result<()> {
    disk.allocate(file, bytes)?;
    disk.write(file, header, 0)?;
    if durable {
        disk.sync(file)?;
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Removes a file of the journal. One that is gone already is no fault.
pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(file = %path.display(), %error, "a file of the journal cannot be removed");
        }
        _ => {}
    }
}

fn header(instance: Uuid, sequence: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..28].copy_from_slice(instance.as_bytes());
    header[28..36].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc32fast::hash(&header[..36]);
    header[36..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn seed(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32fast::hash(&header[..36])
}

/// What a header says of the file.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Head {
    /// Records follow, whose checksums begin at the seed.
    Records(u32),
    /// Nobody wrote to it: its process died while it was prepared.
    Unused,
    /// Another version of this program wrote it.
    OtherVersion(u32),
    /// It is no header of this file.
    Damaged,
}

/// Reads the header that segment `sequence` of an instance has; a shorter file is filled up with zeros.
pub(super) fn read_header(found: &[u8; HEADER_BYTES], instance: Uuid, sequence: u64) -> Head {
    if found.iter().all(|byte| *byte == 0) {
        return Head::Unused;
    }
    let [.., c0, c1, c2, c3] = *found;
    if !found.starts_with(&MAGIC) || u32::from_le_bytes([c0, c1, c2, c3]) != seed(found) {
        return Head::Damaged;
    }
    let version = u32::from_le_bytes([found[8], found[9], found[10], found[11]]);
    match version {
        VERSION if *found == header(instance, sequence) => Head::Records(seed(found)),
        VERSION => Head::Damaged,
        other => Head::OtherVersion(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const INSTANCE: Uuid = Uuid::from_u128(5);

    #[test]
    fn a_header_is_of_one_file_and_one_version() {
        let good = header(INSTANCE, 3);
        assert_eq!(read_header(&good, INSTANCE, 3), Head::Records(seed(&good)));
        assert_eq!(read_header(&good, INSTANCE, 4), Head::Damaged);
        assert_eq!(read_header(&[0; HEADER_BYTES], INSTANCE, 3), Head::Unused);
        for at in 0..HEADER_BYTES {
            let mut bad = good;
            bad[at] ^= 1;
            assert_eq!(read_header(&bad, INSTANCE, 3), Head::Damaged, "byte {at}");
        }
        let mut newer = good;
        newer[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let crc = crc32fast::hash(&newer[..36]);
        newer[36..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(read_header(&newer, INSTANCE, 3), Head::OtherVersion(2));
    }

    #[test]
    fn names_tell_the_instance() {
        let names = Names {
            dir: PathBuf::new(),
            instance: INSTANCE,
        };
        let parse = |path: PathBuf| Names::parse(path.to_str().expect("plain"));
        assert_eq!(parse(names.segment(12)), Some((INSTANCE, Some(12))));
        assert_eq!(parse(names.lock()), Some((INSTANCE, None)));
        assert_eq!(Names::parse("lost+found"), None);
        assert_eq!(Names::parse("x-1.log"), None);
    }

    /// A disk without `fallocate`.
    struct Plain;

    impl Disk for Plain {
        fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
            write_zeros(file, bytes)
        }
    }

    #[test]
    fn a_segment_is_private_and_has_all_its_room_from_the_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let names = Names {
            dir: dir.path().to_owned(),
            instance: INSTANCE,
        };
        let disks: [&dyn Disk; 2] = [&System, &Plain];
        for (sequence, disk) in (0..).zip(disks) {
            let segment = Segment::create(&names, sequence, 100_000, disk, true).expect("room");
            let found = fs::metadata(names.segment(sequence)).expect("made");
            assert_eq!((found.len(), found.permissions().mode() & 0o777), (100_000, 0o600));
            assert_eq!(segment.room(), 100_000 - HEADER_BYTES as u64);
        }
    }
}
