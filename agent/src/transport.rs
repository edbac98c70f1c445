//! Where our programs may send a credential: over TLS, or to this very machine.
//!
//! A `GatewayUrl` is the proof that its address was looked at; nothing here connects without one. What a name resolves
//! to is looked at again when the connection is made, so that a name cannot change its mind in between.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use url::{Host, Url};

mod connect;
mod dial;
mod proxy;
mod tls;

pub use connect::Connector;
pub use dial::{DialError, Step, Stream};
pub use proxy::{Proxies, ProxyError};
pub use tls::{Pin, Trust, TrustError};

/// The process environment variable that opens plaintext to private addresses when it is exactly `1`.
pub const BREAK_GLASS: &str = "OPENACE_ALLOW_INSECURE_PRIVATE_WS";

/// An http(s) address of a gateway to which a credential may be sent, and the way there.
#[derive(Clone, Debug)]
pub struct GatewayUrl {
    url: Url,
    reach: Reach,
    trust: Arc<Trust>,
    proxy: Option<Arc<proxy::Proxy>>,
}

/// Which addresses a connection may be made to, whatever a name resolves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Anywhere,
    Private,
    Loopback,
}

/// Whether plaintext to private addresses was allowed for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakGlass {
    Closed,
    Open,
}

#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("{origin}: `{url}` is not a URL: {error}")]
    NotAUrl {
        url: String,
        origin: String,
        error: url::ParseError,
    },
    #[error("{origin}: a gateway URL starts with https://, wss://, http:// or ws://, not `{scheme}:`")]
    Scheme { scheme: String, origin: String },
    #[error("{origin}: a gateway URL has no user name or password in it")]
    UserInfo { origin: String },
    #[error("{origin}: a gateway URL has neither query nor fragment")]
    Query { origin: String },
    #[error(
        "SECURITY ERROR: Gateway URL \"{url}\" uses plaintext {scheme}:// to a non-loopback address.\n\
         A credential sent there could be read on the way. Nothing was sent.\n\
         Source: {origin}\n\
         Ways out:\n  \
         1. use https:// or wss://\n  \
         2. ssh -N -L {port}:127.0.0.1:{port} USER@{host}   and then http://127.0.0.1:{port}\n  \
         3. Tailscale Serve in front of the gateway, and its https:// name\n\
         Break-glass, private addresses only: {BREAK_GLASS}=1"
    )]
    Plaintext {
        url: String,
        scheme: String,
        host: String,
        port: u16,
        origin: String,
    },
}

impl BreakGlass {
    /// Exactly `1` opens it; every other value, `true` included, does nothing.
    pub fn from_env_value(value: Option<&str>) -> Self {
        if value == Some("1") { Self::Open } else { Self::Closed }
    }
}

impl GatewayUrl {
    /// Parses `text`; `origin` says in errors where it came from ("--gateway", "OPENACE_GATEWAY_URL").
    pub fn parse(text: &str, origin: &str, break_glass: BreakGlass) -> Result<Self, TransportError> {
        let origin = origin.to_owned();
        let mut url = match Url::parse(text.trim()) {
            Ok(url) => url,
            Err(error) => {
                return Err(TransportError::NotAUrl {
                    url: without_user_info(text),
                    origin,
                    error,
                });
            }
        };
        let Some(scheme) = http_scheme(url.scheme()) else {
            return Err(TransportError::Scheme {
                scheme: url.scheme().to_owned(),
                origin,
            });
        };
        let reach = match reach_of(&url, break_glass) {
            Some(reach) => reach,
            None => return Err(plaintext(&url, origin)),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(TransportError::UserInfo { origin });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(TransportError::Query { origin });
        }
        url = Url::parse(&url.as_str().replacen(url.scheme(), scheme, 1)).unwrap_or(url);
        Ok(Self {
            url,
            reach,
            trust: Arc::default(),
            proxy: None,
        })
    }

    /// The same address, trusting only what `trust` says. A pin on a plaintext address is an error: it could not be kept.
    pub fn trusting(mut self, trust: Trust) -> Result<Self, TrustError> {
        if trust.pin.is_some() && self.url.scheme() != "https" {
            return Err(TrustError::PinNeedsTls);
        }
        trust.check()?;
        self.trust = Arc::new(trust);
        Ok(self)
    }

    /// The same address, through the proxy that the environment names for it. Plaintext never goes through one: its rule is about
    /// the address that is connected to, and a proxy would choose that.
    pub fn through(mut self, proxies: &Proxies) -> Result<Self, ProxyError> {
        if self.url.scheme() == "https" {
            self.proxy = proxies.for_host(&self.host(), self.port())?.map(Arc::new);
        }
        Ok(self)
    }

    /// The proxy's address without its password, where there is one.
    pub fn proxy(&self) -> Option<String> {
        self.proxy.as_ref().map(|proxy| proxy.to_string())
    }

    /// An address below the gateway's own: `path` starts without a slash.
    pub fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        let base = self.url.path().trim_end_matches('/');
        url.set_path(&format!("{base}/{path}"));
        url
    }

    /// The host without the brackets of IPv6.
    pub fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']').to_owned()
    }

    /// The port, the scheme's own where none is written.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(443)
    }

    /// The URL over http(s), `ws` and `wss` already translated.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Whether the address is in plaintext and not on this machine: worth one line of warning.
    pub fn is_break_glass(&self) -> bool {
        self.reach == Reach::Private
    }
}

