//! Puts the control plane behind a socket, and takes it down again without cutting anybody off.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{App, Trust, background, chance};

/// Connections open at once. Gateways pool theirs; more than this is no gateway.
const MAX_CONNECTIONS: usize = 4096;

/// How long a connection may be silent between requests. Longer than gateways keep theirs, so that it is they who close
/// and no request meets a closing connection.
const SILENCE: Duration = Duration::from_secs(180);

/// After the system refused a connection, for want of file handles for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket to serve on.
pub enum Listener {
    /// Whoever may open the file is trusted: this user and root.
    Unix(UnixListener, PathBuf),
    /// Only what a gateway has signed is believed.
    Tcp(TcpListener),
}

impl Listener {
    /// Binds a Unix socket that only this user can open. A file left by a program that died is replaced; a socket that
    /// somebody listens on is not.
    pub fn unix(path: &Path) -> io::Result<Self> {
        refuse_living(path)?;
        // Bound under another name first: between bind and chmod it would be open to all.
        let folder = path.parent().unwrap_or(Path::new("."));
        let draft = folder.join(format!(".{}", &chance::id().simple().to_string()[20..]));
        let listener = UnixListener::bind(&draft)?;
        let placed =
            fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).and_then(|()| fs::rename(&draft, path));
        if placed.is_err() {
            let _gone_anyway = fs::remove_file(&draft);
        }
        placed.map(|()| Self::Unix(listener, path.to_owned()))
    }

    /// Binds a TCP address, such as `10.0.0.5:5002`.
    pub async fn tcp(address: &str) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    /// The TCP address, where it is one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(..) => None,
            Self::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    const fn trust(&self) -> Trust {
        match self {
            Self::Unix(..) => Trust::Socket,
            Self::Tcp(_) => Trust::Signed,
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// Serves until `shutdown`, then lets the requests under way end, for as long as the configuration allows.
pub async fn serve(app: App, listener: Listener, shutdown: CancellationToken) -> io::Result<()> {
    let background = background::start(&app);
    let router = app.router(listener.trust());
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let connection = connection(stream, router.clone(), &graceful);
                tokio::spawn(async move {
                    let _slot = slot;
                    connection.await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if let Listener::Unix(_, path) = &listener {
        let _gone_anyway = fs::remove_file(path);
    }
    drop(listener);
    app.closing().cancel();
    let drained = tokio::time::timeout(app.config().drain, async {
        graceful.shutdown().await;
        // Connections that left HTTP are no requests any more.
        app.links().all_closed().await;
    });
    if drained.await.is_err() {
        tracing::warn!("requests under way were cut off");
    }
    background.end().await;
    Ok(())
}

type Stream = Box<dyn Io>;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

fn connection(stream: Stream, router: Router, graceful: &GracefulShutdown) -> impl Future<Output = ()> + use<> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(SILENCE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(SILENCE);
    let service = service_fn(move |request: Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
    let serving = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .into_owned();
    let serving = graceful.watch(serving);
    async move {
        if let Err(error) = serving.await {
            tracing::debug!(%error, "a connection broke");
        }
    }
}

fn refuse_living(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            let message = format!("{}: another program is serving there", path.display());
            Err(io::Error::new(ErrorKind::AddrInUse, message))
        }
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
