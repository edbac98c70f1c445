//! What the sessions of this machine and the connection to the server say to each other.
//!
//! The runner of the sessions holds an [`Uplink`]; the transport holds its other ends. Both ways are bounded: a session whose
//! spool is full makes its CLI wait.

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
    pub down: mpsc::Receiver<Down>,
}

/// What comes from the server.
#[derive(Debug)]
pub enum Down {
    /// It says this.
    Heard(ToAgent),
    /// It is away: nobody hears what is said before its next Welcome.
    Disconnected,
}

/// What goes to the server.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lines are many and words are few: neither is worth an allocation"
)]
pub enum Up {
    /// As it is, as soon as there is a connection; of statuses and wishes for a token that wait until then the latest counts.
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