fn http_scheme(scheme: &str) -> Option<&'static str> {
    match scheme {
        "https" | "wss" => Some("https"),
        "http" | "ws" => Some("http"),
        _ => None,
    }
}

fn reach_of(url: &Url, break_glass: BreakGlass) -> Option<Reach> {
    if matches!(url.scheme(), "https" | "wss") {
        return Some(Reach::Anywhere);
    }
    let address: Option<IpAddr> = match url.host()? {
        Host::Domain("localhost") => return Some(Reach::Loopback),
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
    };
    match (address, break_glass) {
        (Some(address), _) if Reach::Loopback.admits(address) => Some(Reach::Loopback),
        (Some(address), BreakGlass::Open) if Reach::Private.admits(address) => Some(Reach::Private),
        (None, BreakGlass::Open) => Some(Reach::Private),
        _ => None,
    }
}

impl Reach {
    fn admits(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match self {
            Self::Anywhere => true,
            Self::Loopback => address.is_loopback(),
            Self::Private => address.is_loopback() || is_private(address),
        }
    }
}

fn is_private(address: IpAddr) -> bool {
    const PRIVATE: [&str; 7] = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "100.64.0.0/10",
        "fc00::/7",
        "fe80::/10",
    ];
    PRIVATE
        .iter()
        .filter_map(|net| net.parse::<IpNet>().ok())
        .any(|net| net.contains(&address))
}

fn plaintext(url: &Url, origin: String) -> TransportError {
    TransportError::Plaintext {
        url: without_user_info(url.as_str()),
        scheme: url.scheme().to_owned(),
        host: url.host_str().unwrap_or_default().to_owned(),
        port: url.port_or_known_default().unwrap_or(80),
        origin,
    }
}

/// What may be shown of a URL that was not accepted: a password in it stays out of terminals and logs.
fn without_user_info(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..authority_end].rfind('@') {
        Some(at) => format!("{scheme}://***@{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, closed: bool, open: bool) {
        let parse = |glass| GatewayUrl::parse(text, "--gateway", glass);
        assert_eq!(
            parse(BreakGlass::Closed).is_ok(),
            closed,
            "{text} with the glass closed"
        );
        assert_eq!(parse(BreakGlass::Open).is_ok(), open, "{text} with the glass open");
    }

    #[test]
    fn tls_goes_anywhere_and_plaintext_stays_on_this_machine() {
        let each = |urls: &'static str, closed, open| urls.split_whitespace().for_each(|url| check(url, closed, open));
        each(
            "https://ace.example.com wss://8.8.8.8:5000 HTTPS://ACE.EXAMPLE.COM/ace/",
            true,
            true,
        );
        each(
            "http://127.0.0.1:5000 ws://127.8.9.1 http://LOCALHOST:5000 http://[::1] http://[::ffff:127.0.0.1]",
            true,
            true,
        );
        each(
            "http://10.1.2.3 ws://192.168.0.9:5000 http://172.31.0.1 http://169.254.1.1 http://100.100.0.1",
            false,
            true,
        );
        each(
            "http://[fd00::1] http://[fe80::1] http://server.lan http://localhost.evil.example",
            false,
            true,
        );
        each(
            "http://8.8.8.8 ws://8.8.8.8:5000 http://0.0.0.0:5000 http://[::]:5000 http://224.0.0.1",
            false,
            false,
        );
        each(
            "http://172.32.0.1 http://[2001:db8::1] ws://127.0.0.1@8.8.8.8",
            false,
            false,
        );
        each(
            "ftp://127.0.0.1 nonsense https://user:pw@ace.example.com https://ace.example.com/?key=x",
            false,
            false,
        );
    }

    #[test]
    fn only_a_one_opens_the_glass() {
        assert_eq!(BreakGlass::from_env_value(Some("1")), BreakGlass::Open);
        for value in [None, Some(""), Some("true"), Some("yes"), Some(" 1"), Some("01")] {
            assert_eq!(BreakGlass::from_env_value(value), BreakGlass::Closed);
        }
    }

    #[test]
    fn the_refusal_names_the_source_and_the_ways_out_and_no_password() {
        let error = GatewayUrl::parse(
            "ws://me:hunter2@evil.example:5000/",
            "OPENACE_GATEWAY_URL",
            BreakGlass::Closed,
        );
        let text = error.unwrap_err().to_string();
        assert!(
            text.starts_with("SECURITY ERROR: Gateway URL \"ws://***@evil.example:5000/\" uses plaintext"),
            "{text}"
        );
        assert!(
            text.contains("Source: OPENACE_GATEWAY_URL") && text.contains("ssh -N -L 5000:127.0.0.1:5000"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_websocket_url_names_the_same_origin_over_http() {
        let url = |text| {
            GatewayUrl::parse(text, "--gateway", BreakGlass::Closed)
                .unwrap()
                .url()
                .to_string()
        };
        assert_eq!(url("wss://ace.example.com:8443/x"), "https://ace.example.com:8443/x");
        assert_eq!(url("ws://127.0.0.1:5000"), "http://127.0.0.1:5000/");
    }
}
