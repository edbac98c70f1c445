//! A provider that speaks HTTP/2 over TLS, as the real ones do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::{Ca, eventually};

/// A fake HTTP/2 provider. It streams the chunks that it was given to every request.
pub struct H2Provider {
    address: SocketAddr,
    stage: Arc<Stage>,
    listener: AbortHandle,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct H2Seen {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// When the other side was seen to have reset the stream.
    pub gone: Option<Instant>,
}

struct Stage {
    content_type: String,
    chunks: Vec<Bytes>,
    gap: Duration,
    seen: Mutex<Vec<H2Seen>>,
}

impl H2Provider {
    /// Answers every request with these chunks, `gap` apart.
    pub async fn start<T: Into<Bytes>>(ca: &Ca, content_type: &str, chunks: Vec<T>, gap: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let chunks = chunks.into_iter().map(Into::into).collect();
        let stage = Arc::new(Stage {
            content_type: content_type.to_owned(),
            chunks,
            gap,
            seen: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, ca.acceptor(&[b"h2"]), Arc::clone(&stage)));
        Self {
            address,
            stage,
            listener: task.abort_handle(),
        }
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub fn requests(&self) -> Vec<H2Seen> {
        self.stage.seen.lock().expect("no story panics while it looks").clone()
    }

    /// Waits until the stream of request number `n` was reset, and says when.
    pub async fn departure(&self, n: usize) -> Instant {
        eventually("the stream to be reset", async || self.requests().get(n)?.gone).await
    }
}

impl Drop for H2Provider {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, stage: Arc<Stage>) {
    loop {
        let (tcp, _) = listener.accept().await.expect("a listener that works");
        tokio::spawn(converse(tcp, tls.clone(), Arc::clone(&stage)));
    }
}

async fn converse(tcp: TcpStream, tls: TlsAcceptor, stage: Arc<Stage>) {
    let Ok(stream) = tls.accept(tcp).await else { return };
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, Arc::clone(&stage)));
    }
}

async fn answer(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, stage: Arc<Stage>) {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
    }
    let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let seen = H2Seen {
        method: head.method,
        path,
        headers: head.headers,
        body: bytes.into(),
        gone: None,
    };
    let n = {
        let mut all = stage.seen.lock().expect("no story panics while it looks");
        all.push(seen);
        all.len() - 1
    };
    let response = Response::builder()
        .header("content-type", &stage.content_type)
        .body(())
        .expect("a good head");
    let Ok(mut stream) = respond.send_response(response, false) else {
        return;
    };
    if send(&mut stream, &stage).await.is_err() {
        stage.seen.lock().expect("no story panics while it looks")[n].gone = Some(Instant::now());
    }
}

async fn send(stream: &mut SendStream<Bytes>, stage: &Stage) -> Result<(), h2::Error> {
    for chunk in &stage.chunks {
        stream.send_data(chunk.clone(), false)?;
        let reset = std::future::poll_fn(|cx| stream.poll_reset(cx));
        if let Ok(reset) = tokio::time::timeout(stage.gap, reset).await {
            return Err(reset?.into());
        }
    }
    stream.send_data(Bytes::new(), true)
}
