//! HTTP/1: heads, bodies and their framing. The two sessions built on it are [`server`] (towards the client) and [`client`]
//! (towards the provider).

pub mod body;
pub mod client;
pub mod head;
pub mod server;

/// Why bytes could not be taken for an HTTP/1 message. The text is for logs and for the client's 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

#[cfg(test)]
mod oracle;
