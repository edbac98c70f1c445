//! A raw HTTP/1.1 client connection: sends exactly what it is given and notes when which bytes came back.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::framing::{BodyReader, Head};
use crate::{Ask, Ca, PATIENCE};

/// One connection to a server.
pub struct Wire {
    stream: Stream,
    host: String,
    buffer: BytesMut,
    body: BodyReader,
    ended: Option<End>,
}

/// How a connection, or a body on it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The body was complete by its own framing; the connection may be used again.
    Complete,
    /// The other side closed, and that was a regular end.
    Closed,
    /// The other side closed in the middle of a head or a body.
    Cut,
    /// The other side reset the connection.
    Reset,
    /// Nothing came any more.
    Silence,
}

/// A piece of a body and when it came.
#[derive(Clone, Debug)]
pub struct Piece {
    pub at: Instant,
    pub bytes: Bytes,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: Head,
    /// Heads with a status below 200 that came before.
    pub informational: Vec<Head>,
    pub head_at: Instant,
    pub pieces: Vec<Piece>,
    /// The body without its framing.
    pub body: Bytes,
    pub trailers: Vec<u8>,
    pub end: End,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Panics
    /// When the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON ({}): {}", self.status, self.text()))
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.get(name)
    }

    /// The answer itself when its status is the expected one.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{}\n{}",
            String::from_utf8_lossy(&self.head.raw),
            self.text()
        );
        self
    }
}

impl Wire {
    /// # Panics
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).expect("a socket that takes options");
        Self::over(Stream::Plain(stream), address.to_string())
    }

    /// # Errors
    /// [`End::Closed`] when nobody listens.
    pub async fn try_connect(address: SocketAddr) -> Result<Self, End> {
        let stream = TcpStream::connect(address).await.map_err(|_| End::Closed)?;
        stream.set_nodelay(true).map_err(|_| End::Reset)?;
        Ok(Self::over(Stream::Plain(stream), address.to_string()))
    }

    /// TLS, offering HTTP/1.1 only.
    ///
    /// # Panics
    /// When the handshake fails.
    pub async fn connect_tls(address: SocketAddr, ca: &Ca) -> Self {
        let stream = ca.connect(address, &[b"http/1.1"]).await;
        Self::over(Stream::Tls(Box::new(stream)), format!("localhost:{}", address.port()))
    }

    fn over(stream: Stream, host: String) -> Self {
        let body = BodyReader::of_request(&Head::default());
        Self {
            stream,
            host,
            buffer: BytesMut::new(),
            body,
            ended: None,
        }
    }

    /// Sends these bytes; a connection that the other side has already given up shows when it is read.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let sent = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.ended
                .get_or_insert(if sent.is_err() { End::Silence } else { End::Reset });
        }
        self
    }

    /// Sends a whole request.
    pub async fn ask(&mut self, ask: &Ask) -> &mut Self {
        let bytes = ask.bytes(&self.host);
        self.send(bytes).await
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&mut self, ask: &Ask) -> Answer {
        self.ask(ask).await;
        self.answer_to(&ask.method).await
    }

    /// Reads one whole answer to a request that was not HEAD.
    pub async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    pub async fn answer_to(&mut self, method: &str) -> Answer {
        let answer = self.answer_head(method).await;
        self.rest_of(answer).await
    }

    /// Like [`Wire::answer_to`], for requests that may get no answer.
    ///
    /// # Errors
    /// How the connection ended before there was a head.
    pub async fn try_answer_to(&mut self, method: &str) -> Result<Answer, End> {
        let answer = self.try_answer_head(method).await?;
        Ok(self.rest_of(answer).await)
    }

    /// Reads what is left of an answer whose head is there, and perhaps the first pieces.
    pub async fn rest_of(&mut self, mut answer: Answer) -> Answer {
        while let Some(piece) = self.piece().await {
            answer.pieces.push(piece);
        }
        self.finish(answer)
    }

    /// Reads the head only; the body is then read with [`Wire::piece`] and put together with [`Wire::finish`].
    ///
    /// # Panics
    /// When the connection ends before a head has come.
    pub async fn answer_head(&mut self, method: &str) -> Answer {
        self.try_answer_head(method).await.unwrap_or_else(|end| {
            panic!(
                "no answer, but {end:?} after {:?}",
                String::from_utf8_lossy(&self.buffer)
            )
        })
    }

    /// Like [`Wire::answer_head`], for requests that may get no answer.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn try_answer_head(&mut self, method: &str) -> Result<Answer, End> {
        let mut informational = Vec::new();
        loop {
            let Some(head) = Head::take(&mut self.buffer) else {
                self.fill(PATIENCE).await?;
                continue;
            };
            let status = head.first.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status: u16 = status.unwrap_or_else(|| panic!("not a status line: {:?}", head.first));
            if (100..200).contains(&status) && status != 101 {
                informational.push(head);
                continue;
            }
            self.body = BodyReader::of_answer(&head, status, method);
            return Ok(Answer {
                status,
                head,
                informational,
                head_at: Instant::now(),
                pieces: Vec::new(),
                body: Bytes::new(),
                trailers: Vec::new(),
                end: End::Complete,
            });
        }
    }

    /// The next piece of the body; none when it is over, in whatever way.
    pub async fn piece(&mut self) -> Option<Piece> {
        self.piece_within(PATIENCE).await
    }

    pub async fn piece_within(&mut self, patience: Duration) -> Option<Piece> {
        loop {
            if let Some(bytes) = self.body.next(&mut self.buffer) {
                return Some(Piece {
                    at: Instant::now(),
                    // A piece of the buffer would keep all of it, for as long as the answer is kept.
                    bytes: Bytes::copy_from_slice(&bytes),
                });
            }
            if self.body.is_done() || self.fill(patience).await.is_err() {
                return None;
            }
        }
    }

    pub fn finish(&mut self, mut answer: Answer) -> Answer {
        answer.body = answer
            .pieces
            .iter()
            .flat_map(|piece| piece.bytes.iter().copied())
            .collect();
        answer.trailers.clone_from(&self.body.trailers);
        answer.end = self.body_end();
        answer
    }

    fn body_end(&self) -> End {
        match self.ended {
            _ if self.body.is_done() => End::Complete,
            None => End::Silence,
            Some(End::Closed) if !self.body.ends_with_connection() => End::Cut,
            Some(end) => end,
        }
    }

    /// Reads until the other side ends the connection, and says how; the bytes stay unread.
    pub async fn end(&mut self, patience: Duration) -> End {
        loop {
            if let Err(end) = self.fill(patience).await {
                return end;
            }
        }
    }

    /// What came and was not read as an answer yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer
    }

    async fn fill(&mut self, patience: Duration) -> Result<(), End> {
        if let Some(end) = self.ended {
            return Err(end);
        }
        // Room for whatever has come, so that a chunk that came whole is read whole.
        self.buffer.reserve(64 * 1024);
        let end = match tokio::time::timeout(patience, self.stream.read_buf(&mut self.buffer)).await {
            Err(_) => return Err(End::Silence),
            Ok(Ok(0)) => End::Closed,
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => End::Cut,
            Ok(Err(_)) => End::Reset,
        };
        self.ended = Some(end);
        Err(end)
    }

    /// Says that no more will be sent, and can still read.
    pub async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Hangs up with a reset instead of a regular end.
    pub fn reset(self) {
        self.stream
            .tcp()
            .set_zero_linger()
            .expect("a socket that takes options");
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
