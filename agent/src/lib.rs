//! The agent of a remote machine: what stands between an AI CLI and the gateway there.
//!
//! It opens outbound connections only. The one socket it listens on is the relay's, on 127.0.0.1.

pub mod adapter;
pub mod command;
pub mod config;
pub mod control;
pub mod conversation;
pub mod credentials;
pub mod daemon;
pub mod driver;
pub mod files;
pub mod http;
pub mod lock;
pub mod log;
pub mod machine;
pub mod mask;
pub mod outbox;
pub mod process;
pub mod register;
pub mod relay;
pub mod runner;
pub mod sessions;
pub mod spool;
pub mod status;
pub mod supervisor;
pub mod token_file;
pub mod transport;
pub mod uplink;

/// The agent's version: the whole product's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const USER_AGENT: &str = concat!("ace-agent/", env!("CARGO_PKG_VERSION"));

/// UTC milliseconds.
fn millis(time: std::time::SystemTime) -> i64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
