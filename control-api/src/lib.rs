//! ACE Gateway's control plane: people, provider keys, tokens, and the record of who did what.
//!
//! `App` is the whole of it as a value; `serve` puts it behind a socket. LLM traffic never comes here.

mod app;
mod audit;
mod body;
mod bootstrap;
mod chance;
mod clock;
mod config;
mod door;
mod error;
mod home;
pub mod keys;
pub mod ledger;
mod lockout;
mod login;
mod meta;
mod openapi;
mod page;
mod password;
mod prices;
mod provider_keys;
mod proxy_tokens;
mod quotas;
mod rewrap;
mod serve;
mod sheet;
mod signing_keys;
mod tokens;
mod usage;
mod users;
mod visitor;
mod when;
mod write;

#[cfg(test)]
mod testing;

pub use app::{App, OpenError, Trust};
pub use audit::{Broken, Verified};
pub use bootstrap::{Bootstrap, FirstAdmin, bootstrap};
pub use clock::Clock;
pub use config::{ControlConfig, ControlConfigError};
pub use error::ApiError;
pub use provider_keys::NewProviderKey;
pub use proxy_tokens::{IssuedToken, TokenWish};
pub use rewrap::rewrap;
pub use serve::{Listener, serve};
pub use when::When;
