//! One session's lines on disk: segments named by their first number, appended to at the last and deleted from the first.
//!
//! The last segment stays when all its lines are acknowledged: its name is what tells the next number.

mod rewrite;

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use ace_policies::wire::{Data, Line, Stream};

use super::record;
use crate::config::{private_dir, sync_dir};

/// A segment that has grown beyond this is followed by a new one.
const SEGMENT_BYTES: u64 = 1 << 20;
const PREFIX: &str = "out-";
const SUFFIX: &str = ".spool";
/// How much is read at a time on the way to a batch.
const READ_BYTES: usize = 64 << 10;

/// The lines of one session that the server may not have yet.
pub(super) struct Lines {
    dir: PathBuf,
    /// From the oldest on; the last is appended to.
    segments: VecDeque<Segment>,
    file: Option<Arc<File>>,
    next: i64,
    last_at: i64,
    /// The last segment could not be made safe: the system may have dropped what it did not write, and call the next try a success.
    suspect: bool,
    /// Where the reader stands: most batches go on where the one before ended.
    cursor: Option<Cursor>,
}

struct Segment {
    first: i64,
    bytes: u64,
}

#[derive(Clone, Copy)]
struct Cursor {
    segment: i64,
    offset: u64,
    next: i64,
}

/// What one batch may hold.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub lines: usize,
    pub bytes: usize,
    /// The last line that may be read: those after it are not safely on disk yet.
    pub up_to: i64,
}

impl Lines {
    /// Opens what is there, and cuts off what was half written when the agent ended. `floor` is the least next number.
    pub fn open(dir: &Path, floor: i64) -> io::Result<Self> {
        private_dir(dir)?;
        let mut lines = Self {
            dir: dir.to_owned(),
            segments: segments_in(dir)?,
            file: None,
            next: floor,
            last_at: 0,
            suspect: false,
            cursor: None,
        };
        if let Some((first, bytes)) = lines.segments.back().map(|last| (last.first, last.bytes)) {
            let (end, next) = sound_part(&lines.path(first), first)?;
            if end < bytes {
                OpenOptions::new().write(true).open(lines.path(first))?.set_len(end)?;
            }
            // A run that was killed may have left it in the system's memory alone.
            File::open(lines.path(first))?.sync_all()?;
            lines.segments.back_mut().expect("there is a last one").bytes = end;
            lines.next = next.max(floor);
        }
        Ok(lines)
    }

    /// The number of the next line.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// When the latest line was printed.
    pub fn last_at(&self) -> i64 {
        self.last_at
    }

    /// The number of the oldest line that is still here, or of the next one.
    pub fn first(&self) -> i64 {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// What is on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Numbers below `floor` are in use elsewhere.
    pub fn skip_to(&mut self, floor: i64) -> io::Result<()> {
        if floor > self.next {
            self.next = floor;
            self.let_go();
            self.roll()?;
            self.forget_before(floor)?;
        }
        Ok(())
    }

    /// Appends a line. On an error nothing of it stays.
    pub fn append(&mut self, stream: Stream, at: i64, data: &[u8]) -> io::Result<i64> {
        if self.segments.back().is_none_or(|last| last.bytes >= SEGMENT_BYTES) {
            self.roll()?;
        }
        let seq = self.next;
        let mut bytes = Vec::with_capacity(record::size(data) as usize);
        record::encode(seq, at, stream, data, &mut bytes);
        self.write(&bytes)?;
        self.next += 1;
        self.last_at = at;
        Ok(seq)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.appender()?;
        let last = self.segments.back_mut().expect("rolled to one");
        if let Err(error) = (&*file).write_all(bytes) {
            // What was written of it would stand before the next record. If it stays, the file is opened anew, at its sound end.
            if file.set_len(last.bytes).is_err() {
                self.file = None;
            }
            return Err(error);
        }
        last.bytes += bytes.len() as u64;
        Ok(())
    }

    fn appender(&mut self) -> io::Result<Arc<File>> {
        if self.suspect {
            return Err(io::Error::other("what was written before is not safe yet"));
        }
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let last = self.segments.back().expect("rolled to one");
        let file = open_private(&self.path(last.first), OpenOptions::new().append(true))?;
        file.set_len(last.bytes)?;
        let file = Arc::new(file);
        self.file = Some(file.clone());
        Ok(file)
    }

    /// The file that has to be synchronised for the lines so far to outlive a power cut.
    pub fn appended(&mut self) -> io::Result<Arc<File>> {
        self.appender()
    }

    fn roll(&mut self) -> io::Result<()> {
        if self.suspect {
            self.appender()?;
        }
        if let Some(file) = self.file.take() {
            self.suspect = true;
            file.sync_data()?;
            self.suspect = false;
        }
        let file = open_private(&self.path(self.next), OpenOptions::new().append(true).create(true))?;
        file.set_len(0)?;
        sync_dir(&self.dir)?;
        if self.segments.back().is_some_and(|last| last.first == self.next) {
            self.segments.pop_back();
        }
        self.segments.push_back(Segment {
            first: self.next,
            bytes: 0,
        });
        self.file = Some(Arc::new(file));
        Ok(())
    }

    /// The server has everything up to `seq`: segments with nothing else go away, and so does the content of the last.
    pub fn acknowledge(&mut self, seq: i64) -> io::Result<()> {
        let all = seq >= self.next - 1;
        if all && self.segments.back().is_some_and(|last| last.bytes >= SEGMENT_BYTES / 4) {
            self.let_go();
            self.roll()?;
        }
        self.forget_before(seq + 1)
    }

    fn forget_before(&mut self, seq: i64) -> io::Result<()> {
        while self.segments.get(1).is_some_and(|second| second.first <= seq) {
            let path = self.path(self.segments[0].first);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.segments.pop_front(),
            };
        }
        Ok(())
    }

