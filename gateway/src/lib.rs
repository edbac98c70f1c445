//! The gateway's parts. What stands in this first block is pure: bytes and headers go in, a decision or bytes come
//! out; it knows nothing of connections, clocks or databases.

pub mod body;
pub mod credential;
pub mod forward;
pub mod json;
pub mod model;
pub mod provider;
pub mod refusal;
pub mod route;
pub mod sse;
pub mod websocket;

pub mod admit;
pub mod answer;
pub mod call;
pub mod clock;
pub mod config;
pub mod control;
pub mod copy;
pub mod engine;
pub mod expose;
pub mod flight;
pub mod hangup;
pub mod keys;
pub mod ledger;
pub mod listen;
pub mod metering;
pub mod metrics;
pub mod node;
pub mod options;
pub mod own;
pub mod prices;
pub mod proxy;
pub mod snapshot;
pub mod state;
pub mod store;
pub mod ticket;
pub mod tunnel;
pub mod upgrade;
pub mod upload;
