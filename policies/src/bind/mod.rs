//! Where the public port listens: bind modes over the host's addresses, and what must hold before others can reach it.
//!
//! Both halves are decided before anything listens, on the resolved addresses, and no failure ever widens a bind.

mod exposure;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

pub use exposure::{AdminAccount, AuthState, EncryptionKey, Refusal, check_exposure};

/// The exit code of a program that refuses its configuration (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;

/// Which of the host's addresses the public port listens on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum BindMode {
    /// `127.0.0.1`, and `::1` where the host has it.
    #[default]
    Loopback,
    /// Every IPv4 address.
    Lan,
    /// The address in the tailnet, and `127.0.0.1`.
    Tailnet,
    /// One address, by its literal, and `127.0.0.1`.
    Custom,
    /// Loopback where the host has it, else every IPv4 address.
    Auto,
}

impl BindMode {
    /// Every mode.
    pub const ALL: [Self; 5] = [Self::Loopback, Self::Lan, Self::Tailnet, Self::Custom, Self::Auto];

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Lan => "lan",
            Self::Tailnet => "tailnet",
            Self::Custom => "custom",
            Self::Auto => "auto",
        }
    }

    /// The addresses to listen on, of a host that has `interfaces`. `custom_host` is read in mode `custom` only.
    pub fn resolve(self, custom_host: &str, port: u16, interfaces: &[IpAddr]) -> Result<Vec<SocketAddr>, BindError> {
        let addresses = match self {
            Self::Loopback => loopback(interfaces),
            Self::Lan => vec![ANY],
            Self::Tailnet => with_loopback(tailnet(interfaces).ok_or(BindError::TailnetUnavailable)?),
            Self::Custom => with_loopback(custom(custom_host)?),
            Self::Auto if interfaces.iter().any(IpAddr::is_loopback) => loopback(interfaces),
            Self::Auto => vec![ANY],
        };
        Ok(addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, port))
            .collect())
    }
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOCAL_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn loopback(interfaces: &[IpAddr]) -> Vec<IpAddr> {
    if interfaces.contains(&LOCAL_V6) {
        vec![LOCAL, LOCAL_V6]
    } else {
        vec![LOCAL]
    }
}

/// Clients on the same host keep working; an unspecified address contains the loopback one already.
fn with_loopback(address: IpAddr) -> Vec<IpAddr> {
    if address == LOCAL || address.is_unspecified() {
        vec![address]
    } else {
        vec![address, LOCAL]
    }
}

/// A tailnet gives addresses of 100.64.0.0/10 and fd7a:115c:a1e0::/48; the first kind is reachable for more clients.
fn tailnet(interfaces: &[IpAddr]) -> Option<IpAddr> {
    let v4 = |ip: &&IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 0x40);
    let v6 = |ip: &&IpAddr| matches!(ip, IpAddr::V6(ip) if ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0]);
    interfaces
        .iter()
        .find(v4)
        .or_else(|| interfaces.iter().find(v6))
        .copied()
}

fn custom(host: &str) -> Result<IpAddr, BindError> {
    let invalid = || BindError::CustomInvalid(host.to_owned());
    let address = host.trim().parse::<IpAddr>().map_err(|_| invalid())?;
    let broadcast = matches!(address, IpAddr::V4(ip) if ip.is_broadcast());
    if address.is_multicast() || broadcast {
        Err(invalid())
    } else {
        Ok(address)
    }
}

impl fmt::Display for BindMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for BindMode {
    type Err = BindError;

    fn from_str(name: &str) -> Result<Self, BindError> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == name);
        found.ok_or_else(|| BindError::UnknownMode(name.to_owned()))
    }
}

