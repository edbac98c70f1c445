//! What the supervisor wants done.

use ace_policies::{
    SessionId,
    wire::{FromAgent, Start, Stream},
};
use uuid::Uuid;

use super::{ProcessNumber, Saved};
use crate::driver::Input;

/// What is to be done, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// To the server.
    Say(FromAgent),
    /// A line of the agent's own into a session's output.
    Print {
        /// Whose.
        session_id: SessionId,
        /// Where.
        stream: Stream,
        /// With its newline.
        data: Vec<u8>,
    },
    /// A session's relay gets a token.
    Token {
        /// Whose.
        session_id: SessionId,
        /// The token.
        token: String,
        /// Its end by our clock, UTC milliseconds.
        until_ms: i64,
    },
    /// A CLI is started. It answers with `Told` or `Exited`.
    Spawn {
        /// Whose.
        session_id: SessionId,
        /// Which process it will be.
        process: ProcessNumber,
        /// How, without its token.
        start: Box<Start>,
    },
    /// A CLI gets something. It answers with `Taken`.
    Give {
        /// Whose.
        session_id: SessionId,
        /// Which process.
        process: ProcessNumber,
        /// Comes back with `Taken`.
        tag: Option<Uuid>,
        /// What.
        input: Input,
    },
    /// A CLI and all its processes are held, or go on.
    Hold {
        /// Whose.
        session_id: SessionId,
        /// Which process.
        process: ProcessNumber,
        /// Held or not.
        held: bool,
    },
    /// A CLI and all its processes are ended. It answers with `Exited`.
    End {
        /// Whose.
        session_id: SessionId,
        /// Which process.
        process: ProcessNumber,
        /// How long it may take by itself.
        grace_ms: u64,
    },
    /// A session as it is goes to the disk, before anything that follows. Where it cannot, an `Ack` that follows is none:
    /// [`super::Supervisor::take_back`]; and a message that follows is refused with `Taken`.
    Save(SessionId, Box<Saved>),
    /// A session has ended: its relay can go.
    Close(SessionId),
    /// Nothing of a session is needed any more.
    Forget(SessionId),
}
