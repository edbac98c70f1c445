//! Lines of bounded length out of a stream of bytes, whatever bytes they are.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line that is kept whole, in bytes: twice what a message takes, so that what is cut for that is masked first.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// A line, its newline included where there was one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Line {
    /// The bytes as they were printed.
    pub data: Vec<u8>,
    /// So many more bytes belonged to it and were left out.
    pub left_out: u64,
}

/// Reads lines.
pub struct Lines<R> {
    reader: R,
    /// Read and not handed out.
    buffer: Vec<u8>,
    /// How far `buffer` was searched for a newline.
    searched: usize,
    left_out: u64,
    ended: bool,
}

const READ_BYTES: usize = 64 << 10;

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads lines from `reader`.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            searched: 0,
            left_out: 0,
            ended: false,
        }
    }

    /// The next line, none at the end. It may be dropped while it waits: nothing is lost then.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            self.buffer.reserve(READ_BYTES);
            let read = (&mut self.reader)
                .take(READ_BYTES as u64)
                .read_buf(&mut self.buffer)
                .await?;
            self.ended = read == 0;
        }
    }

    fn take(&mut self) -> Option<Line> {
        let newline = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        if let Some(position) = newline {
            let rest = self.buffer.split_off(self.searched + position + 1);
            return Some(self.hand_out(rest));
        }
        if self.ended && !self.buffer.is_empty() {
            return Some(self.hand_out(Vec::new()));
        }
        self.left_out += shorten(&mut self.buffer, MAX_LINE_BYTES);
        self.searched = self.buffer.len();
        None
    }

    fn hand_out(&mut self, rest: Vec<u8>) -> Line {
        let mut data = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        let mut left_out = std::mem::take(&mut self.left_out);
        left_out += shorten(&mut data, MAX_LINE_BYTES);
        Line { data, left_out }
    }
}

fn shorten(data: &mut Vec<u8>, to: usize) -> u64 {
    let more = data.len().saturating_sub(to);
    data.truncate(to);
    more as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8], step: usize) -> Vec<Line> {
        let chunks: Vec<io::Result<bytes::Bytes>> = input
            .chunks(step)
            .map(|chunk| Ok(bytes::Bytes::copy_from_slice(chunk)))
            .collect();
        let mut lines = Lines::new(tokio_util::io::StreamReader::new(futures_util::stream::iter(chunks)));
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push(line);
        }
        read
    }

    #[tokio::test]
    async fn bytes_stay_as_they_are_however_they_arrive() {
        let input = b"one\n\n\x1b[31mred\x1b[0m\r\n\xff\xfe\0\nlast";
        for step in 1..=input.len() {
            let read = lines(input, step).await;
            let data: Vec<&[u8]> = read.iter().map(|line| line.data.as_slice()).collect();
            let expected: [&[u8]; 5] = [b"one\n", b"\n", b"\x1b[31mred\x1b[0m\r\n", b"\xff\xfe\0\n", b"last"];
            assert_eq!(data, expected, "in steps of {step}");
        }
    }

    #[tokio::test]
    async fn a_line_up_to_the_limit_is_whole_and_a_longer_one_is_cut_and_counted() {
        let mut input = vec![b'a'; MAX_LINE_BYTES - 1];
        input.push(b'\n');
        input.extend(vec![b'b'; 3 * MAX_LINE_BYTES]);
        input.extend(b"\nc\n");
        let read = lines(&input, 50_000).await;
        assert_eq!((read[0].data.len(), read[0].left_out), (MAX_LINE_BYTES, 0));
        assert_eq!(
            (read[1].data.len(), read[1].left_out),
            (MAX_LINE_BYTES, 2 * MAX_LINE_BYTES as u64 + 1)
        );
        assert_eq!((read[2].data.as_slice(), read[2].left_out), (&b"c\n"[..], 0));
    }
}
