//! What the sessions of this machine and the connection to the server say to each other.
//!
//! The runner of the sessions holds an [`Uplink`]; the transport holds its other ends. Both ways are bounded: a spool that is full
//! makes the CLIs wait.

use ace_policies::{
    SessionId,
    wire::{FromAgent, Stream, ToAgent},
};
use tokio::sync::mpsc;

/// The sessions' ends.
pub struct Uplink {
    /// To the server.
    pub out: mpsc::Sender<Up>,
    /// From the server.
    pub down: mpsc::Receiver<ToAgent>,
}

/// What goes to the server.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lines are many and words are few: neither is worth an allocation"
)]
pub enum Up {
    /// As it is. What is said while there is no connection may be dropped, unless it answers a command.
    Say(FromAgent),
    /// A line of a session: numbered, stored and sent by the spool.
    Print {
        /// Whose.
        session_id: SessionId,
        /// Where it was printed.
        stream: Stream,
        /// The line with its newline, of at most [`ace_policies::wire::MAX_BATCH_BYTES`].
        data: Vec<u8>,
        /// When, UTC milliseconds.
        at: i64,
    },
}