    /// The lines after `seq`, in order and without a gap. Where the disk lost some, words of ours take their places.
    pub fn after(&mut self, seq: i64, limits: Limits) -> io::Result<Vec<Line>> {
        let mut batch = Batch {
            lines: Vec::new(),
            bytes: 0,
            limits,
            next: seq + 1,
        };
        let mut cursor = self.cursor_for(seq + 1);
        while let Some(at) = cursor.filter(|_| batch.next < self.next.min(limits.up_to + 1)) {
            let done = self.read_segment(at, &mut batch)?;
            if done {
                return Ok(batch.lines);
            }
            let following = self.segments.iter().find(|segment| segment.first > at.segment);
            cursor = following.map(|segment| Cursor {
                segment: segment.first,
                offset: 0,
                next: segment.first,
            });
        }
        batch.fill_gap(self.next.min(limits.up_to + 1));
        Ok(batch.lines)
    }

    fn cursor_for(&self, next: i64) -> Option<Cursor> {
        let segment = self.segments.iter().rev().find(|segment| segment.first <= next);
        let segment = segment.or(self.segments.front())?;
        let stands = self
            .cursor
            .filter(|cursor| cursor.next == next && cursor.segment == segment.first);
        Some(stands.unwrap_or(Cursor {
            segment: segment.first,
            offset: 0,
            next: segment.first,
        }))
    }

    /// Reads on in one segment; true when the batch is full.
    fn read_segment(&mut self, mut cursor: Cursor, batch: &mut Batch) -> io::Result<bool> {
        let mut file = File::open(self.path(cursor.segment))?;
        file.seek(SeekFrom::Start(cursor.offset))?;
        let mut buffer = Vec::with_capacity(READ_BYTES);
        loop {
            let mut used = 0;
            while let Some((line, size)) = record::decode(&buffer[used..]) {
                let next = line.seq + 1;
                if !batch.take(line) {
                    self.cursor = Some(cursor);
                    return Ok(true);
                }
                used += size;
                cursor.offset += size as u64;
                cursor.next = next;
            }
            buffer.drain(..used);
            let read = Read::by_ref(&mut file)
                .take(READ_BYTES as u64)
                .read_to_end(&mut buffer)?;
            if read == 0 {
                self.cursor = Some(cursor);
                return Ok(false);
            }
        }
    }

    fn path(&self, first: i64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{first:019}{SUFFIX}"))
    }
}

struct Batch {
    lines: Vec<Line>,
    bytes: usize,
    limits: Limits,
    next: i64,
}

impl Batch {
    /// False where the line does not belong to this batch any more.
    fn take(&mut self, line: Line) -> bool {
        if line.seq < self.next {
            return true;
        }
        self.fill_gap(line.seq.min(self.limits.up_to + 1));
        let size = super::cut::json_size(&line.data.0);
        let full =
            self.lines.len() >= self.limits.lines || (!self.lines.is_empty() && self.bytes + size > self.limits.bytes);
        if full || line.seq > self.limits.up_to || line.seq != self.next {
            return false;
        }
        self.bytes += size;
        self.next += 1;
        self.lines.push(line);
        true
    }

    /// Numbers whose lines are gone: the server takes no gap.
    fn fill_gap(&mut self, until: i64) {
        let lost = until - self.next;
        if lost > 0 {
            tracing::error!(lost, "lines of the spool are damaged on disk and lost");
        }
        let mut text = format!("[ace-agent] {lost} lines were lost: the spool is damaged on disk\n");
        while self.next < until && self.lines.len() < self.limits.lines {
            self.lines.push(Line {
                seq: self.next,
                at: 0,
                stream: Stream::System,
                data: Data(std::mem::take(&mut text).into_bytes()),
            });
            self.next += 1;
        }
    }
}

/// Removes a session's lines, and its directory where nothing else is in it.
pub(super) fn remove_all(dir: &Path) -> io::Result<()> {
    for segment in segments_in(dir)? {
        fs::remove_file(dir.join(format!("{PREFIX}{:019}{SUFFIX}", segment.first)))?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.open(path)
}

fn segments_in(dir: &Path) -> io::Result<VecDeque<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let digits = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        if let Some(first) = digits.and_then(|digits| digits.parse().ok()) {
            let bytes = entry.metadata()?.len();
            segments.push(Segment { first, bytes });
        }
    }
    segments.sort_by_key(|segment| segment.first);
    Ok(segments.into())
}

/// Where the sound records of a segment end, and the number after the last.
fn sound_part(path: &Path, first: i64) -> io::Result<(u64, i64)> {
    let bytes = fs::read(path)?;
    let (mut end, mut next) = (0, first);
    while let Some((line, size)) = record::decode(&bytes[end..]) {
        end += size;
        next = line.seq + 1;
    }
    Ok((end as u64, next))
}
