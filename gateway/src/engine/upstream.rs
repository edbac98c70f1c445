//! The provider's side of a request, whatever version of HTTP it speaks: sending, and reading the answer piece by piece.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Method;

use super::Stream;
use super::connect::{ConnectError, Connector, Origin};
use super::h1::client::{AnswerError, H1Client, ONE_WRITE};
use super::h1::server::{push_decimal, push_field};
use super::h2_client::{H2Client, H2Request, handshake};
use super::headers::{Headers, ResponseHead};
use super::pool::{Pool, Streams};

/// How long the answer of a server that stopped reading is waited for.
pub(super) const REFUSAL: Duration = Duration::from_secs(2);
/// How long after a request a server's closing can still be one that crossed with it. One that closes later has had the
/// request, and may have worked on it and bill it.
const CROSSING: Duration = Duration::from_secs(1);

/// Opens, pools and uses connections to providers and to the control API.
pub struct Upstreams {
    connector: Connector,
    pool: Pool,
    max_head: usize,
    write_deadline: Duration,
}

/// A request as it goes out.
pub struct OutRequest {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// End-to-end fields, without `host` and framing.
    pub headers: Headers,
    /// The whole body, or `None` where the request has none (no framing is sent then).
    pub body: Option<Bytes>,
    /// The protocol to upgrade to; only over HTTP/1.
    pub upgrade: Option<String>,
    /// Whether all of it went out: the server works on it then, whether anybody waits or not.
    pub is_sent: AtomicBool,
}

/// An answer in progress.
pub enum Upstream {
    /// On an HTTP/1 connection of its own.
    H1(H1Client, Arc<str>),
    /// On a stream of a shared HTTP/2 connection.
    H2(H2Client),
}

/// Why a request got no (whole) answer.
#[derive(Debug)]
pub enum UpstreamError {
    /// It was never sent.
    Connect(ConnectError),
    /// It was sent, at least in part; the provider may have worked on it.
    Broken(AnswerError),
    /// The answer did not begin in time.
    Timeout,
}

impl UpstreamError {
    /// Whether waiting was what failed: 504 instead of 502.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout | Self::Connect(ConnectError::Timeout))
    }

    /// Whether the provider has seen nothing of the request.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_))
    }

    /// A short, stable word for metrics and the request log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connect(ConnectError::Resolve(_)) => "dns",
            Self::Connect(ConnectError::Egress(_)) => "egress",
            Self::Connect(ConnectError::Timeout) => "connect_timeout",
            Self::Connect(ConnectError::Tls(_)) => "tls",
            Self::Connect(ConnectError::Io(_)) => "connect",
            Self::Broken(AnswerError::Malformed(_) | AnswerError::HeadTooLarge) => "malformed",
            Self::Broken(_) => "reset",
            Self::Timeout => "timeout",
        }
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => why.fmt(f),
            Self::Broken(AnswerError::Io(error)) => write!(f, "the connection broke: {error}"),
            Self::Broken(AnswerError::Closed) => {
                f.write_str("the connection was closed before the answer was complete")
            }
            Self::Broken(AnswerError::Malformed(why)) => write!(f, "the answer is not HTTP: {why}"),
            Self::Broken(AnswerError::HeadTooLarge) => f.write_str("the head of the answer is too large"),
            Self::Timeout => f.write_str("no answer in time"),
        }
    }
}

impl Upstreams {
    /// `max_head` bounds the heads of answers; `write_deadline` is for the provider to take what is written to it.
    pub fn new(connector: Connector, pool: Pool, max_head: usize, write_deadline: Duration) -> Self {
        Self {
            connector,
            pool,
            max_head,
            write_deadline,
        }
    }

