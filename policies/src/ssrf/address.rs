//! What an IP address is, where it is not a public one (the IANA special-purpose registries for IPv4 and IPv6).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What an address that is not public is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Special {
    /// No address at all: `0.0.0.0/8`, `::`.
    Unspecified,
    /// This host.
    Loopback,
    /// A private network: RFC 1918, unique local and site-local addresses.
    Private,
    /// Shared by a carrier's customers, or a tailnet: `100.64.0.0/10`.
    Shared,
    /// This link only.
    LinkLocal,
    /// A cloud's metadata service, which hands out credentials.
    Metadata,
    /// Many hosts at once.
    Multicast,
    /// For examples in documentation.
    Documentation,
    /// For measuring network gear.
    Benchmarking,
    /// An IPv6 address that tunnels to an IPv4 address: 6to4, Teredo.
    Tunnel,
    /// Reserved otherwise.
    Reserved,
}

impl Special {
    /// Whether allowing a host by its name reaches such an address. Where the name might be rebound to credentials
    /// or to everybody, the operator must name the network itself.
    pub(super) const fn reachable_by_name(self) -> bool {
        matches!(self, Self::Loopback | Self::Private | Self::Shared)
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "no address of a host",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::Shared => "a shared (CGNAT) address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud metadata service",
            Self::Multicast => "a multicast address",
            Self::Documentation => "reserved for documentation",
            Self::Benchmarking => "reserved for benchmarks",
            Self::Tunnel => "a tunnel to an IPv4 address",
            Self::Reserved => "a reserved address",
        })
    }
}

/// What is special about an address; `None` for a public one.
pub fn special(ip: IpAddr) -> Option<Special> {
    match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => match embedded_v4(ip) {
            Some(ip) => special_v4(ip),
            None => special_v6(ip),
        },
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<Special> {
    Some(match ip.octets() {
        // Link-local, Alibaba's and Azure's; the last one even lies among the public addresses.
        [169, 254, 169, 254] | [100, 100, 100, 200] | [168, 63, 129, 16] => Special::Metadata,
        [0, ..] => Special::Unspecified,
        [127, ..] => Special::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Special::Private,
        [100, 64..=127, ..] => Special::Shared,
        [169, 254, ..] => Special::LinkLocal,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Special::Documentation,
        [198, 18 | 19, ..] => Special::Benchmarking,
        [224..=239, ..] => Special::Multicast,
        [192, 0, 0, _] | [192, 88, 99, _] | [240..=255, ..] => Special::Reserved,
        _ => return None,
    })
}

fn special_v6(ip: Ipv6Addr) -> Option<Special> {
    Some(match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Special::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Special::Loopback,
        [0xfd00, 0x0ec2, ..] => Special::Metadata,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Special::Private,
        [0xfe80..=0xfebf, ..] => Special::LinkLocal,
        [0xff00..=0xffff, ..] => Special::Multicast,
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Special::Documentation,
        [0x2001, 2, 0, ..] => Special::Benchmarking,
        [0x2001, 0, ..] | [0x2002, ..] => Special::Tunnel,
        [0x2001, 0..=0x01ff, ..] => Special::Reserved,
        [0x2000..=0x3fff, ..] => return None,
        // Only 2000::/3 is given out; what is not yet may be anything one day.
        _ => Special::Reserved,
    })
}

/// The IPv4 address that is really meant by a mapped (`::ffff:0:0/96`) or NAT64 (`64:ff9b::/96`) address.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        _ => None,
    }
}
