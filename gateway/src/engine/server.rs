//! Listening, accepting, and the life of a connection.
//!
//! Every thread has a runtime of its own and its own copy of each listening socket, so a connection's reads and writes stay on
//! the thread that accepted it. Pingora accepts and does the TLS handshake; the sessions are ours.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use pingora_core::apps::ServerApp;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::listeners::{L4BufferSettings, ListenerConfig};
use pingora_core::protocols::ALPN;
use pingora_core::server::{Fds, ShutdownWatch};
use pingora_core::services::Service as PingoraService;
use pingora_core::services::listening::Service as ListeningService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::Stream;
use super::downstream::{Downstream, Limits};
use super::h1::head::HeadError;
use super::h1::server::{H1Server, NoRequest};
use super::h2_server::H2Server;
use super::headers::RequestHead;
use super::io::fill;
use super::pool::use_shard;

/// What a client that speaks HTTP/2 sends first (RFC 9113 §3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection that was accepted before the end began may take to send its first request.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);
/// For every connection to notice that the end has begun, before they are counted.
const NOTICE: Duration = Duration::from_millis(50);

/// Serves requests.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn serve(self: &Arc<Self>, request: Incoming) -> impl Future<Output = Served> + Send;

    /// Called from time to time on every thread, for housekeeping of what is kept per thread.
    fn sweep(&self);

    /// How often to [`Self::sweep`].
    fn sweep_interval(&self) -> Duration;
}

/// A request as it was accepted.
pub struct Incoming {
    /// The way to read its body and to answer.
    pub downstream: Downstream,
    /// Its head, or why that was refused.
    pub head: Result<RequestHead, HeadRefusal>,
    /// Address of the peer.
    pub peer: IpAddr,
    /// Whether the peer speaks TLS with us.
    pub tls: bool,
    /// Tells when the process wants to end.
    pub stop: Stop,
}

/// Why there is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadRefusal {
    /// It was not finished in time.
    Timeout,
    /// It was refused.
    Head(HeadError),
}

/// How a request ended, as far as its connection is concerned.
pub enum Served {
    /// Answered; the session can go on if it is in a state to.
    Answered(Downstream),
    /// The answer broke off, or the client went away, or the connection is a tunnel now.
    Broken,
}

/// The phases of a process that ends. A phase never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Running,
    /// No new connections; requests in flight go on.
    Draining,
    /// Requests in flight are to end now, each in its protocol's way.
    Ending,
}

/// Tells connections and requests about the end of the process, and counts them.
#[derive(Clone)]
pub struct Stop {
    phase: watch::Receiver<Phase>,
    active: Arc<AtomicUsize>,
}

impl Stop {
    /// Waits until streams are to end.
    pub async fn ending(&mut self) {
        self.reached(Phase::Ending).await;
    }

    /// Waits until a connection on which no request has come yet has no more time for one: its client connected before the
    /// listeners were closed, and may be about to send.
    async fn nothing_came(&mut self) {
        self.reached(Phase::Draining).await;
        let _expected = self.enter();
        tokio::time::sleep(FIRST_REQUEST_GRACE).await;
    }

    async fn reached(&mut self, wanted: Phase) {
        if self.phase.wait_for(|phase| *phase >= wanted).await.is_err() {
            // The sender lives as long as the process.
            std::future::pending().await
        }
    }

    /// Whether new requests are still wanted.
    pub fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    fn enter(&self) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(self.active.clone())
    }
}

struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Certificate and key in PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate chain, leaf first.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// What to listen on and with how many threads.
pub struct ServerOptions {
    /// Threads, at least one.
    pub threads: usize,
    /// Limits and deadlines towards clients.
    pub limits: Limits,
    /// Connections in all; more are closed at once.
    pub max_connections: usize,
    /// TLS on all listeners, if set. The files must have been checked.
    pub tls: Option<TlsFiles>,
}

