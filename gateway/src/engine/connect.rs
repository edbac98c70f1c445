//! New connections to providers: names are resolved here, every address is checked before it is connected to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ace_policies::ssrf::{self, EgressAllow};
use moka::sync::Cache;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{ALPN, TcpKeepalive};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::ErrorType;
use tokio::net::UnixStream;

use super::Stream;

/// Where requests can be sent to: scheme, host and port, or a Unix socket.
#[derive(Debug, Clone)]
pub struct Origin {
    /// What idle connections are kept under. Connections of different tenants do not mix.
    pub key: Arc<str>,
    /// The `Host` to send.
    pub authority: Arc<str>,
    /// How to get there.
    pub address: Address,
}

/// How to reach an [`Origin`].
#[derive(Debug, Clone)]
pub enum Address {
    /// A host by name or address.
    Host { host: Arc<str>, port: u16, tls: bool },
    /// A local control API.
    Unix(Arc<str>),
    /// A control node that the operator named: no egress rules.
    Trusted { host: Arc<str>, port: u16 },
}

impl Origin {
    /// The origin of a provider's base URL, for one tenant.
    pub fn of_url(url: &url::Url, tenant: i64) -> Option<Self> {
        let host = url.host_str()?;
        let port = url.port_or_known_default()?;
        let tls = url.scheme() == "https";
        let authority: Arc<str> = match url.port() {
            Some(port) => format!("{host}:{port}").into(),
            None => host.into(),
        };
        let key = format!("{}://{host}:{port}#{tenant}", url.scheme()).into();
        let host = host.trim_start_matches('[').trim_end_matches(']').into();
        Some(Self {
            key,
            authority,
            address: Address::Host { host, port, tls },
        })
    }

    /// A control API behind a Unix socket.
    pub fn unix(path: &str) -> Self {
        Self {
            key: format!("unix:{path}").into(),
            authority: "localhost".into(),
            address: Address::Unix(path.into()),
        }
    }

    /// A control node.
    pub fn control(host: &str, port: u16) -> Self {
        let authority: Arc<str> = format!("{host}:{port}").into();
        Self {
            key: format!("control:{authority}").into(),
            authority,
            address: Address::Trusted {
                host: host.into(),
                port,
            },
        }
    }

    /// Whether the transport is TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.address, Address::Host { tls: true, .. })
    }
}

/// Why no connection could be made.
#[derive(Debug)]
pub enum ConnectError {
    /// The name has no address.
    Resolve(String),
    /// An address that base URLs must not lead to.
    Egress(String),
    /// Nobody answered in time.
    Timeout,
    /// The TLS handshake failed: certificate, name or protocol.
    Tls(String),
    /// The connection was refused or broke.
    Io(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(why) => write!(f, "the host name cannot be resolved: {why}"),
            Self::Egress(why) => write!(f, "the address is not allowed: {why}"),
            Self::Timeout => f.write_str("connecting took too long"),
            Self::Tls(why) => write!(f, "the TLS handshake failed: {why}"),
            Self::Io(why) => write!(f, "connecting failed: {why}"),
        }
    }
}

/// Settings of a [`Connector`].
pub struct ConnectOptions {
    /// For the transport and for TLS, each.
    pub timeout: Duration,
    /// How long a resolved name is remembered.
    pub dns_ttl: Duration,
    /// Whether HTTP/2 is offered to TLS servers.
    pub http2: bool,
    /// PEM file of certificate authorities to trust instead of the system's.
    pub ca_file: Option<String>,
    /// Private addresses that may be connected to.
    pub allow: EgressAllow,
}

/// Opens connections.
pub struct Connector {
    transport: TransportConnector,
    names: Cache<Arc<str>, Arc<[IpAddr]>>,
    options: ConnectOptions,
}

impl Connector {
    /// A connector with these settings. The CA file, if any, must have been checked to be readable.
    pub fn new(options: ConnectOptions) -> Self {
        let mut transport = ConnectorOptions::new(0);
        transport.ca_file.clone_from(&options.ca_file);
        let names = Cache::builder()
            .max_capacity(1024)
            .time_to_live(options.dns_ttl)
            .build();
        Self {
            transport: TransportConnector::new(Some(transport)),
            names,
            options,
        }
    }

    /// Opens a connection; where several addresses are known they are tried in turn.
    pub async fn connect(&self, origin: &Origin) -> Result<Stream, ConnectError> {
        self.connect_as(origin, if self.options.http2 { ALPN::H2H1 } else { ALPN::H1 })
            .await
    }

    /// Opens a connection that speaks HTTP/1.
    pub async fn connect_h1(&self, origin: &Origin) -> Result<Stream, ConnectError> {
        self.connect_as(origin, ALPN::H1).await
    }

