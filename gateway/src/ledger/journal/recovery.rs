//! Reading the journals of dead instances.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::lock;
use super::record::{MAX_LEN, Opened, Record, Settled, decode, frame};
use super::segment::{HEADER_BYTES, Head, Names, read_header, remove};

/// The journals of instances whose process is dead and that nobody else recovers. Blocks on the disk.
///
/// To be asked again now and then: a process that is just being started by another thread has the locks of this one until its
/// program begins, so that an instance may seem to live for a moment longer.
pub fn orphans(dir: &Path) -> io::Result<Vec<Orphan>> {
    let mut orphans = Vec::new();
    for instance in files(dir)?.into_keys() {
        orphans.extend(Orphan::claim(dir, instance)?);
    }
    Ok(orphans)
}

/// The instances that have files, with the sequences of their segments.
fn files(dir: &Path) -> io::Result<BTreeMap<Uuid, BTreeSet<u64>>> {
    let mut found = BTreeMap::<Uuid, BTreeSet<u64>>::new();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        if let Some((instance, sequence)) = name.to_str().and_then(Names::parse) {
            found.entry(instance).or_default().extend(sequence);
        }
    }
    Ok(found)
}

/// The journal of a dead instance. Whoever has it is the only one; dropping it leaves the files for another attempt.
pub struct Orphan {
    names: Names,
    /// Sequences of its segments.
    segments: BTreeSet<u64>,
    _lock: File,
}

/// What is known of a request of a dead instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Its admission. `None` where that was lost with a damaged file: the database may know it, as a request that was under way.
    pub opened: Option<Opened>,
    /// Its end; `None` where it had not come.
    pub settled: Option<Settled>,
}

impl Orphan {
    /// Takes the instance's lock; `None` if it lives, is recovered by somebody else, or has left nothing.
    fn claim(dir: &Path, instance: Uuid) -> io::Result<Option<Self>> {
        let names = Names {
            dir: dir.to_owned(),
            instance,
        };
        let Some(lock) = lock::try_take(&names.lock())? else {
            return Ok(None);
        };
        // Looked up again: whoever had the lock before may have deleted some.
        let segments = files(dir)?.remove(&instance).unwrap_or_default();
        if segments.is_empty() {
            remove(&names.lock());
            return Ok(None);
        }
        Ok(Some(Self {
            names,
            segments,
            _lock: lock,
        }))
    }

    /// The process whose journal it is.
    pub const fn instance(&self) -> Uuid {
        self.names.instance
    }

    /// Its requests: the settled ones as they are found, at last those without an end. In memory are only requests whose end
    /// was not found yet. Blocks on the disk. An error means that there is more that cannot be read now: the orphan must not be
    /// removed.
    pub fn records(&self) -> Records<'_> {
        Records {
            orphan: self,
            next: self.segments.iter(),
            reader: None,
            open: BTreeMap::new(),
            rest: None,
            damaged: 0,
        }
    }

    /// Deletes its files, the lock last. To be called when the database has all of its requests.
    pub fn remove(self) {
        // Oldest first: should this be broken off, no end is gone whose admission is still there.
        for sequence in &self.segments {
            remove(&self.names.segment(*sequence));
        }
        remove(&self.names.lock());
    }
}

/// The requests of a dead instance.
pub struct Records<'a> {
    orphan: &'a Orphan,
    next: std::collections::btree_set::Iter<'a, u64>,
    reader: Option<Reader>,
    open: BTreeMap<Uuid, Opened>,
    rest: Option<btree_map::IntoValues<Uuid, Opened>>,
    damaged: u64,
}

