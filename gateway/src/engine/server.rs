//! Listening and accepting.
//!
//! Every thread has a runtime of its own and its own copy of each listening socket, so a connection's reads and writes stay on
//! the thread that accepted it. Pingora accepts and does the TLS handshake; the sessions are ours.

use std::io;
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::apps::ServerApp;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::listeners::{L4BufferSettings, ListenerConfig};
use pingora_core::protocols::ALPN;
use pingora_core::server::{Fds, ShutdownWatch};
use pingora_core::services::Service as PingoraService;
use pingora_core::services::listening::Service as ListeningService;
use tokio::sync::watch;

use super::Stream;
use super::connection::{Connection, Counted};
use super::downstream::Limits;
use super::pool::use_shard;
use super::service::Service;
use super::stop::{Phase, Stop};

/// For every connection to notice that the end has begun, before they are counted.
const NOTICE: Duration = Duration::from_millis(50);

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
    // What wakes tasks may outlive the runtime, and has this with it: it must not keep the service.
    let resting = Arc::downgrade(&service);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().on_thread_park(move || {
        if let Some(service) = resting.upgrade() {
            service.rest();
        }
    });
    let runtime = match builder.build() {
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

/// What every connection is served with.
pub(super) struct App<S> {
    pub(super) service: Arc<S>,
    pub(super) limits: Limits,
    connections: Arc<AtomicUsize>,
    max_connections: usize,
    pub(super) stop: Stop,
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio::net::TcpStream;

    use super::*;
    use crate::engine::AnswerHead;
    use crate::engine::h1::head::HeadLimits;
    use crate::engine::service::{Incoming, Served};

    const SOON: Duration = Duration::from_secs(20);
    const LENGTH: usize = 16 << 20;

    /// Answers everything with many bytes.
    #[derive(Default)]
    struct Generous {
        rests: AtomicUsize,
    }

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

        fn rest(&self) {
            self.rests.fetch_add(1, Ordering::Relaxed);
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
        let service = Arc::new(Generous::default());
        let server = Server::start(service.clone(), &[listener], &options).unwrap();
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
        assert!(service.rests.load(Ordering::Relaxed) > 0, "the thread has waited");
        assert_eq!(Arc::strong_count(&service), 1, "nothing keeps it when all has ended");
    }
}
