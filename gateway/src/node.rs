//! A running gateway: the data plane put together, started and stopped.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ace_migrations::Db;
use ace_policies::config::Config;
use ace_policies::ssrf::{EgressAllow, EgressError};
use ace_policies::vault::{MasterKey, Vault, purpose};
use rustls::pki_types::pem::PemObject;

use crate::admit::Gate;
use crate::control::ControlPlane;
use crate::engine::connect::{ConnectOptions, Connector, Origin};
use crate::engine::pool::Pool;
use crate::engine::server::{Server, ServerOptions, TlsFiles};
use crate::engine::upstream::Upstreams;
use crate::expose::{self, Exposed};
use crate::ledger::tasks::{self, Around, LedgerError, Tasks};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::prices::{Prices, PricesError};
use crate::proxy::Gateway;
use crate::store::{LoadError, Refresher};
use crate::upload::Uploads;

/// How long streams that were told to end may take for it.
const END_GRACE: Duration = Duration::from_secs(1);

/// What a node is made of.
pub struct Parts {
    /// The database, up to date.
    pub db: Db,
    /// The master key and those before it.
    pub keys: (MasterKey, Vec<MasterKey>),
    /// The control API's nodes.
    pub control: Vec<Origin>,
    /// Bound sockets of the public port.
    pub listeners: Vec<TcpListener>,
    /// Bound socket of the metrics.
    pub metrics: Option<TcpListener>,
    /// Which gateway this is, in the ledger.
    pub gateway_id: String,
    /// Where the journal is kept.
    pub state_dir: PathBuf,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database could not be read.
    #[error("the database cannot be read: {0}")]
    Load(#[from] LoadError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// `egress.allow` is not understood.
    #[error("[egress] allow: {0}")]
    Egress(#[from] EgressError),
    /// The price table is wrong.
    #[error(transparent)]
    Prices(#[from] PricesError),
    /// TLS files or threads.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Two metrics of one name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// A running node.
pub struct Node {
    server: Server,
    gateway: Arc<Gateway>,
    tasks: Tasks,
    drain: Duration,
}

impl Node {
    /// Starts a node. Must be called within the runtime that is to keep its snapshot and write its ledger.
    pub async fn start(config: &Config, parts: Parts) -> Result<Self, StartError> {
        let Parts {
            db,
            keys: (master, older),
            control,
            listeners,
            metrics: metrics_listener,
            gateway_id,
            state_dir,
        } = parts;
        let options = Options::of(config);
        let metrics = Arc::new(Metrics::new()?);
        let prices = Prices::load(config, metrics.clone())?;
        tokio::spawn(prices.clone().watch());
        let vault = older.iter().fold(Vault::new(&master), Vault::with_older);
        let (store, refresher) =
            Refresher::start(db.clone(), vault, Duration::from_millis(config.auth.refresh_ms)).await?;
        tokio::spawn(refresher.run());

        let around = Around {
            db,
            folder: state_dir.join("journal"),
            gateway_id,
            store: store.clone(),
            prices,
            metrics: metrics.clone(),
        };
        let (ledger, tasks) = tasks::start(config, around).await?;
        if let Some(listener) = metrics_listener {
            listener.set_nonblocking(true)?;
            let exposed = Exposed {
                metrics: metrics.clone(),
                backlog: ledger.backlog(),
                journal: tasks.journal(),
                store: store.clone(),
            };
            tokio::spawn(expose::serve(tokio::net::TcpListener::from_std(listener)?, exposed));
        }

        let threads = threads(config);
        let first_byte = Duration::from_millis(config.timeouts.control);
        let gateway = Arc::new(Gateway {
            gate: Gate::new(store, ledger, config.auth.verdict_cache, options.max_staleness),
            upstreams: upstreams(config, threads)?,
            metrics,
            control: ControlPlane::new(control, master.subkey(purpose::GATEWAY_HEADERS), first_byte),
            uploads: Uploads::new(master.subkey(purpose::UPLOAD_URLS)),
            options,
        });
        let server = ServerOptions {
            threads,
            limits: gateway.options.limits,
            max_connections: config.gateway.max_connections,
            tls: tls_files(config)?,
        };
        let server = Server::start(gateway.clone(), &listeners, &server)?;
        Ok(Self {
            server,
            gateway,
            tasks,
            drain: Duration::from_millis(config.timeouts.drain),
        })
    }

    /// Stops accepting, lets requests end for as long as the configuration allows, and writes the ledger to its end.
    pub async fn stop(self) {
        let Self {
            server,
            gateway,
            tasks,
            drain,
        } = self;
        let left = server.stop(drain, END_GRACE).await;
        if left > 0 {
            tracing::warn!(requests = left, "requests were cut off at the end");
        }
        // The ledger's last sender; with it gone the writer comes to its end.
        drop(gateway);
        tasks.stop().await;
    }

    /// Requests in flight.
    pub fn active(&self) -> usize {
        self.server.active()
    }
}

fn threads(config: &Config) -> usize {
    match config.gateway.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

fn upstreams(config: &Config, threads: usize) -> Result<Upstreams, StartError> {
    let (upstream, timeouts) = (&config.upstream, &config.timeouts);
    let ca_file = Some(upstream.ca_file.clone()).filter(|file| !file.is_empty());
    if let Some(file) = &ca_file {
        std::fs::read(file)
            .map_err(|error| io::Error::new(error.kind(), format!("[upstream] ca_file: {file}: {error}")))?;
    }
    let connect = ConnectOptions {
        timeout: Duration::from_millis(timeouts.connect),
        dns_ttl: Duration::from_millis(upstream.dns_ttl_ms),
        http2: upstream.http2,
        ca_file,
        allow: EgressAllow::parse(&config.egress.allow)?,
    };
    let pool = Pool::new(
        threads,
        upstream.pool_size,
        Duration::from_millis(upstream.pool_idle_ms),
    );
    let write = Duration::from_millis(timeouts.write);
    Ok(Upstreams::new(
        Connector::new(connect),
        pool,
        config.limits.max_upstream_head_bytes,
        write,
    ))
}

/// Checks the files here: what Pingora makes of bad ones is a panic.
fn tls_files(config: &Config) -> Result<Option<TlsFiles>, StartError> {
    let (certificate, key) = (&config.tls.cert_file, &config.tls.key_file);
    if certificate.is_empty() && key.is_empty() {
        return Ok(None);
    }
    let invalid = |key: &str, file: &str, why: String| {
        io::Error::new(io::ErrorKind::InvalidData, format!("[tls] {key}: {file}: {why}"))
    };
    let chain = rustls::pki_types::CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| invalid("cert_file", certificate, error.to_string()))?;
    let private = rustls::pki_types::PrivateKeyDer::from_pem_file(key)
        .map_err(|error| invalid("key_file", key, error.to_string()))?;
    rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| invalid("cert_file", certificate, error.to_string()))?;
    Ok(Some(TlsFiles {
        certificate: certificate.clone(),
        key: key.clone(),
    }))
}

/// The addresses of bound sockets.
pub fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect()
}
