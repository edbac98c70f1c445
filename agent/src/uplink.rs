//! What the sessions' side of the agent and the server's side hand each other. Neither knows more of the other.

use ace_policies::{
    SessionId,
    wire::{FromAgent, Stream, ToAgent},
};
use tokio::sync::mpsc;

/// The sessions' end: where they say things, and where they hear what the server wants.
pub struct Uplink {
    /// Waits where the spool or the outbox is full: the sender then reads no more of its CLI.
    pub out: mpsc::Sender<Up>,
    /// Commands, tokens and each connection's `Welcome`, in the order in which they came.
    pub down: mpsc::Receiver<ToAgent>,
}

/// Something for the server.
#[derive(Debug)]
pub enum Up {
    /// A message; it reaches the server even if the connection is away just now.
    Say(FromAgent),
    /// A line of output, its newline included where there was one. It is numbered, masked and kept until the server has it.
    Print {
        /// Whose.
        session_id: SessionId,
        /// Where it was printed.
        stream: Stream,
        /// What was printed.
        data: Vec<u8>,
        /// When, UTC milliseconds.
        at: i64,
    },
}
