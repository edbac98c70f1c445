//! What the sessions of this machine and the connection to the server say to each other.
//!
//! The runner of the sessions holds an [`Uplink`]; the transport holds its other ends. Both ways are bounded: a session whose
//! spool is full makes its CLI wait.

use std::sync::Arc;

use ace_policies::{
    SessionId,
    wire::{FromAgent, Stream, ToAgent},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The sessions' ends.
pub struct Uplink {
    /// To the server.
    pub out: mpsc::Sender<Up>,
    /// From the server.
    pub down: mpsc::Receiver<Down>,
}

/// What comes from the server.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the smaller one is rare: the others are not worth an allocation"
)]
pub enum Down {
    /// It says this.
    Heard(ToAgent),
    /// It is away: nobody hears what is said before its next Welcome.
    Disconnected,
}

/// What goes to the server.
#[derive(Debug)]
pub enum Up {
    /// As it is, as soon as there is a connection; of statuses and wishes for a token that wait until then the latest counts.
    Say(FromAgent),
    /// A line of a session: numbered, stored and sent by the spool.
    Print {
        /// Whose.
        session_id: SessionId,
        /// Where it was printed.
        stream: Stream,
        /// The line with its newline.
        data: Vec<u8>,
        /// So many more bytes belonged to it and were not kept.
        left_out: u64,
        /// When, UTC milliseconds.
        at: i64,
        /// Given back when it is on the disk; none for what is not a CLI's.
        room: Option<Taken>,
    },
}

/// How much of a CLI's output may be on its way to the disk.
const ROOM_BYTES: usize = 2 << 20;
/// What a line takes beside its bytes.
const LINE_BYTES: usize = 128;

/// What makes one CLI wait, and no other, when there is no space for its output: whoever reads it takes of this for each line.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

/// The room of one line, given back when this is dropped.
#[derive(Debug)]
pub struct Taken(#[expect(dead_code, reason = "it lasts as long as this")] Option<OwnedSemaphorePermit>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_BYTES)))
    }
}

impl Room {
    /// Waits until there is room for a line of so many bytes; one that is larger than all of it has it to itself.
    pub async fn take(&self, bytes: usize) -> Taken {
        let bytes = (bytes + LINE_BYTES).min(ROOM_BYTES) as u32;
        Taken(self.0.clone().acquire_many_owned(bytes).await.ok())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn there_is_room_for_a_few_large_lines_and_not_for_endless_small_ones() {
        let room = Room::default();
        let large = room.take(3 << 20).await;
        assert!(room.take(1).now_or_never().is_none());
        drop(large);
        let one = || tokio::task::unconstrained(room.take(1)).now_or_never();
        let small: Vec<_> = std::iter::from_fn(one).collect();
        assert_eq!(small.len(), ROOM_BYTES / (LINE_BYTES + 1));
        drop(small);
        assert!(room.take(1).now_or_never().is_some());
    }
}