/// Why a bind mode gives no addresses.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BindError {
    /// The mode is none of the five.
    #[error("unknown bind mode '{0}'; use loopback, lan, tailnet, custom or auto")]
    UnknownMode(String),
    /// No interface has a tailnet address.
    #[error("no interface has a tailnet address (100.64.0.0/10); is Tailscale up? Or set gateway.bind to another mode")]
    TailnetUnavailable,
    /// The custom host is no IP address that can be listened on.
    #[error("gateway.custom_bind_host must be the IP address of an interface, found '{0}'")]
    CustomInvalid(String),
}

impl BindError {
    /// The stable code for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownMode(_) => "bind_mode_unknown",
            Self::TailnetUnavailable => "bind_tailnet_unavailable",
            Self::CustomInvalid(_) => "bind_custom_invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &[&str] = &[
        "127.0.0.1",
        "::1",
        "192.168.1.7",
        "100.101.102.103",
        "fd7a:115c:a1e0::9",
        "203.0.113.9",
    ];

    #[track_caller]
    fn check(mode: &str, custom_host: &str, interfaces: &[&str], expected: Result<&[&str], &str>) {
        let interfaces: Vec<IpAddr> = interfaces.iter().map(|text| text.parse().unwrap()).collect();
        let mode: BindMode = mode.parse().unwrap();
        let found = mode.resolve(custom_host, 5000, &interfaces);
        let found = found.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        let expected = expected.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            found.map_err(|error| error.code()),
            expected,
            "{mode} over {interfaces:?}"
        );
    }

    #[test]
    fn each_mode_gives_its_addresses_and_never_wider_ones() {
        check("loopback", "", HOST, Ok(&["127.0.0.1:5000", "[::1]:5000"]));
        check("loopback", "", &["127.0.0.1", "10.0.0.1"], Ok(&["127.0.0.1:5000"]));
        check("loopback", "0.0.0.0", &[], Ok(&["127.0.0.1:5000"]));
        check("lan", "", HOST, Ok(&["0.0.0.0:5000"]));
        check("tailnet", "", HOST, Ok(&["100.101.102.103:5000", "127.0.0.1:5000"]));
        check(
            "tailnet",
            "",
            &["127.0.0.1", "fd7a:115c:a1e0::9"],
            Ok(&["[fd7a:115c:a1e0::9]:5000", "127.0.0.1:5000"]),
        );
        check(
            "custom",
            "192.168.1.7",
            HOST,
            Ok(&["192.168.1.7:5000", "127.0.0.1:5000"]),
        );
        check("custom", " 127.0.0.1 ", HOST, Ok(&["127.0.0.1:5000"]));
        check("custom", "0.0.0.0", HOST, Ok(&["0.0.0.0:5000"]));
        check("custom", "::", HOST, Ok(&["[::]:5000"]));
        check("auto", "", HOST, Ok(&["127.0.0.1:5000", "[::1]:5000"]));
        check("auto", "", &["192.168.1.7"], Ok(&["0.0.0.0:5000"]));
    }

    #[test]
    fn what_cannot_be_bound_is_an_error_and_no_other_address() {
        check(
            "tailnet",
            "",
            &["127.0.0.1", "192.168.1.7"],
            Err("bind_tailnet_unavailable"),
        );
        check(
            "tailnet",
            "",
            &["100.63.255.255", "100.128.0.1", "fd7a:115c:a1e1::1"],
            Err("bind_tailnet_unavailable"),
        );
        for host in [
            "",
            "localhost",
            "gateway.example.com",
            "10.0.0.1:80",
            "256.0.0.1",
            "224.0.0.1",
            "ff02::1",
        ] {
            check("custom", host, HOST, Err("bind_custom_invalid"));
        }
        check("custom", "255.255.255.255", HOST, Err("bind_custom_invalid"));
    }

    #[test]
    fn an_unknown_mode_names_the_allowed_ones() {
        let error = "wan".parse::<BindMode>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown bind mode 'wan'; use loopback, lan, tailnet, custom or auto"
        );
        assert_eq!(error.code(), "bind_mode_unknown");
    }
}
