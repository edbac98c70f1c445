//! Server-sent events, found in bytes however they were cut (WHATWG HTML, 9.2): lines may end in CR LF, LF or CR, a
//! blank line ends an event, and a comment or an unknown field is no error.

use memchr::{memchr, memchr2};

/// Finds where events end. It keeps two bits between chunks and not a byte.
#[derive(Clone, Copy, Debug)]
pub struct Boundaries {
    line_is_empty: bool,
    after_cr: bool,
}

impl Default for Boundaries {
    fn default() -> Self {
        Self {
            line_is_empty: true,
            after_cr: false,
        }
    }
}

impl Boundaries {
    /// Reads on to the end of the event and says how many bytes of the chunk belong to it; `None` when the chunk is
    /// used up before. A line feed whose carriage return ended an event a chunk before opens the next one.
    pub fn next_end(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            if self.after_cr && at < chunk.len() {
                self.after_cr = false;
                at += usize::from(chunk[at] == b'\n');
            }
            let Some(long) = memchr2(b'\n', b'\r', &chunk[at..]) else {
                self.line_is_empty &= at == chunk.len();
                return None;
            };
            self.line_is_empty &= long == 0;
            at += long + 1;
            if chunk[at - 1] == b'\r' {
                let whole = chunk.get(at) == Some(&b'\n');
                at += usize::from(whole);
                self.after_cr = !whole;
            }
            if std::mem::replace(&mut self.line_is_empty, true) {
                return Some(at);
            }
        }
    }

    /// Whether what was read so far ends with a line's end, so that a field written now is not part of another.
    pub fn at_line_start(&self) -> bool {
        self.line_is_empty
    }
}

/// Cuts a stream into whole events, as raw bytes. It copies only what lies across two chunks.
#[derive(Debug)]
pub struct Splitter {
    boundaries: Boundaries,
    held: Vec<u8>,
    max_bytes: usize,
    skipping: bool,
    skipped: u64,
}

impl Splitter {
    /// An event of more than `max_bytes` is skipped and counted; the stream goes on.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            boundaries: Boundaries::default(),
            held: Vec::new(),
            max_bytes,
            skipping: false,
            skipped: 0,
        }
    }

    /// Hands every event that ends in this chunk to `each`.
    pub fn feed(&mut self, mut chunk: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(end) = self.boundaries.next_end(chunk) {
            let (event, rest) = chunk.split_at(end);
            chunk = rest;
            if self.skipping || self.held.len() + event.len() > self.max_bytes {
                self.skip();
                self.skipping = false;
            } else if self.held.is_empty() {
                each(event);
            } else {
                self.held.extend_from_slice(event);
                each(&self.held);
            }
            self.held.clear();
        }
        self.hold(chunk);
    }

    /// Hands over what the stream ended with when it did not end with a blank line.
    pub fn finish(self, each: impl FnOnce(&[u8])) {
        if !self.held.is_empty() {
            each(&self.held);
        }
    }

    /// Whether the stream stands between two events.
    pub fn between_events(&self) -> bool {
        self.held.is_empty() && !self.skipping
    }

    /// How many events were too large to be read.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn hold(&mut self, part: &[u8]) {
        if self.skipping {
            return;
        }
        if self.held.len() + part.len() > self.max_bytes {
            self.skip();
        } else {
            self.held.extend_from_slice(part);
        }
    }

    fn skip(&mut self) {
        self.skipped += u64::from(!self.skipping);
        self.skipping = true;
        self.held = Vec::new();
    }
}

/// An event's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'e> {
    pub name: &'e [u8],
    pub data: &'e [u8],
}

impl<'e> Event<'e> {
    /// Reads an event's lines. Data over several lines is joined in `scratch`; a single line is not copied.
    pub fn read(raw: &'e [u8], scratch: &'e mut Vec<u8>) -> Self {
        let mut name: &[u8] = b"";
        let mut data: Option<&[u8]> = None;
        let mut joined = false;
        for line in lines(raw) {
            match field(line) {
                (b"event", value) => name = value,
                (b"data", value) => match data {
                    None => data = Some(value),
                    Some(first) => {
                        if !joined {
                            scratch.clear();
                            scratch.extend_from_slice(first);
                            joined = true;
                        }
                        scratch.push(b'\n');
                        scratch.extend_from_slice(value);
                    }
                },
                _ => {}
            }
        }
        Self {
            name,
            data: if joined { scratch } else { data.unwrap_or_default() },
        }
    }
}

fn lines(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let raw = raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw);
    // CR LF yields an empty line between its two bytes, which is no field.
    raw.split(|byte| matches!(byte, b'\n' | b'\r'))
}

fn field(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b':', line) {
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
        None => (line, b""),
    }
}
