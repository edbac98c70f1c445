//! The agent against a server on real sockets: its connection, and the program as people start it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod agent;
mod commands;
mod credentials;
mod output;
mod program;
mod reconnect;
mod server;
mod throughput;
