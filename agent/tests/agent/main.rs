//! The agent against a server on real sockets: its connection, and the program as people start it.

mod connection;
mod program;
mod server;
mod throughput;
