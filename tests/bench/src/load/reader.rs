//! Reads HTTP/1.1 answers out of whatever pieces the socket gives: content-length or chunked, status 200 only.

use anyhow::{Context, bail};
use memchr::memmem;

#[derive(Default)]
pub struct Reader {
    state: State,
    /// What was read of a head or of a chunk's size line that is not complete yet.
    held: Vec<u8>,
}

#[derive(Default, Clone, Copy)]
enum State {
    #[default]
    Head,
    Sized(usize),
    ChunkSize,
    Chunk(usize),
    ChunkEnd,
    LastLine,
}

pub enum Step<'a> {
    More,
    Body(&'a [u8]),
    End,
}

/// No head and no size line of what is measured is longer.
const MAX_HELD: usize = 16 * 1024;

impl Reader {
    /// Takes the next piece off `input`.
    pub fn step<'a>(&mut self, input: &mut &'a [u8]) -> anyhow::Result<Step<'a>> {
        loop {
            match self.state {
                State::Head => match self.take_until(input, b"\r\n\r\n")? {
                    Some(head) => self.state = after_head(&head)?,
                    None => return Ok(Step::More),
                },
                State::Sized(0) => return Ok(self.end()),
                State::Sized(left) => return Ok(self.body(input, left, State::Sized)),
                State::ChunkSize => match self.take_until(input, b"\r\n")? {
                    Some(line) => self.state = after_size(&line)?,
                    None => return Ok(Step::More),
                },
                State::Chunk(0) => self.state = State::ChunkEnd,
                State::Chunk(left) => return Ok(self.body(input, left, State::Chunk)),
                State::ChunkEnd => match self.take_until(input, b"\r\n")? {
                    Some(_) => self.state = State::ChunkSize,
                    None => return Ok(Step::More),
                },
                State::LastLine => match self.take_until(input, b"\r\n")? {
                    Some(line) if line.is_empty() => return Ok(self.end()),
                    Some(_) => {}
                    None => return Ok(Step::More),
                },
            }
        }
    }

    fn end<'a>(&mut self) -> Step<'a> {
        self.state = State::Head;
        Step::End
    }

    fn body<'a>(&mut self, input: &mut &'a [u8], left: usize, then: fn(usize) -> State) -> Step<'a> {
        let (bytes, rest) = input.split_at(left.min(input.len()));
        *input = rest;
        self.state = then(left - bytes.len());
        if bytes.is_empty() {
            Step::More
        } else {
            Step::Body(bytes)
        }
    }

    /// What stands before `end`, once it is all there.
    fn take_until(&mut self, input: &mut &[u8], end: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        let before = self.held.len();
        self.held.extend_from_slice(input);
        match memmem::find(&self.held, end) {
            Some(at) => {
                *input = &input[at + end.len() - before..];
                self.held.truncate(at);
                Ok(Some(std::mem::take(&mut self.held)))
            }
            None if self.held.len() > MAX_HELD => bail!("a head or a chunk's size line does not end"),
            None => {
                *input = &[];
                Ok(None)
            }
        }
    }
}

fn after_head(head: &[u8]) -> anyhow::Result<State> {
    let head = std::str::from_utf8(head)?;
    let (status, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    if status.split(' ').nth(1) != Some("200") {
        bail!("answered {status}");
    }
    let field = |name: &str| {
        let line = fields.split("\r\n").find(|line| {
            line.get(..name.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(name))
        });
        line.map(|line| line[name.len()..].trim())
    };
    match field("content-length:") {
        Some(length) => Ok(State::Sized(length.parse()?)),
        None => field("transfer-encoding:")
            .map(|_| State::ChunkSize)
            .context("an answer without a length"),
    }
}

fn after_size(line: &[u8]) -> anyhow::Result<State> {
    let size = std::str::from_utf8(line)?.split(';').next().unwrap_or_default().trim();
    Ok(match usize::from_str_radix(size, 16)? {
        0 => State::LastLine,
        size => State::Chunk(size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &[u8], piece: usize) -> (String, usize) {
        let (mut reader, mut body, mut ends) = (Reader::default(), Vec::new(), 0);
        for mut input in answer.chunks(piece) {
            loop {
                match reader.step(&mut input).unwrap() {
                    Step::More => break,
                    Step::Body(bytes) => body.extend_from_slice(bytes),
                    Step::End => ends += 1,
                }
            }
        }
        (String::from_utf8(body).unwrap(), ends)
    }

    #[test]
    fn answers_are_read_whatever_the_cuts() {
        let sized = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".repeat(2);
        let chunked =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
        for piece in 1..chunked.len() {
            assert_eq!(read(&sized, piece), ("hellohello".to_owned(), 2));
            assert_eq!(read(chunked, piece), ("hello world".to_owned(), 1));
        }
    }

    #[test]
    fn an_error_is_an_error() {
        let mut refused: &[u8] = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
        assert!(Reader::default().step(&mut refused).is_err());
    }
}
