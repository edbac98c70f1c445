//! Server-sent events, found in bytes however they were cut (WHATWG HTML, 9.2): lines may end in CR LF, LF or CR, a
//! blank line ends an event, and a comment or an unknown field is no error.

use memchr::{memchr, memchr2};

/// Finds where events end. It keeps three bits between chunks and not a byte.
#[derive(Clone, Copy, Debug)]
pub struct Boundaries {
    line_is_empty: bool,
    after_cr: bool,
    /// A line ended in CR LF, so that the others will.
    crlf: bool,
}

impl Default for Boundaries {
    fn default() -> Self {
        Self {
            line_is_empty: true,
            after_cr: false,
            crlf: false,
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
                let whole = chunk[at] == b'\n';
                self.crlf |= whole;
                at += usize::from(whole);
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
                self.crlf |= whole;
            }
            if std::mem::replace(&mut self.line_is_empty, true) {
                return Some(at);
            }
        }
    }

    /// Whether the last carriage return is half a line's end, as far as the lines before tell.
    fn awaits_line_feed(&self) -> bool {
        self.after_cr && self.crlf
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
        // A line feed alone is the rest of the last event's end.
        (self.held.is_empty() || self.held == b"\n") && !self.skipping
    }

    /// Whether something can be put in here that is to be an event of its own for clients that look for `\r\n\r\n`.
    pub fn is_at_boundary(&self) -> bool {
        self.between_events() && !self.boundaries.awaits_line_feed()
    }

    /// Whether the event that is passing is too large to be read.
    pub fn is_skipping(&self) -> bool {
        self.skipping
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

/// The lines of an event. CR LF yields an empty line between its two bytes, which is no field.
fn lines(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The events of a stream, as `name=data`, fed in pieces of these lengths, over and over.
    fn events(stream: &[u8], pieces: &[usize]) -> Vec<String> {
        let mut splitter = Splitter::new(1 << 20);
        let mut found = Vec::new();
        let mut scratch = Vec::new();
        let mut read = |raw: &[u8]| {
            let event = Event::read(raw, &mut scratch);
            if !event.data.is_empty() || !event.name.is_empty() {
                found.push(format!(
                    "{}={}",
                    String::from_utf8_lossy(event.name),
                    String::from_utf8_lossy(event.data)
                ));
            }
        };
        let mut rest = stream;
        for piece in pieces.iter().cycle() {
            let (head, tail) = rest.split_at((*piece).min(rest.len()));
            splitter.feed(head, &mut read);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        splitter.finish(&mut read);
        found
    }

    #[track_caller]
    fn reads(stream: &str, expected: &[&str]) {
        for piece in 1..=stream.len().max(1) {
            assert_eq!(
                events(stream.as_bytes(), &[piece]),
                expected,
                "in pieces of {piece}: {stream:?}"
            );
        }
    }

    #[test]
    fn all_three_line_ends() {
        reads("data: a\n\ndata: b\n\n", &["=a", "=b"]);
        reads("data: a\r\n\r\ndata: b\r\n\r\n", &["=a", "=b"]);
        reads("data: a\r\rdata: b\r\r", &["=a", "=b"]);
        reads("data: a\r\n\ndata: b\n\r\n", &["=a", "=b"]);
    }

    #[test]
    fn fields_comments_and_what_is_neither() {
        reads("event: x\ndata: a\nid: 7\nretry: 1\nunknown: y\n\n", &["x=a"]);
        reads(": keep-alive\n\n: another\ndata:a\n\n\n\n", &["=a"]);
        reads("data:  two spaces\n\n", &["= two spaces"]);
        reads("data\n\ndatax: a\n\n", &[]);
    }

    #[test]
    fn data_over_several_lines_is_joined() {
        reads("data: {\ndata: \"a\":1\nevent: x\ndata: }\n\n", &["x={\n\"a\":1\n}"]);
        reads("data: a\r\ndata: b\r\n\r\n", &["=a\nb"]);
    }

    #[test]
    fn a_byte_order_mark_and_a_missing_last_blank_line() {
        reads("\u{feff}data: a\n\n", &["=a"]);
        reads("data: a\n\ndata: b", &["=a", "=b"]);
        reads("data: a\n\ndata: b\n", &["=a", "=b"]);
        reads("", &[]);
        reads("\n\n\n", &[]);
    }

    #[test]
    fn an_event_that_is_too_large_is_skipped_and_the_next_one_is_read() {
        let stream = format!("data: {}\n\ndata: b\n\n", "x".repeat(100));
        for piece in 1..stream.len() {
            let mut splitter = Splitter::new(50);
            let mut found = Vec::new();
            for chunk in stream.as_bytes().chunks(piece) {
                splitter.feed(chunk, |raw| found.push(raw.to_vec()));
            }
            assert_eq!(found, [b"data: b\n\n"], "in pieces of {piece}");
            assert_eq!(splitter.skipped(), 1);
        }
    }

    #[test]
    fn it_knows_when_it_stands_between_events() {
        let mut splitter = Splitter::new(50);
        for (chunk, between) in [
            ("data: a", false),
            ("\n", false),
            ("\n", true),
            ("data: b\n\n", true),
            (":", false),
        ] {
            splitter.feed(chunk.as_bytes(), |_| {});
            assert_eq!(splitter.between_events(), between, "after {chunk:?}");
        }
    }

    #[test]
    fn half_a_line_end_is_no_place_for_another_event() {
        let at_boundary = |stream: &str| {
            let (mut whole, mut bytewise) = (Splitter::new(50), Splitter::new(50));
            whole.feed(stream.as_bytes(), |_| {});
            stream.bytes().for_each(|byte| bytewise.feed(&[byte], |_| {}));
            assert_eq!(whole.is_at_boundary(), bytewise.is_at_boundary(), "{stream:?}");
            whole.is_at_boundary()
        };
        assert!(at_boundary("data: a\n\n") && at_boundary("data: a\r\n\r\n") && at_boundary("data: a\r\r"));
        assert!(!at_boundary("data: a\r\n\r") && !at_boundary("data: a\n"));
    }

    proptest! {
        /// The cuts never matter, and the events are the stream, byte for byte.
        #[test]
        fn cuts_do_not_matter(stream in "[a:d \r\n]{0,60}", pieces in proptest::collection::vec(1usize..7, 1..9)) {
            prop_assert_eq!(events(stream.as_bytes(), &pieces), events(stream.as_bytes(), &[stream.len().max(1)]));
            let mut splitter = Splitter::new(1 << 20);
            let mut bytes = Vec::new();
            for chunk in stream.as_bytes().chunks(pieces[0]) {
                splitter.feed(chunk, |raw| bytes.extend_from_slice(raw));
            }
            splitter.finish(|raw| bytes.extend_from_slice(raw));
            prop_assert_eq!(bytes, stream.as_bytes());
        }
    }
}
