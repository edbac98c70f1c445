//! Which output goes next on a connection: a few batches of each session are under way at once, and none comes before its turn.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use ace_policies::SessionId;
use tokio::time::Instant;

use crate::spool::Pending;

/// Batches of one session that may be under way.
const WINDOW: usize = 4;
/// After so long without an acknowledgement, what is under way is sent again.
const PATIENCE: Duration = Duration::from_secs(30);
/// After falling back, the answers to what was under way still come in; they are no reason to fall back again.
const SETTLE: Duration = Duration::from_secs(1);

/// What cannot be read from the disk is tried again after this time.
const UNREADABLE: Duration = Duration::from_secs(10);

/// One connection's output.
#[derive(Default)]
pub(super) struct Flow {
    sessions: HashMap<SessionId, Flight>,
    /// Whose turn it was; the others go first.
    last: Option<SessionId>,
}

#[derive(Default)]
struct Flight {
    acked: i64,
    sent: i64,
    /// The last numbers of the batches under way.
    under_way: VecDeque<i64>,
    /// When what is under way is sent again, if nothing comes before.
    due: Option<Instant>,
    settling: Option<Instant>,
    /// Until when it is not tried to read it.
    unreadable: Option<Instant>,
}

impl Flow {
    /// The server has everything of a session up to `seq`.
    pub fn begin(&mut self, session: SessionId, seq: i64) {
        let flight = self.sessions.entry(session).or_default();
        flight.acked = flight.acked.max(seq);
        flight.sent = flight.sent.max(seq);
    }

    /// The session whose turn it is, and after which line its next batch begins.
    pub fn next(&mut self, pending: &[Pending], now: Instant) -> Option<(SessionId, i64)> {
        self.sessions
            .iter_mut()
            .for_each(|(session, flight)| flight.expire(*session, now));
        let mut ready: Vec<_> = pending.iter().filter_map(|pending| self.waiting(pending)).collect();
        ready.sort_unstable();
        let after_last = ready.iter().find(|(session, _)| Some(*session) > self.last);
        let chosen = *after_last.or(ready.first())?;
        self.last = Some(chosen.0);
        Some(chosen)
    }

    fn waiting(&mut self, pending: &Pending) -> Option<(SessionId, i64)> {
        let flight = self.sessions.entry(pending.session_id).or_default();
        let from = flight.sent.max(pending.acked);
        let can_go = flight.under_way.len() < WINDOW && flight.unreadable.is_none();
        (can_go && pending.safe > from).then_some((pending.session_id, from))
    }

    /// A batch goes out.
    pub fn sent(&mut self, session: SessionId, last: i64, now: Instant) {
        let flight = self.sessions.entry(session).or_default();
        flight.sent = last;
        flight.under_way.push_back(last);
        flight.due.get_or_insert(now + PATIENCE);
    }

    /// A session's output cannot be read: others have their turn meanwhile.
    pub fn unreadable(&mut self, session: SessionId, now: Instant) {
        self.sessions.entry(session).or_default().unreadable = Some(now + UNREADABLE);
    }

    /// The last line of a session that was sent, or that the server has.
    pub fn sent_up_to(&self, session: SessionId) -> i64 {
        self.sessions.get(&session).map_or(0, |flight| flight.sent)
    }

    /// The server says what it has. Where that is less than the oldest batch under way, it has a gap, and we fall back.
    pub fn acknowledged(&mut self, session: SessionId, seq: i64, now: Instant) {
        let flight = self.sessions.entry(session).or_default();
        flight.acked = flight.acked.max(seq);
        flight.sent = flight.sent.max(seq);
        let before = flight.under_way.len();
        flight.under_way.retain(|last| *last > seq);
        if flight.under_way.len() < before {
            flight.due = (!flight.under_way.is_empty()).then_some(now + PATIENCE);
        } else if before > 0 {
            match flight.settling.filter(|until| now < *until) {
                None => flight.fall_back(now),
                // Perhaps late, perhaps a second gap: if nothing better comes, we fall back after all.
                Some(until) => flight.due = Some(until),
            }
        }
    }

