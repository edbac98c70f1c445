//! The session towards an HTTP/1 client: one connection, one request at a time.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{Method, Version};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use super::body::{Decoder, frame_chunk};
use super::head::{self, HeadError, HeadLimits};
use crate::engine::Stream;
use crate::engine::answer::AnswerHead;
use crate::engine::downstream::{BodyError, Limits};
use crate::engine::headers::{RequestHead, lists};
use crate::engine::io::{fill, poll_fill, shrink, write_all};

/// How many bytes a client may send ahead of its turn before we stop reading them.
const MAX_AHEAD: usize = 64 * 1024;
/// What is read past and dropped of a request that was answered early, so that the answer arrives before the reset.
/// Most clients write their whole body before they read.
const MAX_LINGER: usize = 64 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(5);

/// A connection with its buffers and the state of the request on it.
pub struct H1Server {
    stream: Stream,
    /// Wire bytes that were read and not yet decoded: the rest of a body, or a pipelined request.
    ahead: BytesMut,
    /// Wire bytes that wait for [`Self::flush`].
    out: Vec<u8>,
    request_body: Decoder,
    answer: Answer,
    http_10: bool,
    answers_head: bool,
    keep_alive: bool,
    expects_continue: bool,
    write_deadline: Duration,
}

/// How the answer in progress is framed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    NotStarted,
    Length(u64),
    Chunked,
    UntilClose,
    Done,
}

/// Why no request came.
pub enum NoRequest {
    /// The client closed, or stayed idle for longer than keep-alive allows.
    Closed,
    /// The head was not finished in time.
    Timeout,
    /// The head was refused; the client gets an answer.
    Refused(HeadError),
}

