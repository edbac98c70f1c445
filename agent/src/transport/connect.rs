//! Connections that go only where a `GatewayUrl` may go, whatever its name resolves to by then.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{
    HttpConnector,
    dns::{GaiResolver, Name},
};

use super::{GatewayUrl, Reach};

/// Connects a hyper client over TCP or TLS, HTTP/2 where the gateway offers it.
pub type Connector = HttpsConnector<HttpConnector<GuardedResolver>>;

/// A peer that went away without a word is noticed after a minute: silence, then unanswered probes.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
const TCP_PROBE: Duration = Duration::from_secs(10);
const TCP_PROBES: u32 = 3;

impl GatewayUrl {
    /// The connector that goes only where this URL may go. TLS trusts the system's certificates, or those that
    /// `SSL_CERT_FILE` names.
    pub fn connector(&self, connect_timeout: Duration) -> io::Result<Connector> {
        let mut http = HttpConnector::new_with_resolver(GuardedResolver {
            inner: GaiResolver::new(),
            reach: self.reach,
        });
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(connect_timeout));
        http.set_keepalive(Some(TCP_KEEPALIVE));
        http.set_keepalive_interval(Some(TCP_PROBE));
        http.set_keepalive_retries(Some(TCP_PROBES));
        let tls = HttpsConnectorBuilder::new().with_tls_config(self.tls_config()?);
        Ok(tls.https_or_http().enable_all_versions().wrap_connector(http))
    }

    fn tls_config(&self) -> io::Result<rustls::ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        // A machine without any certificate store can still reach a gateway on its own loopback.
        if self.url.scheme() == "http" {
            return Ok(builder
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth());
        }
        Ok(builder.with_native_roots()?.with_no_client_auth())
    }
}

/// Resolves names as the system does, and hands on only the addresses that may be connected to.
#[derive(Clone, Debug)]
pub struct GuardedResolver {
    inner: GaiResolver,
    reach: Reach,
}

impl tower::Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tower::Service::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let found = tower::Service::call(&mut self.inner, name);
        let reach = self.reach;
        Box::pin(async move { admitted(found.await?, reach).map(Vec::into_iter) })
    }
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
}
