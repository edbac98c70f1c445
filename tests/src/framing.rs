//! HTTP/1.1 heads and bodies as both ends of a story read them: strictly, and keeping the raw bytes.

use bytes::{Buf, Bytes, BytesMut};

/// The head of a request or an answer, with its bytes as they came.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub raw: Bytes,
    /// The request line or the status line.
    pub first: String,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Takes a head off the buffer; none while it is not complete.
    pub fn take(buffer: &mut BytesMut) -> Option<Self> {
        let end = buffer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let raw = buffer.split_to(end + 4).freeze();
        let mut lines = raw[..end]
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let headers = lines.filter_map(header).collect();
        Some(Self { raw, first, headers })
    }

    /// The values of a header, in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        let same = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name));
        same.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    /// The value of a header that comes at most once.
    ///
    /// # Panics
    /// When it comes more often.
    pub fn get(&self, name: &str) -> Option<String> {
        let mut all = self.all(name);
        assert!(all.len() < 2, "{name} came {} times: {all:?}", all.len());
        all.pop()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }
}

fn header(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = String::from_utf8_lossy(&line[..colon]).into_owned();
    Some((name, line[colon + 1..].trim_ascii().to_vec()))
}

/// Reads a body off a buffer, whatever its framing.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    /// The lines after the last chunk, if any.
    pub trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Done,
}

impl BodyReader {
    /// The body of a request: none unless its head says so.
    pub fn of_request(head: &Head) -> Self {
        Self::of(head).unwrap_or(Self::new(State::Done))
    }

    /// The body of an answer: until the connection ends unless its head says otherwise.
    pub fn of_answer(head: &Head, status: u16, asked: &str) -> Self {
        let bodiless = asked == "HEAD" || status == 204 || status == 304;
        if bodiless {
            Self::new(State::Done)
        } else {
            Self::of(head).unwrap_or(Self::new(State::UntilClose))
        }
    }

    fn of(head: &Head) -> Option<Self> {
        if head
            .all("transfer-encoding")
            .iter()
            .any(|value| value.eq_ignore_ascii_case("chunked"))
        {
            return Some(Self::new(State::ChunkSize));
        }
        let length = head.get("content-length")?.parse().ok()?;
        Some(Self::new(if length == 0 {
            State::Done
        } else {
            State::Length(length)
        }))
    }

    fn new(state: State) -> Self {
        Self {
            state,
            trailers: Vec::new(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the end of the connection is the end of the body.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::Done | State::UntilClose)
    }

    /// Takes the next piece of the body off the buffer; none when more bytes are needed, or the body is complete.
    ///
    /// # Panics
    /// When the chunked coding is malformed: neither our programs nor our scripts may do that unasked.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Option<Bytes> {
        loop {
            match self.state {
                State::Done => return None,
                State::UntilClose => return (!buffer.is_empty()).then(|| buffer.split().freeze()),
                State::Length(left) => return self.data(buffer, left, State::Length, State::Done),
                State::ChunkData(left) => {
                    return self.data(buffer, left, State::ChunkData, State::ChunkEnd);
                }
                State::ChunkSize => {
                    let line = take_line(buffer)?;
                    let text = String::from_utf8_lossy(&line).into_owned();
                    let size = text.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(size, 16).unwrap_or_else(|_| panic!("not a chunk size: {text:?}"));
                    self.state = if size == 0 {
                        State::Trailers
                    } else {
                        State::ChunkData(size)
                    };
                }
                State::ChunkEnd => {
                    if buffer.len() < 2 {
                        return None;
                    }
                    assert_eq!(&buffer[..2], b"\r\n", "a chunk does not end where its size says");
                    buffer.advance(2);
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let line = take_line(buffer)?;
                    if line.is_empty() {
                        self.state = State::Done;
                    }
                    self.trailers.extend_from_slice(&line);
                }
            }
        }
    }

    fn data(&mut self, buffer: &mut BytesMut, left: u64, more: fn(u64) -> State, end: State) -> Option<Bytes> {
        if buffer.is_empty() {
            return None;
        }
        let take = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let rest = left - take as u64;
        self.state = if rest == 0 { end } else { more(rest) };
        Some(buffer.split_to(take).freeze())
    }
}

fn take_line(buffer: &mut BytesMut) -> Option<Bytes> {
    let end = buffer.windows(2).position(|two| two == b"\r\n")?;
    let line = buffer.split_to(end).freeze();
    buffer.advance(2);
    Some(line)
}