/// A running server.
pub struct Server {
    phase: watch::Sender<Phase>,
    shutdown: watch::Sender<bool>,
    active: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts to accept on `listeners`.
    pub fn start<S: Service>(service: Arc<S>, listeners: &[TcpListener], options: &ServerOptions) -> io::Result<Self> {
        let (phase, phases) = watch::channel(Phase::Running);
        let (shutdown, shutdowns) = watch::channel(false);
        let active = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let stop = Stop {
            phase: phases,
            active: active.clone(),
        };
        let mut threads = Vec::new();
        for index in 0..options.threads.max(1) {
            let app = App {
                service: service.clone(),
                limits: options.limits,
                connections: connections.clone(),
                max_connections: options.max_connections,
                stop: stop.clone(),
            };
            let (fds, endpoints) = listen_again(listeners, options)?;
            let (service, shutdowns, stop) = (service.clone(), shutdowns.clone(), stop.clone());
            let thread = std::thread::Builder::new().name(format!("gateway-{index}"));
            threads.push(thread.spawn(move || run_thread(index, service, app, endpoints, fds, shutdowns, stop))?);
        }
        Ok(Self {
            phase,
            shutdown,
            active,
            threads,
        })
    }

    /// Requests in flight.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Stops accepting and waits for the requests in flight, at most `drain`; then tells streams to end and waits `grace`.
    /// Returns how many requests were still in flight at the very end.
    pub async fn stop(self, drain: Duration, grace: Duration) -> usize {
        let _ = self.shutdown.send(true);
        self.phase.send_replace(Phase::Draining);
        tokio::time::sleep(NOTICE).await;
        if !self.wait_idle(drain).await {
            self.phase.send_replace(Phase::Ending);
            self.wait_idle(grace).await;
        }
        let left = self.active();
        self.phase.send_replace(Phase::Ending);
        let joined =
            tokio::task::spawn_blocking(move || self.threads.into_iter().for_each(|thread| drop(thread.join())));
        if joined.await.is_err() {
            tracing::error!("the gateway's threads could not be waited for");
        }
        left
    }

    async fn wait_idle(&self, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        while self.active() > 0 {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }
}

/// A copy of every listening socket for one thread, under the names that Pingora looks them up by.
fn listen_again(listeners: &[TcpListener], options: &ServerOptions) -> io::Result<(Fds, Vec<ListenerConfig>)> {
    let mut fds = Fds::new();
    let mut endpoints = Vec::new();
    for listener in listeners {
        let name = listener.local_addr()?.to_string();
        fds.add(name.clone(), listener.try_clone()?.into_raw_fd());
        let mut endpoint = ListenerConfig::tcp(name).l4_buffer(L4BufferSettings::unbuffered());
        if let Some(files) = &options.tls {
            let mut tls = TlsSettings::intermediate(&files.certificate, &files.key)
                .map_err(|error| io::Error::other(error.to_string()))?;
            tls.set_alpn(ALPN::H2H1);
            endpoint = endpoint.tls(tls);
        }
        endpoints.push(endpoint);
    }
    Ok((fds, endpoints))
}

fn run_thread<S: Service>(
    index: usize,
    service: Arc<S>,
    app: App<S>,
    endpoints: Vec<ListenerConfig>,
    fds: Fds,
    shutdowns: watch::Receiver<bool>,
    mut stop: Stop,
) {
    use_shard(index);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime for a gateway thread");
            return;
        }
    };
    let mut listening = ListeningService::new(format!("gateway-{index}"), app);
    for endpoint in endpoints {
        listening.add_listener(endpoint);
    }
    runtime.block_on(async {
        let sweeper = service.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(sweeper.sweep_interval()).await;
                sweeper.sweep();
            }
        });
        PingoraService::start_service(&mut listening, Some(Arc::new(Mutex::new(fds))), shutdowns, 1).await;
        stop.reached(Phase::Draining).await;
        drop(listening);
        // Requests go on until there are none left or the process has had enough of them.
        stop.ending().await;
        for _ in 0..200 {
            if stop.active.load(Ordering::Relaxed) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
}

struct App<S> {
    service: Arc<S>,
    limits: Limits,
    connections: Arc<AtomicUsize>,
    max_connections: usize,
    stop: Stop,
}

#[async_trait]
impl<S: Service> ServerApp for App<S> {
    /// A small task of its own serves the connection: the caller's future, with the handshake in it, is freed.
    async fn process_new(self: &Arc<Self>, stream: Stream, _shutdown: &ShutdownWatch) -> Option<Stream> {
        let count = Counted::new(&self.connections);
        if count.before >= self.max_connections {
            tracing::warn!(
                limit = self.max_connections,
                "too many connections, one was closed at once"
            );
            return None;
        }
        let connection = Connection::new(self, stream, count)?;
        tokio::spawn(connection.run());
        None
    }
}