impl Records<'_> {
    /// How many files ended in something that is no record, so far: a write that was cut off by the end, or damage.
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// The next record of any segment.
    fn record(&mut self) -> io::Result<Option<Record>> {
        loop {
            if self.reader.is_none() {
                let Some(sequence) = self.next.next() else {
                    return Ok(None);
                };
                self.reader = self.read(*sequence)?;
            }
            let Some(reader) = &mut self.reader else { continue };
            match reader.next()? {
                Some(Ok(record)) => return Ok(Some(record)),
                Some(Err(Damage)) => {
                    self.damaged += 1;
                    let (file, offset) = (reader.path.display(), reader.at);
                    tracing::warn!(%file, offset, "the journal is cut off or damaged here; what follows in this file is not read");
                    self.reader = None;
                }
                None => self.reader = None,
            }
        }
    }

    fn read(&mut self, sequence: u64) -> io::Result<Option<Reader>> {
        let path = self.orphan.names.segment(sequence);
        let mut file = BufReader::with_capacity(64 << 10, File::open(&path)?);
        let mut found = [0; HEADER_BYTES];
        fill(&mut file, &mut found)?;
        match read_header(&found, self.orphan.names.instance, sequence) {
            Head::Records(seed) => Ok(Some(Reader::new(file, path, seed))),
            Head::Unused => Ok(None),
            Head::Damaged => {
                self.damaged += 1;
                tracing::warn!(file = %path.display(), "not a file of this journal");
                Ok(None)
            }
            Head::OtherVersion(version) => Err(io::Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{}: journal of version {version}, which this program cannot read",
                    path.display()
                ),
            )),
        }
    }

    /// What an end tells; `None` where the database is known to have it.
    fn settle(&mut self, opened_in: u64, settled: Settled) -> Option<Recovered> {
        let opened = self.open.remove(&settled.request_id);
        // A segment is deleted only when the rows of all its requests are in the database.
        let is_told = opened.is_none() && !self.orphan.segments.contains(&opened_in);
        (!is_told).then_some(Recovered {
            opened,
            settled: Some(settled),
        })
    }
}

impl Iterator for Records<'_> {
    type Item = io::Result<Recovered>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.rest.is_none() {
            match self.record() {
                Ok(Some(Record::Opened(opened))) => drop(self.open.insert(opened.request_id, opened)),
                Ok(Some(Record::Settled(opened_in, settled))) => {
                    if let Some(recovered) = self.settle(opened_in, settled) {
                        return Some(Ok(recovered));
                    }
                }
                Ok(Some(Record::Void)) => {}
                Ok(None) => self.rest = Some(std::mem::take(&mut self.open).into_values()),
                Err(error) => {
                    // What has no end yet may have one in what cannot be read.
                    self.rest = Some(BTreeMap::new().into_values());
                    return Some(Err(error));
                }
            }
        }
        let opened = self.rest.as_mut()?.next()?;
        Some(Ok(Recovered {
            opened: Some(opened),
            settled: None,
        }))
    }
}

/// Something that is neither a record nor the end.
struct Damage;

/// The records of one segment.
struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    seed: u32,
    /// Where the next record begins.
    at: u64,
    record: Vec<u8>,
}

impl Reader {
    const fn new(file: BufReader<File>, path: PathBuf, seed: u32) -> Self {
        Self {
            file,
            path,
            seed,
            at: HEADER_BYTES as u64,
            record: Vec::new(),
        }
    }

    fn next(&mut self) -> io::Result<Option<Result<Record, Damage>>> {
        let mut head = [0; 8];
        let read = fill(&mut self.file, &mut head)?;
        if head == [0; 8] {
            return Ok(None);
        }
        let (len, crc) = frame(head);
        if read < head.len() || len > MAX_LEN {
            return Ok(Some(Err(Damage)));
        }
        self.record.resize(len, 0);
        let read = fill(&mut self.file, &mut self.record)?;
        let record = (read == len).then(|| decode(&self.record, crc, self.seed)).flatten();
        if record.is_some() {
            self.at += (head.len() + len) as u64;
        }
        Ok(Some(record.ok_or(Damage)))
    }
}

/// Reads until the buffer is full or the file ends, and says how much.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