impl H1Server {
    /// A session on a fresh connection.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            ahead: BytesMut::new(),
            out: Vec::new(),
            request_body: Decoder::length(0),
            answer: Answer::NotStarted,
            http_10: false,
            answers_head: false,
            keep_alive: true,
            expects_continue: false,
            write_deadline: Duration::from_secs(60),
        }
    }

    /// Puts back bytes that were read to find out what the client speaks.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.ahead.extend_from_slice(bytes);
    }

    /// Waits for the next request: for its first byte as long as `idle`, then for its head as long as the limits allow.
    pub async fn read_head(&mut self, limits: &Limits, idle: Duration) -> Result<RequestHead, NoRequest> {
        self.write_deadline = limits.write;
        self.skip_empty_lines();
        if self.ahead.is_empty() {
            let first = timeout_at(Instant::now() + idle, fill(&mut self.stream, &mut self.ahead)).await;
            if !matches!(first, Ok(Ok(1..))) {
                return Err(NoRequest::Closed);
            }
        }
        let end = match timeout_at(Instant::now() + limits.head, self.fill_head(&limits.heads)).await {
            Ok(end) => end,
            Err(_) => Err(NoRequest::Timeout),
        };
        let head = end.and_then(|end| {
            let head = self.ahead.split_to(end).freeze();
            head::parse_request(&head, &limits.heads).map_err(NoRequest::Refused)
        });
        match head {
            Ok((head, body)) => {
                self.begin(&head, body);
                Ok(head)
            }
            Err(why) => {
                // Where it ends is not known: until it is read past, closing would cut the answer off with a reset.
                self.request_body = Decoder::until_close();
                Err(why)
            }
        }
    }

    async fn fill_head(&mut self, limits: &HeadLimits) -> Result<usize, NoRequest> {
        let mut seen = 0;
        loop {
            self.skip_empty_lines();
            if let Some(end) = head::find_end(&self.ahead, seen, limits).map_err(NoRequest::Refused)? {
                return Ok(end);
            }
            seen = self.ahead.len();
            match fill(&mut self.stream, &mut self.ahead).await {
                Ok(1..) => {}
                _ => return Err(NoRequest::Closed),
            }
        }
    }

    /// RFC 9112 §2.2: empty lines before a request line are skipped.
    fn skip_empty_lines(&mut self) {
        while self.ahead.starts_with(b"\r\n") {
            self.ahead.advance(2);
        }
    }

    fn begin(&mut self, head: &RequestHead, body: Decoder) {
        self.http_10 = head.version == Version::HTTP_10;
        self.answers_head = head.method == Method::HEAD;
        self.keep_alive = match self.http_10 {
            true => lists(&head.headers, "connection", "keep-alive"),
            false => !lists(&head.headers, "connection", "close"),
        };
        self.expects_continue = !body.is_done() && !self.http_10 && lists(&head.headers, "expect", "100-continue");
        self.request_body = body;
        self.answer = Answer::NotStarted;
    }

    /// Whether the request's body was read to its end.
    pub fn is_request_done(&self) -> bool {
        self.request_body.is_done()
    }

    /// Appends the next piece of the request's body to `body`; `false` at its end.
    pub async fn read_body(&mut self, body: &mut Vec<u8>, idle: Duration) -> Result<bool, BodyError> {
        if std::mem::take(&mut self.expects_continue) && self.ahead.is_empty() {
            let line = b"HTTP/1.1 100 Continue\r\n\r\n";
            write_all(&mut self.stream, line, self.write_deadline)
                .await
                .map_err(|_| BodyError::Gone)?;
        }
        let before = body.len();
        loop {
            if self.request_body.is_done() {
                return Ok(false);
            }
            let decoded = self
                .request_body
                .decode(&self.ahead, &mut |data| body.extend_from_slice(data))
                .map_err(|why| BodyError::Malformed(why.0))?;
            self.ahead.advance(decoded.consumed);
            if self.request_body.is_done() && self.ahead.is_empty() {
                // An answer may take hours; what a large body has needed is not kept for it.
                self.ahead = BytesMut::new();
            }
            if body.len() > before {
                return Ok(true);
            }
            if self.request_body.is_done() {
                return Ok(false);
            }
            match timeout_at(Instant::now() + idle, fill(&mut self.stream, &mut self.ahead)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return Err(BodyError::Gone),
                Err(_) => return Err(BodyError::Timeout),
            }
        }
    }

    /// Ready when the client went away. What it sends ahead of its turn is kept for the next request, up to a limit.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.request_body.is_done() {
            // The body is still being read by whoever needs it; a hang-up shows there.
            return Poll::Pending;
        }
        while self.ahead.len() < MAX_AHEAD {
            match poll_fill(&mut self.stream, &mut self.ahead, cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// Puts the answer's head into the output.
    pub fn start(&mut self, head: &AnswerHead) {
        self.answer = self.choose_framing(head);
        if !self.request_body.is_done() || self.answer == Answer::UntilClose {
            self.keep_alive = false;
        }
        let out = &mut self.out;
        out.extend_from_slice(if self.http_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        push_decimal(u64::from(head.status), out);
        out.push(b' ');
        out.extend_from_slice(reason(head).as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in head.headers.iter() {
            push_field(name, value, out);
        }
        match (head.length, self.answer) {
            (Some(length), _) if !head.is_bodiless() => {
                out.extend_from_slice(b"content-length: ");
                push_decimal(length, out);
                out.extend_from_slice(b"\r\n");
            }
            (_, Answer::Chunked) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            _ => {}
        }
        match (self.keep_alive, self.http_10) {
            (false, _) => out.extend_from_slice(b"connection: close\r\n"),
            (true, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
            (true, false) => {}
        }
        out.extend_from_slice(b"\r\n");
    }

    fn choose_framing(&self, head: &AnswerHead) -> Answer {
        match head.length {
            _ if self.answers_head || head.is_bodiless() => Answer::Done,
            Some(0) => Answer::Done,
            Some(length) => Answer::Length(length),
            None if self.http_10 => Answer::UntilClose,
            None => Answer::Chunked,
        }
    }

    /// Puts a piece of the answer's body into the output. Bytes beyond the announced length are dropped.
    pub fn push(&mut self, data: &[u8]) {
        match &mut self.answer {
            Answer::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                self.out.extend_from_slice(&data[..taken]);
                *left -= taken as u64;
                if *left == 0 {
                    self.answer = Answer::Done;
                }
            }
            Answer::Chunked => frame_chunk(data, &mut self.out),
            Answer::UntilClose => self.out.extend_from_slice(data),
            Answer::NotStarted | Answer::Done => {}
        }
    }

    /// How many bytes are missing from the announced length, where there is one.
    pub fn missing(&self) -> Option<u64> {
        match self.answer {
            Answer::Length(left) => Some(left),
            Answer::Done => Some(0),
            _ => None,
        }
    }

    /// Bytes that wait to be written.
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// Writes what waits.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let result = write_all(&mut self.stream, &self.out, self.write_deadline).await;
        shrink(&mut self.out);
        result
    }

    /// Ends the answer properly; an answer shorter than its announced length ends as a broken one.
    pub async fn finish(&mut self) -> io::Result<()> {
        if self.answer == Answer::Chunked {
            self.out.extend_from_slice(b"0\r\n\r\n");
        }
        if matches!(self.answer, Answer::Length(_) | Answer::UntilClose) {
            self.keep_alive = false;
        }
        self.answer = Answer::Done;
        self.flush().await
    }

    /// Forbids another request on this connection.
    pub fn close_after(&mut self) {
        self.keep_alive = false;
    }

    /// Whether another request may follow: the answer is complete, the request was read, and nobody wants to close.
    pub fn is_reusable(&self) -> bool {
        self.keep_alive && self.answer == Answer::Done && self.request_body.is_done()
    }

    /// Closes the connection so that what was written arrives: first our side, then a moment for the client's bytes.
    pub async fn close(mut self) {
        let _ = self.stream.shutdown().await;
        if self.request_body.is_done() {
            return;
        }
        let deadline = Instant::now() + LINGER;
        let mut dropped = 0;
        while dropped < MAX_LINGER {
            self.ahead.clear();
            match timeout_at(deadline, fill(&mut self.stream, &mut self.ahead)).await {
                Ok(Ok(read @ 1..)) => dropped += read,
                _ => return,
            }
        }
    }

    /// Ends our side of a connection whose client has gone.
    pub async fn hang_up(&mut self) {
        self.keep_alive = false;
        let _ = timeout_at(Instant::now() + LINGER, self.stream.shutdown()).await;
    }

    /// Leaves HTTP: the transport and what was read ahead, for a tunnel.
    pub fn into_tunnel(self) -> (Stream, BytesMut) {
        (self.stream, self.ahead)
    }

    /// The transport, to ask it about its peer.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

fn reason(head: &AnswerHead) -> &str {
    match head.reason.as_str() {
        "" => http::StatusCode::from_u16(head.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or(""),
        reason => reason,
    }
}

/// Appends `name: value` and the line's end.
pub fn push_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal digits.
pub fn push_decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    use super::*;

    const LIMITS: Limits = Limits {
        heads: HeadLimits {
            bytes: 4096,
            fields: 16,
            target: 100,
        },
        head: Duration::from_secs(5),
        keepalive: Duration::from_secs(5),
        write: Duration::from_secs(5),
        body_idle: Duration::from_secs(5),
    };

    fn connection() -> (DuplexStream, H1Server) {
        let (client, server) = duplex(1024);
        (client, H1Server::new(Box::new(server)))
    }

    #[tokio::test]
    async fn a_client_can_send_the_rest_of_a_refused_head_and_read_why() {
        let (mut client, mut session) = connection();
        let served = tokio::spawn(async move {
            let refused = session.read_head(&LIMITS, LIMITS.keepalive).await;
            assert!(matches!(refused, Err(NoRequest::Refused(HeadError::TooLarge))));
            session.start(&AnswerHead::new(431, Some(0)));
            session.finish().await.unwrap();
            session.close().await;
        });
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(100_000));
        client.write_all(long.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 431 ") && answer.contains("connection: close"),
            "{answer}"
        );
        served.await.unwrap();
    }

    #[tokio::test]
    async fn the_memory_of_a_large_body_is_not_kept_for_the_answer() {
        let (mut client, mut session) = connection();
        tokio::spawn(async move {
            let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(&[b'x'; 100_000]).await.unwrap();
            client
        });
        let head = session.read_head(&LIMITS, LIMITS.keepalive).await.ok().unwrap();
        drop(head);
        let mut body = Vec::new();
        while session.read_body(&mut body, LIMITS.body_idle).await.unwrap() {}
        assert_eq!(body.len(), 100_000);
        assert!(!session.ahead.try_reclaim(1), "nothing is kept");
    }

    #[tokio::test]
    async fn a_client_can_send_the_rest_of_a_body_that_nobody_wants_and_read_why() {
        let (mut client, mut session) = connection();
        let served = tokio::spawn(async move {
            session.read_head(&LIMITS, LIMITS.keepalive).await.ok().unwrap();
            session.start(&AnswerHead::new(401, Some(0)));
            session.finish().await.unwrap();
            session.close().await;
        });
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&[b'x'; 5_000_000]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        served.await.unwrap();
    }
}
