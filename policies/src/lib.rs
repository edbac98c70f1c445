//! What ACE Gateway's programs agree on: rules and formats.
//!
//! Everything here is pure: no I/O, no clock, no randomness. Times, nonces and rows come in as arguments and a
//! decision goes out. Talking to the database, the network and the system is left to the programs.

#![warn(missing_docs)]

pub mod access;
pub mod bind;
pub mod config;
pub mod denied;
pub mod edge;
pub mod hygiene;
pub mod id;
mod names;
pub mod price;
pub mod provider;
pub mod quota;
pub mod secret;
pub mod session;
pub mod ssrf;
pub mod token;
pub mod upload;
pub mod usage;
pub mod vault;
pub mod wire;

pub use denied::Denied;
pub use id::{KeyId, MachineId, RequestId, SessionId, TenantId, UserId};
pub use provider::Provider;
pub use secret::Secret;