    /// The pool, for its sweeper.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Sends a request and waits up to `first_byte` for the head of its answer.
    ///
    /// A pooled connection that turns out to be closed before any byte of an answer is replaced once: the server closed it
    /// while the request was on its way.
    pub async fn request(
        &self,
        origin: &Origin,
        request: &OutRequest,
        first_byte: Duration,
    ) -> Result<(Upstream, ResponseHead), UpstreamError> {
        let began = Instant::now();
        let crossed = || began.elapsed() < CROSSING;
        if let Some(stream) = self.pool.take(&origin.key) {
            match self.exchange(H1Client::new(stream), origin, request, first_byte).await {
                Err((UpstreamError::Broken(AnswerError::Closed | AnswerError::Io(_)), false)) if crossed() => {}
                result => return result.map_err(|(error, _)| error),
            }
        } else if request.upgrade.is_none()
            && let Some(shared) = self.pool.shared(&origin.key)
        {
            match Box::pin(self.exchange_h2(shared, origin, request, first_byte)).await {
                Err((UpstreamError::Broken(AnswerError::Closed | AnswerError::Io(_)), false)) => {}
                result => return result.map_err(|(error, _)| error),
            }
        }
        // Boxed: connecting is rare and its future is large.
        let stream = Box::pin(async {
            match request.upgrade {
                // HTTP/2 has no upgrades, and most servers would choose it.
                Some(_) => self.connector.connect_h1(origin).await,
                None => self.connector.connect(origin).await,
            }
        });
        let stream = stream.await.map_err(UpstreamError::Connect)?;
        if Connector::is_http2(&stream) {
            let shared = Box::pin(handshake(stream, self.max_head))
                .await
                .map_err(|error| UpstreamError::Connect(ConnectError::Io(error.to_string())))?;
            let shared = (shared, Streams::default());
            self.pool.share(&origin.key, shared.0.clone(), shared.1.clone());
            return Box::pin(self.exchange_h2(shared, origin, request, first_byte))
                .await
                .map_err(|(error, _)| error);
        }
        self.exchange(H1Client::new(stream), origin, request, first_byte)
            .await
            .map_err(|(error, _)| error)
    }

    /// The `bool` of the error: whether any byte of an answer came.
    async fn exchange(
        &self,
        mut session: H1Client,
        origin: &Origin,
        request: &OutRequest,
        first_byte: Duration,
    ) -> Result<(Upstream, ResponseHead), (UpstreamError, bool)> {
        let body = request.body.as_deref().unwrap_or(&[]);
        let sent = session
            .send(
                wire_head(origin, request, OutFraming::of(request)),
                body,
                self.write_deadline,
            )
            .await;
        request.is_sent.store(sent.is_ok(), Ordering::Relaxed);
        // Even after a failed write there may be an answer: servers refuse large bodies early.
        let patience = if sent.is_ok() {
            first_byte
        } else {
            first_byte.min(REFUSAL)
        };
        let answer = tokio::time::timeout(
            patience,
            session.read_head(self.max_head, request.method == Method::HEAD, request.upgrade.is_some()),
        )
        .await;
        match (sent, answer) {
            (sent, Ok(Ok(head))) => {
                if sent.is_err() {
                    // The server would read the next request as the rest of this one.
                    session.close_after();
                }
                Ok((Upstream::H1(session, origin.key.clone()), head))
            }
            (Err(error), _) => Err((UpstreamError::Broken(AnswerError::Io(error)), session.was_answered())),
            (Ok(()), Ok(Err(error))) => Err((UpstreamError::Broken(error), session.was_answered())),
            (Ok(()), Err(_)) => Err((UpstreamError::Timeout, true)),
        }
    }

    async fn exchange_h2(
        &self,
        shared: (h2::client::SendRequest<Bytes>, Streams),
        origin: &Origin,
        request: &OutRequest,
        first_byte: Duration,
    ) -> Result<(Upstream, ResponseHead), (UpstreamError, bool)> {
        let scheme = if origin.is_tls() { "https" } else { "http" };
        let uri = format!("{scheme}://{}{}", origin.authority, request.target);
        let mut headers = request.headers.clone();
        let body = request.body.clone();
        if let Some(body) = &body {
            headers.push("content-length", body.len().to_string().as_bytes());
        }
        let head = H2Request {
            method: &request.method,
            uri,
            headers: &headers,
        };
        let broken = |error: io::Error| (UpstreamError::Broken(AnswerError::Io(error)), false);
        let mut session = H2Client::send(shared, head, body.unwrap_or_default(), self.write_deadline)
            .await
            .map_err(broken)?;
        request.is_sent.store(true, Ordering::Relaxed);
        match tokio::time::timeout(first_byte, session.read_head()).await {
            Ok(Ok(head)) => Ok((Upstream::H2(session), head)),
            Ok(Err(error)) => {
                let unseen = is_unseen(&error);
                Err((UpstreamError::Broken(error), !unseen))
            }
            Err(_) => Err((UpstreamError::Timeout, true)),
        }
    }

    pub(super) async fn connect_h1(&self, origin: &Origin) -> Result<Stream, UpstreamError> {
        self.connector.connect_h1(origin).await.map_err(UpstreamError::Connect)
    }

    /// The head of a request whose body follows, by length or in chunks.
    pub(super) fn upload_head(&self, origin: &Origin, request: &OutRequest, length: Option<u64>) -> Vec<u8> {
        let framing = length.map_or(OutFraming::Chunked, OutFraming::Length);
        wire_head(origin, request, framing)
    }

    pub(super) fn max_head(&self) -> usize {
        self.max_head
    }

