//! Where the gateway may send a provider key: public addresses over https, and what the operator allows besides.
//!
//! A base URL is checked when it is stored and its addresses each time they are resolved, since names can be rebound.

mod address;

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

pub use address::{Special, special};

/// What base URLs may name although it is not public. Empty: public addresses and https only.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EgressAllow {
    /// Host names, in lower case. An entry is one name, never its subdomains.
    pub hosts: Vec<String>,
    /// Networks; a single address is a network of one.
    pub nets: Vec<IpNet>,
}

impl EgressAllow {
    /// Reads the entries of `egress.allow`: host names, addresses and networks in CIDR notation.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, EgressError> {
        let mut allow = Self::default();
        for entry in entries {
            allow.add(entry.as_ref().trim())?;
        }
        Ok(allow)
    }

    fn add(&mut self, entry: &str) -> Result<(), EgressError> {
        let bare = entry
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(entry);
        if let Ok(net) = bare.parse::<IpNet>() {
            self.nets.push(net.trunc());
        } else if let Ok(address) = bare.parse::<IpAddr>() {
            self.nets.push(IpNet::from(address.to_canonical()));
        } else {
            match Host::parse(entry) {
                Ok(Host::Domain(name)) if !name.contains(['*', '/']) => self.hosts.push(without_dot(&name).to_owned()),
                _ => return Err(EgressError::AllowEntry(entry.to_owned())),
            }
        }
        Ok(())
    }

    fn reaches(&self, ip: IpAddr, host: &str, special: Special) -> bool {
        self.has_address(ip) || (special.reachable_by_name() && self.has_host(host))
    }

    fn has_host(&self, host: &str) -> bool {
        let host = without_dot(host);
        self.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.nets
            .iter()
            .any(|net| net.contains(&address) || net.contains(&address.to_canonical()))
    }
}

/// Checks a key's base URL, as far as that goes without resolving names. Gives the URL in its normal form.
pub fn check_base_url(url: &str, allow: &EgressAllow) -> Result<Url, EgressError> {
    let url = check_url(url, allow)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(EgressError::QueryOrFragment);
    }
    Ok(url)
}

/// Checks a URL that something is sent to as it is, such as a webhook's: the same, and it may have a query.
pub fn check_url(url: &str, allow: &EgressAllow) -> Result<Url, EgressError> {
    let url = Url::parse(url.trim()).map_err(|_| EgressError::Url)?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(EgressError::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(EgressError::Userinfo);
    }
    let allowed = check_host(&url, allow)?;
    if url.scheme() == "http" && !allowed {
        Err(EgressError::Plaintext)
    } else {
        Ok(url)
    }
}

/// Checks an address that a host name resolved to, right before connecting to it.
pub fn check_address(ip: IpAddr, host: &str, allow: &EgressAllow) -> Result<(), EgressError> {
    match special(ip) {
        Some(special) if !allow.reaches(ip, host, special) => Err(EgressError::Address { address: ip, special }),
        _ => Ok(()),
    }
}

/// Whether the operator allowed the host by name or network; an error where it is neither that nor public.
fn check_host(url: &Url, allow: &EgressAllow) -> Result<bool, EgressError> {
    let address: IpAddr = match url.host().ok_or(EgressError::Url)? {
        Host::Domain(name) => return check_name(name, allow),
        Host::Ipv4(address) => address.into(),
        Host::Ipv6(address) => address.into(),
    };
    check_address(address, "", allow)?;
    Ok(allow.has_address(address))
}

fn check_name(name: &str, allow: &EgressAllow) -> Result<bool, EgressError> {
    if allow.has_host(name) {
        return Ok(true);
    }
    if is_private_name(name) {
        return Err(EgressError::PrivateName(name.to_owned()));
    }
    Ok(false)
}

/// Names that no public DNS answers, or that clouds answer with their metadata service.
fn is_private_name(name: &str) -> bool {
    let name = without_dot(name);
    let inside = |suffix: &&str| {
        name.strip_suffix(*suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    !name.contains('.') || PRIVATE_SUFFIXES.iter().any(inside)
}

const PRIVATE_SUFFIXES: [&str; 9] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "home.arpa",
];

fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Why a base URL or an address is not allowed. The texts go to the admin who stored it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EgressError {
    /// It is not an absolute URL.
    #[error("the base URL must be an absolute URL such as https://api.example.com/v1")]
    Url,
    /// It is not http or https.
    #[error("the base URL must begin with https://")]
    Scheme,
    /// It is http and the operator did not allow the host.
    #[error("the base URL must begin with https://; plain http is only for hosts in egress.allow")]
    Plaintext,
    /// It holds a user name or password.
    #[error("the base URL must not contain a user name or password")]
    Userinfo,
    /// It has a query or a fragment.
    #[error("the base URL must not have a query or a fragment")]
    QueryOrFragment,
    /// Its host is a name for inside use.
    #[error("the base URL's host '{0}' is a private name; an operator can list it in egress.allow")]
    PrivateName(String),
    /// The address is not public.
    #[error("the address {address} is {special}; an operator can list it in egress.allow")]
    Address {
        /// The address.
        address: IpAddr,
        /// What it is.
        special: Special,
    },
    /// An entry of `egress.allow` is neither name, address nor network.
    #[error("'{0}' is neither a host name, an IP address nor a network such as 10.0.0.0/8")]
    AllowEntry(String),
}

impl EgressError {
    /// The stable code for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::AllowEntry(_) => "egress_allow_invalid",
            Self::PrivateName(_) | Self::Address { .. } | Self::Plaintext => "base_url_forbidden",
            Self::Url | Self::Scheme | Self::Userinfo | Self::QueryOrFragment => "base_url_invalid",
        }
    }
}

#[cfg(test)]
mod tests;
