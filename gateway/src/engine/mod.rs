//! Connections and sessions: the only part of the gateway that knows Pingora's types.
//!
//! Pingora gives the listeners, TLS on both sides, the transport connector and the hand-over of listening sockets. The
//! sessions on top are ours: an HTTP/1 codec on both sides ([`h1`]) and HTTP/2 through the `h2` crate ([`h2_server`],
//! [`h2_client`]). Why, and what it costs, is in `docs/decisions/0001-engine.md`.
//!
//! What a request means is none of the engine's business: it hands every accepted request to a [`Service`].

pub mod answer;
pub mod connect;
mod connection;
pub mod downstream;
pub mod h1;
pub mod h2_client;
pub mod h2_server;
pub mod headers;
pub mod io;
pub mod pool;
pub mod server;
pub mod service;
pub mod stop;
#[cfg(test)]
pub mod testing;
pub mod upload;
pub mod upstream;

pub use answer::AnswerHead;
pub use downstream::Downstream;
pub use headers::{Headers, RequestHead, ResponseHead};
pub use service::{HeadRefusal, Incoming, Served, Service};
pub use stop::Stop;
pub use upstream::Upstream;

/// Any accepted or established transport: TCP, TLS over TCP, or a Unix socket.
pub type Stream = pingora_core::protocols::Stream;
