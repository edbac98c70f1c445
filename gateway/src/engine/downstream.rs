//! The client's side of a request, whatever version of HTTP it speaks.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use super::answer::AnswerHead;
use super::h1::head::HeadLimits;
use super::h1::server::H1Server;
use super::h2_server::H2Server;

/// Limits and deadlines towards clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Limits on request heads.
    pub heads: HeadLimits,
    /// To finish a request head once its first byte is there.
    pub head: Duration,
    /// Between requests of a connection.
    pub keepalive: Duration,
    /// For the client to take what is written to it.
    pub write: Duration,
    /// Between two pieces of a request body.
    pub body_idle: Duration,
}

/// A request whose head was read, and the way to answer it.
pub enum Downstream {
    /// HTTP/1.0 or 1.1.
    H1(Box<H1Server>),
    /// A stream of an HTTP/2 connection.
    H2(Box<H2Server>),
}

/// Why a request body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The client went away.
    Gone,
    /// It stopped sending, or sends too slowly.
    Timeout,
    /// Its framing is broken.
    Malformed(&'static str),
    /// It is larger than allowed.
    TooLarge,
}

impl Downstream {
    /// Reads the whole body, at most `max` bytes, within `total`.
    pub async fn read_whole_body(
        &mut self,
        expected: Option<u64>,
        max: usize,
        total: Duration,
        idle: Duration,
    ) -> Result<Vec<u8>, BodyError> {
        if expected.is_some_and(|length| length > max as u64) {
            return Err(BodyError::TooLarge);
        }
        let mut body = Vec::with_capacity(expected.unwrap_or(0).min(1024 * 1024) as usize);
        let read = async {
            while self.read_body(&mut body, idle).await? {
                if body.len() > max {
                    return Err(BodyError::TooLarge);
                }
            }
            Ok(())
        };
        match tokio::time::timeout(total, read).await {
            Ok(result) => result.map(|()| body),
            Err(_) => Err(BodyError::Timeout),
        }
    }

    /// Appends the next piece of the request's body to `body`; `false` at its end.
    pub async fn read_body(&mut self, body: &mut Vec<u8>, idle: Duration) -> Result<bool, BodyError> {
        match self {
            Self::H1(session) => session.read_body(body, idle).await,
            Self::H2(session) => session.read_body(body, idle).await,
        }
    }

    /// Whether the request's body was read to its end.
    pub fn is_request_done(&self) -> bool {
        match self {
            Self::H1(session) => session.is_request_done(),
            Self::H2(session) => session.is_request_done(),
        }
    }

    /// Waits until the client goes away. Cancel-safe.
    pub async fn gone(&mut self) {
        poll_fn(|cx| match self {
            Self::H1(session) => session.poll_gone(cx),
            Self::H2(session) => session.poll_gone(cx),
        })
        .await;
    }

    /// Begins the answer. Nothing is on the wire before [`Self::flush`] or [`Self::finish`].
    pub fn start(&mut self, head: &AnswerHead) -> io::Result<()> {
        match self {
            Self::H1(session) => session.start(head),
            Self::H2(session) => return session.start(head),
        }
        Ok(())
    }

    /// Adds a piece of the answer's body.
    pub fn push(&mut self, data: &[u8]) {
        match self {
            Self::H1(session) => session.push(data),
            Self::H2(session) => session.push(data),
        }
    }

    /// How many bytes are missing from the announced length of the answer's body, where that ends by its length.
    pub fn missing(&self) -> Option<u64> {
        match self {
            Self::H1(session) => session.missing(),
            Self::H2(_) => None,
        }
    }

    /// Bytes that wait to be written.
    pub fn pending(&self) -> usize {
        match self {
            Self::H1(session) => session.pending(),
            Self::H2(session) => session.pending(),
        }
    }

    /// Writes what waits. Not cancel-safe.
    pub async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::H1(session) => session.flush().await,
            Self::H2(session) => session.flush().await,
        }
    }

    /// Ends the answer properly.
    pub async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::H1(session) => session.finish().await,
            Self::H2(session) => session.finish().await,
        }
    }

    /// Ends the connection, or the stream, of a client that has gone, should it still listen.
    pub async fn hang_up(&mut self) {
        match self {
            Self::H1(session) => session.hang_up().await,
            Self::H2(session) => session.reset(),
        }
    }

    /// Asks for the connection to be closed after this answer. HTTP/2 connections are closed by their accept loop.
    pub fn close_after(&mut self) {
        if let Self::H1(session) = self {
            session.close_after();
        }
    }
}