struct Counted {
    connections: Arc<AtomicUsize>,
    before: usize,
}

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        Self {
            connections: connections.clone(),
            before: connections.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Connection<S> {
    service: Arc<S>,
    stream: Stream,
    limits: Limits,
    peer: IpAddr,
    tls: bool,
    stop: Stop,
    _count: Counted,
}

impl<S: Service> Connection<S> {
    fn new(app: &App<S>, stream: Stream, count: Counted) -> Option<Self> {
        let peer: SocketAddr = stream
            .get_socket_digest()
            .and_then(|digest| digest.peer_addr().and_then(|peer| peer.as_inet().copied()))?;
        let tls = stream.get_ssl_digest().is_some();
        Some(Self {
            service: app.service.clone(),
            stream,
            limits: app.limits,
            peer: peer.ip().to_canonical(),
            tls,
            stop: app.stop.clone(),
            _count: count,
        })
    }

    async fn run(mut self) {
        if self.tls {
            return match self.stream.selected_alpn_proto() {
                Some(ALPN::H2) => Box::pin(self.run_h2(BytesMut::new())).await,
                _ => self.run_h1(BytesMut::new()).await,
            };
        }
        let mut first = BytesMut::new();
        match self.speaks_h2(&mut first).await {
            Some(true) => Box::pin(self.run_h2(first)).await,
            Some(false) => self.run_h1(first).await,
            None => {}
        }
    }

    /// Reads until it is clear which version the client speaks; `None` if it goes away, or says nothing for too long.
    async fn speaks_h2(&mut self, first: &mut BytesMut) -> Option<bool> {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            read = tokio::time::timeout(self.limits.keepalive, fill(&mut self.stream, first)) => read.ok()?.ok().filter(|read| *read > 0)?,
            () = stop.nothing_came() => return None,
        };
        let read_on = async {
            loop {
                let known = first.len().min(H2_PREFACE.len());
                if first[..known] != H2_PREFACE[..known] {
                    return Some(false);
                }
                if known == H2_PREFACE.len() {
                    return Some(true);
                }
                fill(&mut self.stream, first).await.ok().filter(|read| *read > 0)?;
            }
        };
        tokio::time::timeout(self.limits.head, read_on).await.ok()?
    }

    async fn run_h1(self, first: BytesMut) {
        let Self {
            service,
            stream,
            limits,
            peer,
            tls,
            mut stop,
            _count,
        } = self;
        let mut session = Box::new(H1Server::new(stream));
        session.unread(&first);
        drop(first);
        let mut is_first = true;
        loop {
            // Not when it is polled: a request that is there already would keep its successor the first one.
            let awaits_first = std::mem::take(&mut is_first);
            let over = async {
                match awaits_first {
                    true => stop.nothing_came().await,
                    false => stop.reached(Phase::Draining).await,
                }
            };
            let head = tokio::select! {
                biased;
                head = session.read_head(&limits, limits.keepalive) => head,
                () = over => return,
            };
            let head = match head {
                Ok(head) => Ok(head),
                Err(NoRequest::Closed) => return,
                Err(NoRequest::Timeout) => Err(HeadRefusal::Timeout),
                Err(NoRequest::Refused(why)) => Err(HeadRefusal::Head(why)),
            };
            if head.is_err() || stop.is_draining() {
                session.close_after();
            }
            let active = stop.enter();
            let request = Incoming {
                downstream: Downstream::H1(session),
                head,
                peer,
                tls,
                stop: stop.clone(),
            };
            let served = service.serve(request).await;
            drop(active);
            session = match served {
                Served::Answered(Downstream::H1(session)) if session.is_reusable() && !stop.is_draining() => session,
                Served::Answered(Downstream::H1(session)) => return session.close().await,
                _ => return,
            };
        }
    }

    async fn run_h2(self, first: BytesMut) {
        let Self {
            service,
            stream,
            limits,
            peer,
            tls,
            mut stop,
            _count,
        } = self;
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(256)
            .max_header_list_size(limits.heads.bytes as u32)
            .initial_window_size(1024 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024)
            .max_pending_accept_reset_streams(32)
            .max_local_error_reset_streams(Some(128));
        let Ok(Ok(mut connection)) =
            tokio::time::timeout(limits.head, builder.handshake(Rewound { first, stream })).await
        else {
            return;
        };
        let streams = Arc::new(AtomicUsize::new(0));
        let mut closing = false;
        // Holds the end of the process up: what was answered may still be on its way to a slow client.
        let mut unsent = None;
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = connection.accept() => accepted,
                () = stop.reached(Phase::Draining), if !closing => {
                    closing = true;
                    unsent = (streams.load(Ordering::Relaxed) > 0).then(|| stop.enter());
                    connection.graceful_shutdown();
                    continue;
                }
                () = idle(&streams, limits.keepalive) => {
                    if closing {
                        return;
                    }
                    // Not at once: the last answer may not have been written, and the next request be under way.
                    closing = true;
                    connection.graceful_shutdown();
                    continue;
                }
            };
            let Some(Ok((request, respond))) = accepted else {
                drop(unsent);
                return;
            };
            let (session, head) = H2Server::new(request, respond, &limits);
            let head = head.map_err(HeadRefusal::Head);
            let request = Incoming {
                downstream: Downstream::H2(Box::new(session)),
                head,
                peer,
                tls,
                stop: stop.clone(),
            };
            let (service, active) = (service.clone(), (stop.enter(), Counted::new(&streams)));
            tokio::spawn(async move {
                if let Served::Answered(Downstream::H2(session)) = service.serve(request).await {
                    drop(session);
                }
                drop(active);
            });
        }
    }
}

