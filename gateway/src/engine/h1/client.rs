//! The session towards an HTTP/1 server: one request on a connection that may be pooled again afterwards.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use super::Malformed;
use super::body::Decoder;
use super::head;
use crate::engine::Stream;
use crate::engine::headers::ResponseHead;
use crate::engine::io::{fill, write_all};

/// Up to this size, head and body of a request go out in one write.
pub const ONE_WRITE: usize = 64 * 1024;

/// A request in flight.
pub struct H1Client {
    stream: Stream,
    buffer: BytesMut,
    body: Decoder,
    persistent: bool,
    /// Whether any byte of the answer arrived.
    answered: bool,
}

/// Why there is no (more) answer.
#[derive(Debug)]
pub enum AnswerError {
    /// The transport broke.
    Io(io::Error),
    /// The server closed in the middle.
    Closed,
    /// What it sent is not an answer.
    Malformed(&'static str),
    /// The head is longer than the limit.
    HeadTooLarge,
}

impl From<Malformed> for AnswerError {
    fn from(Malformed(why): Malformed) -> Self {
        Self::Malformed(why)
    }
}

impl From<io::Error> for AnswerError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl H1Client {
    /// A session on a fresh or pooled connection.
    pub fn new(stream: Stream) -> Self {
        let body = Decoder::length(0);
        Self {
            stream,
            buffer: BytesMut::new(),
            body,
            persistent: false,
            answered: false,
        }
    }

    /// Writes a request: a complete head with its blank line, and the body.
    pub async fn send(&mut self, mut head: Vec<u8>, body: &[u8], deadline: Duration) -> io::Result<()> {
        if head.len() + body.len() <= ONE_WRITE {
            head.extend_from_slice(body);
            return write_all(&mut self.stream, &head, deadline).await;
        }
        write_all(&mut self.stream, &head, deadline).await?;
        // In pieces, so that the deadline is one for progress and not for megabytes.
        for piece in body.chunks(1024 * 1024) {
            write_all(&mut self.stream, piece, deadline).await?;
        }
        Ok(())
    }

    /// Writes bytes of a request body that is already framed.
    pub async fn send_more(&mut self, wire: &[u8], deadline: Duration) -> io::Result<()> {
        write_all(&mut self.stream, wire, deadline).await
    }

    /// Keeps the connection from being used again.
    pub fn close_after(&mut self) {
        self.persistent = false;
    }

    /// Reads the head of the answer, past interim answers; `to_head` is whether it answers a HEAD request, `upgrade` whether a 101
    /// was asked for. Cancel-safe.
    pub async fn read_head(
        &mut self,
        max_bytes: usize,
        to_head: bool,
        upgrade: bool,
    ) -> Result<ResponseHead, AnswerError> {
        let limits = head::HeadLimits {
            bytes: max_bytes,
            fields: 256,
            target: 0,
        };
        let mut seen = 0;
        loop {
            match head::find_end(&self.buffer, seen, &limits) {
                Ok(Some(end)) => {
                    let (head, body, persistent) = head::parse_response(&self.buffer[..end], to_head)?;
                    self.buffer.advance(end);
                    seen = 0;
                    match head.status {
                        101 if upgrade => {}
                        101 => return Err(AnswerError::Malformed("a switch of protocols that nobody asked for")),
                        100..=199 => continue,
                        _ => {}
                    }
                    self.body = body;
                    self.persistent = persistent;
                    return Ok(head);
                }
                Ok(None) => seen = self.buffer.len(),
                Err(head::HeadError::TooLarge) => return Err(AnswerError::HeadTooLarge),
                Err(_) => {
                    return Err(AnswerError::Malformed(
                        "a line of the answer's head ends in LF without CR",
                    ));
                }
            }
            if fill(&mut self.stream, &mut self.buffer).await? == 0 {
                return Err(AnswerError::Closed);
            }
            self.answered = true;
        }
    }

    /// Whether the server sent anything at all on this request.
    pub fn was_answered(&self) -> bool {
        self.answered
    }

    /// Decodes what was read; `true` at the end of the body.
    pub fn decode(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<bool, AnswerError> {
        let decoded = self.body.decode(&self.buffer, sink)?;
        self.buffer.advance(decoded.consumed);
        if self.buffer.is_empty() && self.buffer.capacity() > 4096 {
            self.buffer = BytesMut::new();
        }
        Ok(self.body.is_done())
    }

    /// Waits for more of the answer; `false` where the connection's end is the body's. Cancel-safe.
    pub async fn fill(&mut self) -> Result<bool, AnswerError> {
        match fill(&mut self.stream, &mut self.buffer).await? {
            0 if self.body.is_until_close() => Ok(false),
            0 => Err(AnswerError::Closed),
            _ => Ok(true),
        }
    }

    /// The connection, if another request may use it: the answer was read to its end and to not a byte more.
    pub fn into_reusable(self) -> Option<Stream> {
        (self.persistent && self.body.is_done() && self.buffer.is_empty()).then_some(self.stream)
    }

    /// Leaves HTTP after a 101.
    pub fn into_tunnel(self) -> (Stream, BytesMut) {
        (self.stream, self.buffer)
    }
}

/// Whether an idle connection is still open and silent. Anything to read on it, its end included, makes it useless.
pub fn is_alive(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let mut buffer = ReadBuf::new(&mut byte);
    let mut cx = Context::from_waker(Waker::noop());
    // Outside of the cooperative budget: a task that has used its budget up would see every connection as alive.
    matches!(
        std::pin::pin!(tokio::task::unconstrained(std::future::poll_fn(|cx| Pin::new(
            &mut *stream
        )
        .poll_read(cx, &mut buffer))))
        .poll(&mut cx),
        Poll::Pending
    )
}

impl From<AnswerError> for io::Error {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Io(error) => error,
            AnswerError::Closed => ErrorKind::UnexpectedEof.into(),
            AnswerError::Malformed(why) => io::Error::new(ErrorKind::InvalidData, why),
            AnswerError::HeadTooLarge => io::Error::new(ErrorKind::InvalidData, "the answer's head is too large"),
        }
    }
}
