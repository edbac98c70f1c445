//! ACE Gateway's control plane: people, provider keys, tokens, and the record of who did what.
//!
//! `App` is the whole of it as a value; `serve` puts it behind a socket. LLM traffic never comes here.

mod agents;
mod app;
mod approvals;
mod assignments;
mod audit;
mod background;
mod body;
mod bootstrap;
mod chance;
mod cleanup;
mod clock;
mod config;
mod door;
mod error;
mod explain;
mod files;
mod home;
mod install;
pub mod keys;
pub mod ledger;
mod live;
mod lockout;
mod login;
mod machine_path;
mod machines;
mod meta;
mod notifications;
mod openapi;
mod outbound;
mod output;
mod page;
mod password;
mod prices;
mod provider_keys;
mod proxy_tokens;
mod push;
mod push_subscriptions;
mod queue;
mod quotas;
mod record;
mod rewrap;
mod serve;
mod sessions;
mod setup;
mod sheet;
mod signing_keys;
mod streams;
mod teller;
mod tenants;
mod tokens;
mod usage;
mod users;
mod visitor;
mod wakeups;
mod webhooks;
mod when;
mod write;

#[cfg(test)]
mod matrix_tests;
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
