//! The agent of a remote machine: what stands between an AI CLI and the gateway there.
//!
//! It opens outbound connections only. The one socket it listens on is the relay's, on 127.0.0.1.

pub mod command;
pub mod config;
pub mod journal;
pub mod machine;
pub mod mask;
pub mod relay;
pub mod spool;
pub mod token_file;
pub mod transport;
pub mod uplink;
