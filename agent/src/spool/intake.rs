//! The way into the spool: a thread of its own, because disks can be slow and nothing else should wait for them.

use std::{
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use ace_policies::{
    SessionId,
    wire::{FromAgent, Stream},
};
use tokio::sync::mpsc;

use super::Spool;
use crate::{
    mask::Mask,
    outbox::{Outbox, Said},
    uplink::Up,
};

/// How many things are taken in before they are made safe together.
const BATCH: usize = 1000;
/// The least time between two synchronisations: lines that trickle share one.
const SYNC_EVERY: Duration = Duration::from_millis(25);
/// How long a full spool makes its CLIs wait before lines are dropped.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is tried again: a disk does not tell when it has space.
const RETRY: Duration = Duration::from_millis(250);

/// What the thread needs.
pub struct Intake {
    /// Where output goes.
    pub spool: Arc<Spool>,
    /// Which texts must not get out.
    pub mask: Arc<RwLock<Mask>>,
    /// Where everything else goes.
    pub outbox: Arc<Outbox>,
    /// How long a full spool makes its CLIs wait; [`None`] is the usual time.
    pub patience: Option<Duration>,
}

/// Takes in what the sessions say until they are gone.
pub fn spawn(intake: Intake, mut out: mpsc::Receiver<Up>) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("spool".to_owned()).spawn(move || {
        let mut batch = Vec::with_capacity(BATCH);
        let mut synced = None::<Instant>;
        while out.blocking_recv_many(&mut batch, BATCH) > 0 {
            let mut printed = false;
            for up in batch.drain(..) {
                printed |= matches!(up, Up::Print { .. });
                intake.take(up);
            }
            if printed {
                pause_since(synced);
                // What came in the meantime is made safe by the same call.
                while batch.len() < BATCH
                    && let Ok(up) = out.try_recv()
                {
                    batch.push(up);
                }
                batch.drain(..).for_each(|up| intake.take(up));
                intake.sync();
                synced = Some(Instant::now());
            }
        }
    })
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
    fn take(&self, up: Up) {
        match up {
            Up::Say(message) => {
                let message = self.mask().message(message);
                let after = session_of(&message).map(|session| (session, self.spool.last_seq(session)));
                self.outbox.push(Said { message, after });
            }
            Up::Print {
                session_id,
                stream,
                data,
                at,
            } => self.print(session_id, stream, data, at),
        }
    }

    fn print(&self, session: SessionId, stream: Stream, data: Vec<u8>, at: i64) {
        let data = self.mask().bytes(data);
        let patience = self.patience.unwrap_or(PATIENCE);
        let begun = Instant::now();
        loop {
            let full = match self.spool.append(session, stream, at, &data) {
                Ok(_) => return,
                Err(full) => full,
            };
            if begun.elapsed() >= patience {
                return self.spool.drop_line(session, at, data.len(), &full);
            }
            // What is here already must be on its way, or no space will ever be made.
            self.sync();
            self.spool.wait_for_space(RETRY.min(patience));
        }
    }

    fn sync(&self) {
        if let Err(error) = self.spool.sync() {
            tracing::error!(%error, "the spool cannot be written to disk; its lines wait");
        }
    }

    fn mask(&self) -> std::sync::RwLockReadGuard<'_, Mask> {
        self.mask.read().unwrap_or_else(PoisonError::into_inner)
    }
}
