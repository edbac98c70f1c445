//! One connection to a gateway, step by step: name, TCP, perhaps a proxy, TLS. Each step has its own error and its own way out.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{GatewayUrl, Reach, tls::Protocols};

/// A connection to a gateway.
pub enum Stream {
    /// On this machine, or where the glass was broken.
    Plain(TcpStream),
    /// Everywhere else.
    Tls(Box<TlsStream<TcpStream>>),
}

/// How far a connection came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Dns,
    Tcp,
    Proxy,
    Tls,
}

/// There is no connection.
#[derive(Clone, Debug)]
pub struct DialError {
    /// Where it ended.
    pub step: Step,
    /// The gateway, or the proxy where that was the one that failed.
    pub to: String,
    /// What was wrong.
    pub problem: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Proxy => "proxy",
            Self::Tls => "TLS",
        })
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, to, problem } = self;
        write!(f, "cannot reach {to}: {step}: {problem} ({})", step.way_out())
    }
}

impl std::error::Error for DialError {}

impl Step {
    fn way_out(self) -> &'static str {
        match self {
            Self::Dns => "check the name in server_url and this machine's resolver",
            Self::Tcp => "is the server running, its port right, and no firewall between?",
            Self::Proxy => "check HTTPS_PROXY, or name the server in NO_PROXY",
            Self::Tls => "for a private CA set ca_file, for a self-signed certificate pin_sha256; it is never skipped",
        }
    }
}

/// Between two attempts at a name's addresses, while the one before has not said anything.
const STAGGER: Duration = Duration::from_millis(250);
/// A peer that went away without a word is noticed after a minute: silence, then unanswered probes.
const KEEPALIVE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

impl GatewayUrl {
    /// Connects, for HTTP/1.1; `patience` is for each step.
    pub async fn dial(&self, patience: Duration) -> Result<Stream, DialError> {
        let tls = self.tls_config(Protocols::Http1);
        let tls = tls.map_err(|error| self.failed(Step::Tls, error))?;
        self.dial_with(tls, patience).await
    }

    pub(super) async fn dial_with(
        &self,
        tls: Option<Arc<rustls::ClientConfig>>,
        patience: Duration,
    ) -> Result<Stream, DialError> {
        let tcp = match &self.proxy {
            None => {
                self.reach_host(&self.host(), self.port(), self.reach, patience, &self.name())
                    .await?
            }
            Some(proxy) => self.tunnel(proxy, patience).await?,
        };
        match tls {
            None => Ok(Stream::Plain(tcp)),
            Some(config) => self.secure(tcp, config, patience).await,
        }
    }

    /// The origin, for messages.
    pub fn name(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    async fn tunnel(&self, proxy: &super::proxy::Proxy, patience: Duration) -> Result<TcpStream, DialError> {
        let to = format!("the proxy {proxy}");
        let tcp = self
            .reach_host(&proxy.host, proxy.port, Reach::Anywhere, patience, &to)
            .await;
        let tcp = tcp.map_err(|error| DialError {
            step: Step::Proxy,
            problem: format!("{}: {}", error.step, error.problem),
            ..error
        })?;
        let opened = timeout(patience, proxy.open(tcp, &self.host(), self.port())).await;
        let failed = |problem: String| DialError {
            step: Step::Proxy,
            to: format!("{} through {to}", self.name()),
            problem,
        };
        let opened = opened.map_err(|_| failed(no_answer(patience)))?;
        opened.map_err(|error| failed(error.to_string()))
    }

    async fn reach_host(
        &self,
        host: &str,
        port: u16,
        reach: Reach,
        patience: Duration,
        to: &str,
    ) -> Result<TcpStream, DialError> {
        let failed = |step, problem: String| DialError {
            step,
            to: to.to_owned(),
            problem,
        };
        let found = timeout(patience, tokio::net::lookup_host((host, port))).await;
        let found = found.map_err(|_| failed(Step::Dns, no_answer(patience)))?;
        let found = found.map_err(|error| failed(Step::Dns, error.to_string()))?;
        let addresses = admitted(found, reach).map_err(|error| failed(Step::Dns, error.to_string()))?;
        let tcp = timeout(patience, first_of(addresses, STAGGER)).await;
        let tcp = tcp.map_err(|_| failed(Step::Tcp, no_answer(patience)))?;
        let tcp = tcp.map_err(|error| failed(Step::Tcp, error.to_string()))?;
        prepare(&tcp).map_err(|error| failed(Step::Tcp, error.to_string()))?;
        Ok(tcp)
    }

    async fn secure(
        &self,
        tcp: TcpStream,
        config: Arc<rustls::ClientConfig>,
        patience: Duration,
    ) -> Result<Stream, DialError> {
        let name = ServerName::try_from(self.host()).map_err(|error| self.failed(Step::Tls, error))?;
        let shaken = timeout(patience, TlsConnector::from(config).connect(name, tcp)).await;
        let shaken = shaken.map_err(|_| self.failed(Step::Tls, no_answer(patience)))?;
        let stream = shaken.map_err(|error| self.failed(Step::Tls, error))?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn failed(&self, step: Step, problem: impl ToString) -> DialError {
        DialError {
            step,
            to: self.name(),
            problem: problem.to_string(),
        }
    }
}

fn no_answer(patience: Duration) -> String {
    format!("no answer within {patience:?}")
}

/// The first address that answers; the next is tried as soon as one has failed, or has said nothing for as long as `stagger`.
async fn first_of(addresses: Vec<SocketAddr>, stagger: Duration) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::other("the name has no address");
    loop {
        match waiting.next() {
            Some(address) => attempts.push(async move {
                let stream = TcpStream::connect(address).await;
                stream.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
            }),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        match timeout(stagger, attempts.next()).await {
            Ok(Some(Ok(stream))) => return Ok(stream),
            Ok(Some(Err(error))) => last = error,
            Ok(None) | Err(_) => {}
        }
    }
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    #[cfg(unix)]
    {
        use rustix::net::sockopt;
        sockopt::set_socket_keepalive(tcp, true)?;
        sockopt::set_tcp_keepidle(tcp, KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(tcp, PROBE)?;
        sockopt::set_tcp_keepcnt(tcp, PROBES)?;
    }
    Ok(())
}

fn admitted(found: impl Iterator<Item = SocketAddr>, reach: Reach) -> io::Result<Vec<SocketAddr>> {
    let admitted: Vec<_> = found.filter(|address| reach.admits(address.ip())).collect();
    if admitted.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the name leads to no address that plaintext may go to",
        ));
    }
    Ok(admitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_resolves_to_a_public_address_is_refused_when_it_is_connected_to() {
        let found = || {
            ["8.8.8.8:80", "10.0.0.1:80"]
                .into_iter()
                .map(|a| a.parse::<SocketAddr>().unwrap())
        };
        assert_eq!(
            admitted(found(), Reach::Private).unwrap(),
            ["10.0.0.1:80".parse().unwrap()]
        );
        assert!(admitted(found(), Reach::Loopback).is_err());
        assert_eq!(admitted(found(), Reach::Anywhere).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn an_address_that_refuses_does_not_hold_up_the_next() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = vec![closed, open.local_addr().unwrap()];
        let (before, stagger) = (std::time::Instant::now(), Duration::from_secs(60));
        let stream = first_of(addresses, stagger).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open.local_addr().unwrap());
        assert!(before.elapsed() < stagger / 2, "{:?}", before.elapsed());
        assert!(
            first_of(vec![closed], stagger)
                .await
                .unwrap_err()
                .to_string()
                .contains(&closed.to_string())
        );
    }
}
