//! What waits for space: each session's in a list of its own, and in order.
//!
//! A list has an end because a CLI is read no further than there is [`Room`](crate::uplink::Room) for.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use ace_policies::SessionId;

use super::intake::{Intake, Thing};

/// The sessions for whose output there is no space just now.
pub(super) struct Backlog {
    patience: Duration,
    sessions: HashMap<SessionId, Waiting>,
}

struct Waiting {
    things: VecDeque<Thing>,
    /// When the first is given up.
    until: Instant,
}

impl Backlog {
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            sessions: HashMap::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Takes a session's thing in, or lets it wait behind what waits of that session. True where something was printed.
    pub fn put(&mut self, intake: &Intake, session: SessionId, thing: Thing, now: Instant) -> bool {
        if let Some(waiting) = self.sessions.get_mut(&session) {
            waiting.things.push_back(thing);
            return false;
        }
        intake.put(session, &thing).unwrap_or_else(|_| {
            let waiting = Waiting {
                things: VecDeque::from([thing]),
                until: now + self.patience,
            };
            self.sessions.insert(session, waiting);
            false
        })
    }

    /// Tries again what waits, and gives up what has waited too long. True where something was printed.
    pub fn retry(&mut self, intake: &Intake, now: Instant) -> bool {
        let mut printed = false;
        for (session, waiting) in &mut self.sessions {
            while let Some(thing) = waiting.things.front() {
                match intake.put(*session, thing) {
                    Ok(one) => {
                        printed |= one;
                        waiting.until = now + self.patience;
                    }
                    Err(why) if now >= waiting.until => {
                        intake.give_up(*session, thing, &why);
                        printed = true;
                    }
                    Err(_) => break,
                }
                waiting.things.pop_front();
            }
        }
        self.sessions.retain(|_, waiting| !waiting.things.is_empty());
        printed
    }
}
