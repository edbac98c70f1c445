//! HTTP proxies, as the environment names them: a tunnel by `CONNECT`, TLS inside it and end to end.

use std::{fmt, io, net::IpAddr};

use ace_policies::Secret;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

/// `HTTPS_PROXY` (else `ALL_PROXY`) and `NO_PROXY`, capitals or not.
#[derive(Default)]
pub struct Proxies {
    proxy: Option<(String, String)>,
    no_proxy: String,
}

/// The environment names a proxy that cannot be used. Going around it silently could be what somebody forbade.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: {problem}; expected http://[user:password@]host:port, or name the server in NO_PROXY")]
pub struct ProxyError {
    variable: String,
    problem: String,
}

/// A proxy to go through.
pub(super) struct Proxy {
    pub host: String,
    pub port: u16,
    authorization: Option<Secret>,
}

/// More than any proxy says before its tunnel.
const MAX_ANSWER_BYTES: usize = 16 << 10;

impl Proxies {
    /// Takes the settings from where `lookup` finds variables.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: [&str; 2]| {
            let found = names
                .into_iter()
                .find_map(|name| Some((name.to_owned(), lookup(name)?)));
            found.filter(|(_, value)| !value.trim().is_empty())
        };
        Self {
            proxy: first(["HTTPS_PROXY", "https_proxy"]).or_else(|| first(["ALL_PROXY", "all_proxy"])),
            no_proxy: first(["NO_PROXY", "no_proxy"]).map_or(String::new(), |(_, value)| value),
        }
    }

    pub(super) fn for_host(&self, host: &str, port: u16) -> Result<Option<Proxy>, ProxyError> {
        let Some((variable, text)) = &self.proxy else {
            return Ok(None);
        };
        if is_excepted(&self.no_proxy, host, port) {
            return Ok(None);
        }
        let wrong = |problem: String| ProxyError {
            variable: variable.clone(),
            problem,
        };
        Proxy::parse(text).map(Some).map_err(wrong)
    }
}

/// `*`, a name (its subdomains are meant as well), an address, a network; each perhaps with a port.
fn is_excepted(no_proxy: &str, host: &str, port: u16) -> bool {
    let address = host.parse::<IpAddr>().ok();
    let host = host.to_ascii_lowercase();
    no_proxy.split(',').map(str::trim).any(|entry| {
        let entry = match entry.rsplit_once(':') {
            Some((name, number)) if number.parse() == Ok(port) && !name.contains(':') => name,
            _ => entry,
        };
        let name = entry.trim_start_matches('.').to_ascii_lowercase();
        match address {
            _ if entry == "*" => true,
            Some(address) => {
                entry.parse() == Ok(address) || entry.parse::<IpNet>().is_ok_and(|net| net.contains(&address))
            }
            None => !name.is_empty() && (host == name || host.ends_with(&format!(".{name}"))),
        }
    })
}

impl Proxy {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&text).map_err(|error| format!("not a URL: {error}"))?;
        if url.scheme() != "http" {
            return Err(format!("a proxy of the kind `{}` is not supported", url.scheme()));
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let login = (!url.username().is_empty()).then(|| {
            let login = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or("")));
            Secret::new(STANDARD.encode(login))
        });
        Ok(Self {
            host,
            port: url.port_or_known_default().unwrap_or(80),
            authorization: login,
        })
    }

    /// Asks for a tunnel over a connection to the proxy.
    pub async fn open(&self, mut tcp: TcpStream, host: &str, port: u16) -> io::Result<TcpStream> {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let login = self.authorization.as_ref().map_or(String::new(), |login| {
            format!("Proxy-Authorization: Basic {}\r\n", login.expose())
        });
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{login}\r\n");
        tcp.write_all(request.as_bytes()).await?;
        let answer = read_head(&mut tcp).await?;
        match answer.split(' ').nth(1) {
            Some("200") => Ok(tcp),
            Some("407") => Err(io::Error::other("407: it wants a user name and a password in its URL")),
            _ => Err(io::Error::other(format!(
                "it answers `{}`",
                answer.lines().next().unwrap_or_default()
            ))),
        }
    }
}

/// The head of the answer. Nothing comes after it before we speak: TLS begins with the client.
async fn read_head(tcp: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_ANSWER_BYTES {
            return Err(io::Error::other("its answer has no end"));
        }
        if tcp.read_buf(&mut head).await? == 0 {
            return Err(io::Error::other("it hung up"));
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(pairs: &'static [(&str, &str)]) -> Proxies {
        Proxies::from_lookup(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn exceptions_are_names_addresses_and_networks() {
        #[track_caller]
        fn check(no_proxy: &str, host: &str, excepted: bool) {
            assert_eq!(is_excepted(no_proxy, host, 443), excepted, "{no_proxy} {host}");
        }
        check("example.com", "ace.example.com", true);
        check("localhost, .example.com", "ACE.example.com", true);
        check("example.com", "badexample.com", false);
        check("example.com:443", "example.com", true);
        check("example.com:8443", "example.com", false);
        check("10.0.0.0/8,192.168.1.1", "10.9.8.7", true);
        check("10.0.0.0/8,192.168.1.1", "192.168.1.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("::1", "::1", true);
        check("*", "anything", true);
        check("", "anything", false);
        check(",,", "anything", false);
    }

    #[test]
    fn the_first_proxy_counts_and_only_http_ones_work() {
        let of = |pairs| proxies(pairs).for_host("ace.example.com", 443);
        assert!(of(&[]).unwrap().is_none());
        let proxy = of(&[
            ("https_proxy", "http://me:p%40ss@proxy.lan:3128"),
            ("ALL_PROXY", "socks5://x"),
        ])
        .unwrap()
        .unwrap();
        assert_eq!(proxy.to_string(), "http://proxy.lan:3128");
        assert_eq!(
            proxy.authorization.as_ref().unwrap().expose(),
            STANDARD.encode("me:p@ss")
        );
        assert_eq!(of(&[("ALL_PROXY", "proxy.lan:3128")]).unwrap().unwrap().port, 3128);
        let error = of(&[("ALL_PROXY", "socks5://proxy.lan:1080")])
            .err()
            .unwrap()
            .to_string();
        assert!(error.starts_with("ALL_PROXY: ") && error.contains("socks5"), "{error}");
        assert!(
            of(&[("HTTPS_PROXY", "proxy.lan"), ("NO_PROXY", "example.com")])
                .unwrap()
                .is_none()
        );
    }
}