    pub(super) fn write_deadline(&self) -> Duration {
        self.write_deadline
    }

    /// Gives back what can be used again. The answer must have been read to its end.
    pub fn release(&self, upstream: Upstream) {
        if let Upstream::H1(session, key) = upstream
            && let Some(stream) = session.into_reusable()
        {
            self.pool.put(&key, stream);
        }
    }
}

impl Upstream {
    /// Gives what was received to `sink`; `true` at the end of the body.
    pub fn decode(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<bool, AnswerError> {
        match self {
            Self::H1(session, _) => session.decode(sink),
            Self::H2(session) => Ok(session.decode(sink)),
        }
    }

    /// Waits for more; `false` where the connection's end is the body's. Cancel-safe.
    pub async fn fill(&mut self) -> Result<bool, AnswerError> {
        match self {
            Self::H1(session, _) => session.fill().await,
            Self::H2(session) => session.fill().await,
        }
    }

    /// Leaves HTTP after a 101; `None` over HTTP/2, which has none.
    pub fn into_tunnel(self) -> Option<(Stream, BytesMut)> {
        match self {
            Self::H1(session, _) => Some(session.into_tunnel()),
            Self::H2(_) => None,
        }
    }
}

/// Whether the server says that it has done nothing about the request (RFC 9113, 8.7), as one that retires its connection does.
fn is_unseen(error: &AnswerError) -> bool {
    let AnswerError::Io(error) = error else { return false };
    let error = error.get_ref().and_then(|error| error.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// How a request's body is framed on an HTTP/1 wire.
enum OutFraming {
    None,
    Length(u64),
    Chunked,
}

impl OutFraming {
    fn of(request: &OutRequest) -> Self {
        request
            .body
            .as_ref()
            .map_or(Self::None, |body| Self::Length(body.len() as u64))
    }
}

/// The head on an HTTP/1 wire, with its blank line.
fn wire_head(origin: &Origin, request: &OutRequest, framing: OutFraming) -> Vec<u8> {
    // Room for a body that is written along with the head.
    let body = request.body.as_ref().map_or(0, |body| body.len()).min(ONE_WRITE);
    let mut out = Vec::with_capacity(1024 + request.target.len() + body);
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(origin.authority.as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in request.headers.iter() {
        push_field(name, value, &mut out);
    }
    match framing {
        OutFraming::None => {}
        OutFraming::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            push_decimal(length, &mut out);
            out.extend_from_slice(b"\r\n");
        }
        OutFraming::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if let Some(protocol) = &request.upgrade {
        push_field("connection", b"upgrade", &mut out);
        push_field("upgrade", protocol.as_bytes(), &mut out);
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use ace_policies::ssrf::EgressAllow;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::engine::connect::ConnectOptions;

    const SOON: Duration = Duration::from_secs(5);

    fn upstreams(write_deadline: Duration) -> Upstreams {
        let connector = Connector::new(ConnectOptions {
            timeout: SOON,
            dns_ttl: SOON,
            http2: true,
            ca_file: None,
            allow: EgressAllow::default(),
        });
        Upstreams::new(connector, Pool::new(1, 8, SOON), 4096, write_deadline)
    }

    fn post(body: Vec<u8>) -> OutRequest {
        OutRequest {
            method: Method::POST,
            target: "/".to_owned(),
            headers: Headers::default(),
            body: Some(body.into()),
            upgrade: None,
            is_sent: AtomicBool::default(),
        }
    }

    /// A server of one's own making, and how many connections it has had.
    async fn server<F: Future<Output = io::Result<()>> + Send + 'static>(
        serve: impl Fn(TcpStream, usize) -> F + Send + Sync + Copy + 'static,
    ) -> (Origin, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Origin::control("127.0.0.1", listener.local_addr().unwrap().port());
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, count.fetch_add(1, Ordering::SeqCst)));
            }
        });
        (origin, connections)
    }

    /// Reads a head and a body of `body` bytes.
    async fn read_request(stream: &mut TcpStream, body: usize) -> io::Result<()> {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            read.push(stream.read_u8().await?);
        }
        stream.read_exact(&mut vec![0; body]).await.map(drop)
    }

    async fn answer(stream: &mut TcpStream, status: u16) -> io::Result<()> {
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await
    }

    /// Sends a request, reads its answer to the end and gives the connection back.
    async fn ask(upstreams: &Upstreams, origin: &Origin, request: &OutRequest) -> u16 {
        let (mut upstream, head) = upstreams.request(origin, request, SOON).await.unwrap();
        assert!(upstream.decode(&mut |_| ()).unwrap());
        upstreams.release(upstream);
        head.status
    }

    #[tokio::test]
    async fn a_connection_with_half_a_request_on_it_is_not_used_again() {
        let (origin, connections) = server(|mut stream, number| async move {
            if number == 0 {
                read_request(&mut stream, 0).await?;
                answer(&mut stream, 413).await?;
                tokio::time::sleep(Duration::from_millis(300)).await;
                // It goes on with the body, which is all that comes for it.
                return tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop);
            }
            read_request(&mut stream, 1).await?;
            answer(&mut stream, 200).await
        })
        .await;
        let upstreams = upstreams(Duration::from_millis(200));
        assert_eq!(ask(&upstreams, &origin, &post(vec![b'x'; 64 << 20])).await, 413);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(ask(&upstreams, &origin, &post(vec![b'x'])).await, 200);
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_request_is_sent_again_only_where_the_servers_closing_has_crossed_it() {
        for (pause, connections) in [(Duration::ZERO, 2), (CROSSING, 1)] {
            let (origin, count) = server(move |mut stream, number| async move {
                read_request(&mut stream, 1).await?;
                answer(&mut stream, 200).await?;
                read_request(&mut stream, 1).await?;
                tokio::time::sleep(if number == 0 { pause } else { SOON }).await;
                Ok(())
            })
            .await;
            let upstreams = upstreams(SOON);
            let request = post(vec![b'x']);
            assert_eq!(ask(&upstreams, &origin, &request).await, 200);
            let again = upstreams.request(&origin, &request, SOON).await;
            assert_eq!(again.is_ok(), connections == 2);
            assert_eq!(count.load(Ordering::SeqCst), connections);
        }
    }

    /// Shares an HTTP/2 connection whose server takes one stream at a time and sends `frame` once a request is there.
    async fn share(upstreams: &Upstreams, origin: &Origin, frame: &'static [u8]) {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            const SETTINGS: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1];
            const HEADERS: u8 = 1;
            theirs.write_all(&SETTINGS).await.unwrap();
            theirs.read_exact(&mut [0; 24]).await.unwrap();
            loop {
                let mut header = [0; 9];
                theirs.read_exact(&mut header).await.unwrap();
                let length = usize::from(header[1]) << 8 | usize::from(header[2]);
                theirs.read_exact(&mut vec![0; length]).await.unwrap();
                if header[3] == HEADERS {
                    theirs.write_all(frame).await.unwrap();
                }
            }
        });
        let requests = handshake(Box::new(ours), 4096).await.unwrap();
        upstreams.pool.share(&origin.key, requests, Streams::default());
    }

    #[tokio::test]
    async fn what_a_server_of_http2_says_it_has_not_seen_is_sent_on_another_connection() {
        let reset = |reason: u8| [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, reason].to_vec().leak() as &[u8];
        let (refused, internal_error) = (reset(7), reset(2));
        let retired = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (frame, again) in [(refused, true), (retired, true), (internal_error, false)] {
            let (origin, count) = server(|mut stream, _| async move {
                read_request(&mut stream, 1).await?;
                answer(&mut stream, 200).await
            })
            .await;
            let upstreams = upstreams(SOON);
            share(&upstreams, &origin, frame).await;
            let asked = upstreams.request(&origin, &post(vec![b'x']), SOON).await;
            assert_eq!(
                (asked.is_ok(), count.load(Ordering::SeqCst)),
                (again, usize::from(again))
            );
        }
    }

    #[tokio::test]
    async fn a_request_does_not_wait_for_the_streams_of_a_full_connection() {
        let (origin, count) = server(|mut stream, _| async move {
            read_request(&mut stream, 1).await?;
            answer(&mut stream, 200).await
        })
        .await;
        let (upstreams, request) = (upstreams(SOON), post(vec![b'x']));
        share(&upstreams, &origin, &[]).await;
        let second = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            upstreams.request(&origin, &request, SOON).await
        };
        tokio::select! {
            _ = upstreams.request(&origin, &request, SOON) => panic!("nobody answers it"),
            second = second => assert!(second.is_ok()),
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_upgrade_goes_over_http1_although_an_http2_connection_is_there() {
        let (origin, count) = server(|mut stream, _| async move {
            read_request(&mut stream, 0).await?;
            answer(&mut stream, 101).await
        })
        .await;
        let upstreams = upstreams(SOON);
        share(&upstreams, &origin, &[]).await;
        let request = OutRequest {
            body: None,
            upgrade: Some("websocket".to_owned()),
            ..post(Vec::new())
        };
        let (_, head) = upstreams.request(&origin, &request, SOON).await.unwrap();
        assert_eq!((head.status, count.load(Ordering::SeqCst)), (101, 1));
    }
}