/// Ready when a connection had no stream for `limit`.
async fn idle(streams: &AtomicUsize, limit: Duration) {
    loop {
        tokio::time::sleep(limit).await;
        if streams.load(Ordering::Relaxed) == 0 {
            return;
        }
    }
}

/// A transport with bytes put back in front.
struct Rewound {
    first: BytesMut,
    stream: Stream,
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..count]);
            self.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::net::TcpStream;

    use super::*;
    use crate::engine::AnswerHead;
    use crate::engine::h1::head::HeadLimits;

    const SOON: Duration = Duration::from_secs(20);
    const LENGTH: usize = 16 << 20;

    /// Answers everything with many bytes.
    struct Generous;

    impl Service for Generous {
        async fn serve(self: &Arc<Self>, request: Incoming) -> Served {
            let mut downstream = request.downstream;
            let answered = async {
                downstream.start(&AnswerHead::new(200, Some(LENGTH as u64)))?;
                downstream.push(&vec![b'x'; LENGTH]);
                downstream.finish().await
            };
            match answered.await {
                Ok(()) => Served::Answered(downstream),
                Err(_) => Served::Broken,
            }
        }

        fn sweep(&self) {}

        fn sweep_interval(&self) -> Duration {
            SOON
        }
    }

    /// A transport that is read a little at a time.
    struct Slow(TcpStream, Pin<Box<tokio::time::Sleep>>);

    impl AsyncRead for Slow {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            std::task::ready!(self.1.as_mut().poll(cx));
            let mut part = [0; 64 * 1024];
            let mut part = ReadBuf::new(&mut part[..buffer.remaining().min(64 * 1024)]);
            std::task::ready!(Pin::new(&mut self.0).poll_read(cx, &mut part))?;
            buffer.put_slice(part.filled());
            let pause = tokio::time::Instant::now() + Duration::from_millis(1);
            self.1.as_mut().reset(pause);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn a_slow_client_gets_its_whole_answer_although_the_process_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let options = ServerOptions {
            threads: 1,
            limits: Limits {
                heads: HeadLimits {
                    bytes: 4096,
                    fields: 16,
                    target: 100,
                },
                head: SOON,
                keepalive: SOON,
                write: SOON,
                body_idle: SOON,
            },
            max_connections: 10,
            tls: None,
        };
        let server = Server::start(Arc::new(Generous), &[listener], &options).unwrap();
        let stream = Slow(
            TcpStream::connect(address).await.unwrap(),
            Box::pin(tokio::time::sleep(Duration::ZERO)),
        );
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(1 << 30)
            .initial_connection_window_size(1 << 30);
        let (requests, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(format!("http://{address}/")).body(()).unwrap();
        let (answer, _) = requests.ready().await.unwrap().send_request(request, true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        let stopping = tokio::spawn(server.stop(SOON, SOON));
        let mut length = 0;
        while let Some(data) = body.data().await {
            length += data.unwrap().len();
        }
        assert_eq!(length, LENGTH);
        assert_eq!(stopping.await.unwrap(), 0);
    }
}
