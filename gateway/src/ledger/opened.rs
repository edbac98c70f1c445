//! Requests under way, and which of them the database was told of: those that take longer than a moment.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::journal::{Kept, Opened};

/// Every admitted request that has not settled.
pub struct OpenRequests {
    open: HashMap<Uuid, Kept, ahash::RandomState>,
    /// In the order in which they came, with those that have settled since.
    order: VecDeque<(Instant, Uuid)>,
    told: HashSet<Uuid, ahash::RandomState>,
    after: Duration,
}

impl OpenRequests {
    /// The database is told of requests that take longer than `after`.
    pub fn new(after: Duration) -> Self {
        Self {
            open: HashMap::default(),
            order: VecDeque::new(),
            told: HashSet::default(),
            after,
        }
    }

    /// A request was admitted.
    pub fn open(&mut self, id: Uuid, opened: Kept, now: Instant) {
        self.order.push_back((now, id));
        self.open.insert(id, opened);
    }

    /// A request has settled. Gives whether the database has to be told.
    pub fn settle(&mut self, id: &Uuid) -> bool {
        self.open.remove(id);
        self.told.remove(id)
    }

    /// Requests that the database has to be told of by now.
    pub fn due(&mut self, now: Instant) -> Vec<Opened> {
        let mut due = Vec::new();
        while let Some((at, id)) = self.order.front()
            && *at + self.after <= now
        {
            if let Some(opened) = self.open.get(id).and_then(Kept::read) {
                due.push(opened);
                self.told.insert(*id);
            }
            self.order.pop_front();
        }
        due
    }

    /// When there will be something to tell, at the earliest.
    pub fn next_due(&self) -> Option<Instant> {
        self.order.front().map(|(at, _)| *at + self.after)
    }
}
