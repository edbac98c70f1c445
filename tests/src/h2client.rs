//! An HTTP/2 client, in the clear with prior knowledge or over TLS.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use h2::client::{SendRequest, handshake};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::ask::Body;
use crate::{Ask, Ca, PATIENCE, Piece};

/// One HTTP/2 connection; its clones share it.
#[derive(Clone)]
pub struct H2Client {
    sender: SendRequest<Bytes>,
    authority: String,
    scheme: &'static str,
}

/// A stream whose head has come.
pub struct H2Stream {
    pub status: u16,
    pub headers: HeaderMap,
    body: RecvStream,
    request: SendStream<Bytes>,
    /// Why the stream broke, if it did.
    pub broken: Option<Reason>,
}

/// A whole answer.
pub struct H2Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub pieces: Vec<Piece>,
    pub body: Bytes,
    pub broken: Option<Reason>,
}

impl H2Client {
    /// # Panics
    /// When nobody listens, or nobody speaks HTTP/2.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .unwrap_or_else(|error| panic!("{address}: {error}"));
        Self::over(stream, address.to_string(), "http").await
    }

    /// # Panics
    /// When the server does not choose HTTP/2.
    pub async fn connect_tls(address: SocketAddr, ca: &Ca) -> Self {
        let stream = ca.connect(address, &[b"h2", b"http/1.1"]).await;
        assert_eq!(
            stream.get_ref().1.alpn_protocol(),
            Some(&b"h2"[..]),
            "the protocol that the server chose"
        );
        Self::over(stream, format!("localhost:{}", address.port()), "https").await
    }

    async fn over<S>(stream: S, authority: String, scheme: &'static str) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(stream).await.expect("an HTTP/2 handshake");
        tokio::spawn(connection);
        Self {
            sender,
            authority,
            scheme,
        }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Panics
    /// When the stream breaks before there is one.
    pub async fn open(&mut self, ask: &Ask) -> H2Stream {
        self.try_open(ask)
            .await
            .unwrap_or_else(|error| panic!("no answer, but {error}"))
    }

    /// Like [`H2Client::open`], for requests that may get no answer.
    ///
    /// # Errors
    /// How the stream or the connection broke.
    pub async fn try_open(&mut self, ask: &Ask) -> Result<H2Stream, h2::Error> {
        let uri = format!("{}://{}{}", self.scheme, self.authority, ask.target);
        let mut request = Request::builder().method(ask.method.as_str()).uri(uri);
        for (name, value) in &ask.headers {
            request = request.header(name.as_str(), value.as_slice());
        }
        let request = request.body(()).expect("a request that HTTP/2 can carry");
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, matches!(ask.body, Body::None))?;
        match &ask.body {
            Body::None => {}
            Body::Whole(body) => stream.send_data(body.clone(), true)?,
            Body::Chunks(chunks) => {
                chunks
                    .iter()
                    .try_for_each(|chunk| stream.send_data(chunk.clone(), false))?;
                stream.send_data(Bytes::new(), true)?;
            }
        }
        let response = tokio::time::timeout(PATIENCE, response)
            .await
            .expect("an answer in time")?;
        let (head, body) = response.into_parts();
        Ok(H2Stream {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            request: stream,
            broken: None,
        })
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&mut self, ask: &Ask) -> H2Answer {
        let mut stream = self.open(ask).await;
        let mut pieces = Vec::new();
        while let Some(piece) = stream.piece().await {
            pieces.push(piece);
        }
        let body = pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect();
        H2Answer {
            status: stream.status,
            headers: stream.headers,
            pieces,
            body,
            broken: stream.broken,
        }
    }
}

impl H2Stream {
    /// The next piece of the body; none when it is over, in whatever way.
    pub async fn piece(&mut self) -> Option<Piece> {
        let data = tokio::time::timeout(PATIENCE, self.body.data())
            .await
            .expect("a piece in time");
        match data? {
            Ok(bytes) => {
                let _ = self.body.flow_control().release_capacity(bytes.len());
                Some(Piece {
                    at: Instant::now(),
                    bytes,
                })
            }
            Err(error) => {
                self.broken = Some(error.reason().unwrap_or(Reason::INTERNAL_ERROR));
                None
            }
        }
    }

    /// Hangs up on this stream only.
    pub fn hang_up(mut self) {
        self.request.send_reset(Reason::CANCEL);
    }
}

impl H2Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