    /// When something may be due although nothing happened.
    pub fn deadline(&self) -> Option<Instant> {
        let flights = self.sessions.values();
        flights
            .flat_map(|flight| [flight.due, flight.unreadable])
            .flatten()
            .min()
    }
}

impl Flight {
    fn expire(&mut self, session: SessionId, now: Instant) {
        if self.due.is_some_and(|due| now >= due) {
            tracing::warn!(%session, "output was not acknowledged; it is sent again");
            self.fall_back(now);
        }
        self.unreadable.take_if(|until| now >= *until);
    }

    fn fall_back(&mut self, now: Instant) {
        self.sent = self.acked;
        self.under_way.clear();
        self.due = None;
        self.settling = Some(now + SETTLE);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const ONE: SessionId = SessionId(Uuid::from_u128(1));
    const TWO: SessionId = SessionId(Uuid::from_u128(2));

    fn pending(session_id: SessionId, acked: i64, safe: i64) -> Pending {
        Pending {
            session_id,
            acked,
            safe,
        }
    }

    #[test]
    fn a_few_batches_go_ahead_and_sessions_take_turns() {
        let (mut flow, now) = (Flow::default(), Instant::now());
        let all = [pending(ONE, 0, 5000), pending(TWO, 0, 5000)];
        let mut order = Vec::new();
        while let Some((session, from)) = flow.next(&all, now) {
            order.push((session, from));
            flow.sent(session, from + 500, now);
        }
        let expected: Vec<_> = [0, 500, 1000, 1500]
            .into_iter()
            .flat_map(|from| [(ONE, from), (TWO, from)])
            .collect();
        assert_eq!(order, expected);
        flow.acknowledged(ONE, 500, now);
        assert_eq!(flow.next(&all, now), Some((ONE, 2000)));
    }

    #[test]
    fn a_gap_makes_it_fall_back_once() {
        let (mut flow, now) = (Flow::default(), Instant::now());
        let all = [pending(ONE, 0, 1500)];
        for last in [500, 1000, 1500] {
            flow.sent(ONE, last, now);
        }
        flow.acknowledged(ONE, 500, now);
        flow.acknowledged(ONE, 500, now);
        assert_eq!(flow.next(&all, now), Some((ONE, 500)));
        flow.sent(ONE, 1000, now);
        flow.acknowledged(ONE, 500, now);
        assert_eq!(
            flow.next(&all, now),
            Some((ONE, 1000)),
            "a late answer to what was under way"
        );
        let later = now + SETTLE;
        assert_eq!(flow.deadline(), Some(later));
        assert_eq!(flow.next(&all, later), Some((ONE, 500)), "nothing better has come");
    }

    #[test]
    fn silence_makes_it_fall_back() {
        let (mut flow, now) = (Flow::default(), Instant::now());
        flow.begin(ONE, 10);
        let all = [pending(ONE, 10, 20)];
        assert_eq!(flow.next(&all, now), Some((ONE, 10)));
        flow.sent(ONE, 20, now);
        assert_eq!(flow.next(&all, now), None);
        assert_eq!(flow.deadline(), Some(now + PATIENCE));
        assert_eq!(flow.next(&all, now + PATIENCE), Some((ONE, 10)));
    }

    #[test]
    fn what_cannot_be_read_lets_others_pass_and_is_tried_again() {
        let (mut flow, now) = (Flow::default(), Instant::now());
        let all = [pending(ONE, 0, 1), pending(TWO, 0, 1)];
        assert_eq!(flow.next(&all, now), Some((ONE, 0)));
        flow.unreadable(ONE, now);
        assert_eq!(flow.next(&all, now), Some((TWO, 0)));
        flow.sent(TWO, 1, now);
        assert_eq!(flow.next(&all, now), None);
        assert_eq!(flow.deadline(), Some(now + UNREADABLE));
        assert_eq!(flow.next(&all, now + UNREADABLE), Some((ONE, 0)));
        assert_eq!(flow.deadline(), Some(now + PATIENCE));
    }
}
