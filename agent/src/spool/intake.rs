//! The way into the spool: a thread of its own, because disks can be slow and nothing else should wait for them.
//!
//! The thread serves all sessions, so it never waits for the space of one: what that prints and says waits in its own list.

use std::{
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use ace_policies::{
    SessionId,
    wire::{FromAgent, Stream},
};
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::{Full, Spool, backlog::Backlog, cut};
use crate::{
    mask::Mask,
    outbox::{Outbox, Said},
    uplink::{Taken, Up},
};

/// How many things are taken in before they are made safe together.
const BATCH: usize = 1000;
/// The least time between two synchronisations: lines that trickle share one.
const SYNC_EVERY: Duration = Duration::from_millis(25);
/// How long a full spool makes a session's CLI wait before its lines are dropped.
const PATIENCE: Duration = Duration::from_secs(30);
/// While something waits for space, how soon it is looked whether something else has come.
const LOOK: Duration = Duration::from_millis(25);
/// How often a disk that failed is tried again: it does not tell when it is well.
const RETRY: Duration = Duration::from_millis(250);

/// What the thread needs.
pub struct Intake {
    /// Where output goes.
    pub spool: Arc<Spool>,
    /// Which texts must not get out.
    pub mask: Arc<RwLock<Mask>>,
    /// Where everything else goes.
    pub outbox: Arc<Outbox>,
    /// How long a full spool makes a session's CLI wait; [`None`] is the usual time.
    pub patience: Option<Duration>,
}

/// Something of a session, without its secrets.
pub(super) enum Thing {
    Print(Print),
    Say(FromAgent),
}

/// A line, and the room it takes until it is on the disk.
pub(super) struct Print {
    stream: Stream,
    data: Vec<u8>,
    at: i64,
    _room: Option<Taken>,
}

/// Takes in what the sessions say until they are gone.
pub fn spawn(intake: Intake, out: mpsc::Receiver<Up>) -> std::io::Result<thread::JoinHandle<()>> {
    let worker = Worker {
        backlog: Backlog::new(intake.patience.unwrap_or(PATIENCE)),
        intake,
        out,
        batch: Vec::with_capacity(BATCH),
        synced: None,
        safe: true,
    };
    thread::Builder::new()
        .name("spool".to_owned())
        .spawn(move || worker.run())
}

struct Worker {
    intake: Intake,
    backlog: Backlog,
    out: mpsc::Receiver<Up>,
    batch: Vec<Up>,
    synced: Option<Instant>,
    /// Everything that was synchronised is safe.
    safe: bool,
}

impl Worker {
    fn run(mut self) {
        while self.receive() {
            let printed = self.take_in() | self.backlog.retry(&self.intake, Instant::now());
            if printed || self.is_sync_due() {
                pause_since(self.synced);
                // What came in the meantime is made safe by the same call.
                self.receive_more();
                self.take_in();
                self.safe = self.intake.spool.sync();
                self.synced = Some(Instant::now());
            }
        }
    }

    /// Waits until there may be something to do; false when there will be nothing more.
    fn receive(&mut self) -> bool {
        if self.backlog.is_empty() && self.safe {
            return self.out.blocking_recv_many(&mut self.batch, BATCH) > 0;
        }
        let over = self.receive_more();
        if self.batch.is_empty() {
            self.intake.spool.wait_for_space(LOOK);
        }
        !(over && self.batch.is_empty() && self.backlog.is_empty())
    }

    /// What is there; true when nothing will come any more.
    fn receive_more(&mut self) -> bool {
        while self.batch.len() < BATCH {
            match self.out.try_recv() {
                Ok(up) => self.batch.push(up),
                Err(error) => return error == TryRecvError::Disconnected,
            }
        }
        false
    }

    /// True where something was printed.
    fn take_in(&mut self) -> bool {
        let mut printed = false;
        let now = Instant::now();
        for up in std::mem::take(&mut self.batch) {
            match self.intake.understand(up) {
                (Some(session), thing) => printed |= self.backlog.put(&self.intake, session, thing, now),
                (None, Thing::Say(message)) => self.intake.outbox.say(message),
                (None, Thing::Print(_)) => {}
            }
        }
        printed
    }

    fn is_sync_due(&self) -> bool {
        !self.safe && self.synced.is_none_or(|synced| synced.elapsed() >= RETRY)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the spool's own thread, on which nobody else waits"
)]
fn pause_since(synced: Option<Instant>) {
    let rest = synced.and_then(|synced| SYNC_EVERY.checked_sub(synced.elapsed()));
    if let Some(rest) = rest {
        thread::sleep(rest);
    }
}

/// The session whose output should be read before the message is.
const fn session_of(message: &FromAgent) -> Option<SessionId> {
    match message {
        FromAgent::Status { session_id, .. }
        | FromAgent::Approval { session_id, .. }
        | FromAgent::ApprovalCancelled { session_id, .. } => Some(*session_id),
        _ => None,
    }
}

impl Intake {
    /// Takes the secrets out, then what is too long for a message: a secret is never cut in two.
    fn understand(&self, up: Up) -> (Option<SessionId>, Thing) {
        let mask = self.mask.read().unwrap_or_else(PoisonError::into_inner);
        match up {
            Up::Say(message) => {
                let message = mask.message(message);
                (session_of(&message), Thing::Say(message))
            }
            Up::Print {
                session_id,
                stream,
                data,
                left_out,
                at,
                room,
            } => {
                let data = cut::fitting(&mask.bytes(data), left_out).into_owned();
                let print = Print {
                    stream,
                    data,
                    at,
                    _room: room,
                };
                (Some(session_id), Thing::Print(print))
            }
        }
    }

    /// Puts a session's thing where it belongs, unless there is no space. True where it was printed.
    pub(super) fn put(&self, session: SessionId, thing: &Thing) -> Result<bool, Full> {
        match thing {
            Thing::Say(message) => {
                let (message, after) = (message.clone(), Some((session, self.spool.last_seq(session))));
                self.outbox.push(Said { message, after });
                Ok(false)
            }
            Thing::Print(print) => {
                self.spool.append(session, print.stream, print.at, &print.data)?;
                Ok(true)
            }
        }
    }

    /// Gives up on something that did not fit.
    pub(super) fn give_up(&self, session: SessionId, thing: &Thing, why: &Full) {
        if let Thing::Print(print) = thing {
            self.spool.drop_line(session, print.at, print.data.len(), why);
        }
    }
}

#[cfg(test)]
mod tests;
