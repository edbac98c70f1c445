//! Binding the public port. One gateway per address: the bind is the lock, and nothing is ever bound wider than asked.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

use ace_policies::bind::BindError;
use ace_policies::config::Gateway;

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The mode has no addresses here.
    #[error("{code}: {0}", code = .0.code())]
    Mode(BindError),
    /// Somebody else listens there.
    #[error("another gateway instance is already listening on {0}; stop it, or choose another --port")]
    InUse(SocketAddr),
    /// Any other failure.
    #[error("failed to bind gateway socket {0}: {1}")]
    Bind(SocketAddr, io::Error),
}

/// The addresses that the configuration means on this host.
pub fn addresses(config: &Gateway) -> Result<Vec<SocketAddr>, ListenError> {
    let interfaces: Vec<IpAddr> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .iter()
        .map(if_addrs::Interface::ip)
        .collect();
    config
        .bind
        .resolve(&config.custom_bind_host, config.port, &interfaces)
        .map_err(ListenError::Mode)
}

/// Binds every address; with port 0 the first one chooses for all.
pub fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners = Vec::new();
    let mut chosen = None;
    for address in addresses {
        let mut address = *address;
        if address.port() == 0 {
            address.set_port(chosen.unwrap_or(0));
        }
        match bind_one(address) {
            Ok(listener) => {
                chosen = chosen.or(listener.local_addr().ok().map(|address| address.port()));
                listeners.push(listener);
            }
            // A host may name ::1 in its tables and have no IPv6; 127.0.0.1 is bound already then.
            Err(ListenError::Bind(..)) if address.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST) && !listeners.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::AddrInUse => ListenError::InUse(address),
        _ => ListenError::Bind(address, error),
    };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener
        .set_nonblocking(true)
        .map_err(|error| ListenError::Bind(address, error))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_instance_is_told_so() {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let first = bind(&[any]).expect("free");
        let taken = first[0].local_addr().expect("bound");
        assert!(matches!(bind(&[taken]), Err(ListenError::InUse(address)) if address == taken));
    }
}