    async fn connect_as(&self, origin: &Origin, alpn: ALPN) -> Result<Stream, ConnectError> {
        match &origin.address {
            Address::Unix(path) => self.connect_unix(path).await,
            Address::Host { host, port, tls } => self.connect_host(host, *port, *tls, alpn, true).await,
            Address::Trusted { host, port } => self.connect_host(host, *port, false, alpn, false).await,
        }
    }

    /// Whether the server chose HTTP/2 in the handshake.
    pub fn is_http2(stream: &Stream) -> bool {
        matches!(stream.selected_alpn_proto(), Some(ALPN::H2))
    }

    async fn connect_unix(&self, path: &str) -> Result<Stream, ConnectError> {
        match tokio::time::timeout(self.options.timeout, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => Ok(Box::new(L4Stream::from(stream))),
            Ok(Err(error)) => Err(ConnectError::Io(error.to_string())),
            Err(_) => Err(ConnectError::Timeout),
        }
    }

    async fn connect_host(
        &self,
        host: &Arc<str>,
        port: u16,
        tls: bool,
        alpn: ALPN,
        checked: bool,
    ) -> Result<Stream, ConnectError> {
        let mut last = ConnectError::Resolve("no address".to_owned());
        for ip in self.resolve(host).await?.iter().copied() {
            if checked && let Err(why) = ssrf::check_address(ip, host, &self.options.allow) {
                last = ConnectError::Egress(why.to_string());
                continue;
            }
            match self
                .transport
                .new_stream(&self.peer(SocketAddr::new(ip, port), host, tls, alpn.clone()))
                .await
            {
                Ok(stream) => return Ok(stream),
                Err(error) => last = connect_error(&error),
            }
        }
        Err(last)
    }

    fn peer(&self, address: SocketAddr, host: &str, tls: bool, alpn: ALPN) -> HttpPeer {
        let mut peer = HttpPeer::new(address, tls, host.to_owned());
        peer.options.connection_timeout = Some(self.options.timeout);
        peer.options.total_connection_timeout = Some(self.options.timeout * 2);
        peer.options.alpn = alpn;
        peer.options.tcp_keepalive = Some(keepalive());
        peer
    }

    async fn resolve(&self, host: &Arc<str>) -> Result<Arc<[IpAddr]>, ConnectError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok([ip].into());
        }
        if let Some(known) = self.names.get(host) {
            return Ok(known);
        }
        let lookup = tokio::net::lookup_host((&**host, 0));
        let found = match tokio::time::timeout(self.options.timeout, lookup).await {
            Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect::<Arc<[IpAddr]>>(),
            Ok(Err(error)) => return Err(ConnectError::Resolve(error.to_string())),
            Err(_) => return Err(ConnectError::Resolve("the resolver does not answer".to_owned())),
        };
        if found.is_empty() {
            return Err(ConnectError::Resolve("no address".to_owned()));
        }
        self.names.insert(host.clone(), found.clone());
        Ok(found)
    }
}

/// A server that is gone without a word is noticed within a minute. Otherwise a shared connection that leads nowhere would
/// take every request that follows, each for as long as an answer may take to begin.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive {
        idle: Duration::from_secs(30),
        interval: Duration::from_secs(10),
        count: 3,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::from_secs(60),
    }
}

fn connect_error(error: &pingora_error::Error) -> ConnectError {
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => ConnectError::Timeout,
        ErrorType::TLSHandshakeFailure
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError
        | ErrorType::TLSWantX509Lookup => ConnectError::Tls(root_cause(error)),
        _ => ConnectError::Io(root_cause(error)),
    }
}

fn root_cause(error: &pingora_error::Error) -> String {
    error.root_cause().to_string().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of the established connection at this local port: the kind of the timer that runs for it.
    #[cfg(target_os = "linux")]
    fn timer_of(port: u16) -> Option<String> {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let line = table.lines().find(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields
                .next()
                .is_some_and(|local| local.ends_with(&format!(":{port:04X}")));
            // An earlier connection from the same port may still be waiting for its time to pass.
            local && fields.nth(1) == Some(ESTABLISHED)
        })?;
        let timer = line.split_whitespace().nth(5)?;
        timer.split(':').next().map(str::to_owned)
    }

    #[cfg(target_os = "linux")]
    const ESTABLISHED: &str = "01";

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn connections_are_watched_in_silence() {
        const KEEPALIVE: &str = "02";
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connector = Connector::new(ConnectOptions {
            timeout: Duration::from_secs(5),
            dns_ttl: Duration::from_secs(5),
            http2: true,
            ca_file: None,
            allow: EgressAllow::default(),
        });
        let origin = Origin::control("127.0.0.1", listener.local_addr().unwrap().port());
        let (stream, accepted) = tokio::join!(connector.connect(&origin), listener.accept());
        let (_server, client) = accepted.unwrap();
        assert_eq!(timer_of(client.port()).as_deref(), Some(KEEPALIVE));
        drop(stream.unwrap());
    }
}
