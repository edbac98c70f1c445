//! Wake-ups: whoever waits for something to change looks again at once instead of at the next poll.
//!
//! A ring says "look"; the truth is in the tables, and a slow poll is the net under it. Rings are heard in this process;
//! bringing them to other nodes is `wakeups::relay`'s work.

pub(crate) mod relay;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ace_policies::{MachineId, SessionId};
use tokio::sync::watch;
use uuid::Uuid;

/// How long to wait before looking although nobody rang.
const POLL: Duration = Duration::from_secs(2);

/// What can be waited for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Wakeup {
    /// A machine has commands waiting, or its connection is to be ended.
    Machine(MachineId),
    /// A session has new output, another state, or a question.
    Session(SessionId),
    /// A command has an outcome.
    Command(Uuid),
    /// There are new rows in `events`.
    Events,
}

/// As nodes tell it to each other.
impl fmt::Display for Wakeup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(id) => write!(f, "m{id}"),
            Self::Session(id) => write!(f, "s{id}"),
            Self::Command(id) => write!(f, "c{id}"),
            Self::Events => f.write_str("e"),
        }
    }
}

impl FromStr for Wakeup {
    type Err = UnknownWakeup;

    fn from_str(text: &str) -> Result<Self, UnknownWakeup> {
        let id = || {
            text.get(1..)
                .and_then(|id| id.parse::<Uuid>().ok())
                .ok_or(UnknownWakeup)
        };
        match text.bytes().next() {
            Some(b'm') => Ok(Self::Machine(MachineId(id()?))),
            Some(b's') => Ok(Self::Session(SessionId(id()?))),
            Some(b'c') => Ok(Self::Command(id()?)),
            Some(b'e') if text.len() == 1 => Ok(Self::Events),
            _ => Err(UnknownWakeup),
        }
    }
}

/// What a node of another version may say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a wake-up")]
pub(crate) struct UnknownWakeup;

/// Where rings are heard.
#[derive(Clone, Default)]
pub(crate) struct Wakeups(Arc<Mutex<HashMap<Wakeup, watch::Sender<()>>>>);

impl Wakeups {
    /// Begins to listen. What is rung from now on is heard, also before [`Listening::next`] is called: listen first, then look.
    pub fn listen(&self, wakeup: Wakeup) -> Listening {
        let mut bells = self.bells();
        let bell = bells.entry(wakeup).or_insert_with(|| watch::channel(()).0);
        Listening {
            wakeup,
            bell: bell.subscribe(),
            wakeups: self.clone(),
        }
    }

    /// Wakes those who listen here.
    pub fn ring(&self, wakeup: Wakeup) {
        if let Some(bell) = self.bells().get(&wakeup) {
            bell.send_replace(());
        }
    }

    /// Wakes everybody: what rang meanwhile was not heard.
    pub fn ring_all(&self) {
        self.bells().values().for_each(|bell| bell.send_replace(()));
    }

    /// Whether somebody listens.
    #[cfg(test)]
    pub fn is_heard(&self, wakeup: Wakeup) -> bool {
        self.bells().contains_key(&wakeup)
    }

    fn bells(&self) -> MutexGuard<'_, HashMap<Wakeup, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who listens.
pub(crate) struct Listening {
    wakeup: Wakeup,
    bell: watch::Receiver<()>,
    wakeups: Wakeups,
}

impl Listening {
    /// Waits for a ring, or until it is time to look anyway.
    pub async fn next(&mut self) {
        let _rung_or_late = tokio::time::timeout(POLL, self.bell.changed()).await;
    }

    /// Waits for a ring alone, for those who have a net of their own.
    pub async fn rung(&mut self) {
        if self.bell.changed().await.is_err() {
            // The bell is kept as long as somebody listens; were it gone, nothing would ever ring.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Listening {
    /// Takes a bell down that nobody else listens to.
    fn drop(&mut self) {
        let mut bells = self.wakeups.bells();
        if bells.get(&self.wakeup).is_some_and(|bell| bell.receiver_count() <= 1) {
            bells.remove(&self.wakeup);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ring_between_listening_and_waiting_is_heard() {
        let wakeups = Wakeups::default();
        let mut listening = wakeups.listen(Wakeup::Events);
        wakeups.ring(Wakeup::Events);
        let start = tokio::time::Instant::now();
        listening.next().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        listening.next().await;
        assert_eq!(start.elapsed(), POLL);
    }

    #[test]
    fn nodes_understand_each_other() {
        let id = Uuid::from_u128(7);
        for wakeup in [
            Wakeup::Machine(MachineId(id)),
            Wakeup::Session(SessionId(id)),
            Wakeup::Command(id),
            Wakeup::Events,
        ] {
            assert_eq!(wakeup.to_string().parse(), Ok(wakeup));
        }
        for unknown in ["", "m", "x7", "events", "müll"] {
            assert_eq!(unknown.parse::<Wakeup>(), Err(UnknownWakeup), "{unknown}");
        }
    }

    #[test]
    fn a_bell_goes_with_its_last_listener() {
        let wakeups = Wakeups::default();
        let (first, second) = (wakeups.listen(Wakeup::Events), wakeups.listen(Wakeup::Events));
        drop(first);
        assert_eq!(wakeups.bells().len(), 1);
        drop(second);
        assert_eq!(wakeups.bells().len(), 0);
    }
}
