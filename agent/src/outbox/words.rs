//! The order of what is said. Pure: `now` comes in.

use std::{collections::VecDeque, time::Duration};

use ace_policies::{SessionId, wire::FromAgent};
use tokio::time::Instant;

use super::Said;

/// A word about a session waits so long for the output that was printed before it.
const HOLD: Duration = Duration::from_secs(5);
/// A message on which so many connections have ended is more likely the reason for it than a victim.
const MAX_ATTEMPTS: u32 = 10;

/// Words that wait, and words that were sent, each in order.
#[derive(Default)]
pub(super) struct Words {
    waiting: VecDeque<Word>,
    sent: VecDeque<Word>,
    /// How many were sent.
    count: u64,
}

struct Word {
    said: Said,
    /// How often it was sent.
    attempts: u32,
    /// The latest sending.
    mark: u64,
    /// When it goes out although the output before it has not; set when a connection first looks at it.
    until: Option<Instant>,
}

impl Words {
    pub fn push(&mut self, said: Said) {
        let mut until = None;
        match &said.message {
            FromAgent::Status { .. } | FromAgent::TokenRequest { .. } => until = self.replace(&said.message),
            FromAgent::ApprovalCancelled { .. } if self.withdraw(&said.message) => return,
            message if self.is_waiting(message) => return,
            _ => {}
        }
        self.waiting.push_back(Word {
            said,
            attempts: 0,
            mark: 0,
            until,
        });
    }

    /// Takes out what a later word makes needless; it waits no longer than that would have.
    fn replace(&mut self, later: &FromAgent) -> Option<Instant> {
        let earlier = self.waiting.iter().position(|word| replaces(later, &word.said.message));
        earlier.and_then(|index| self.waiting.remove(index)?.until)
    }

    /// A question that nobody has heard is not asked at all.
    fn withdraw(&mut self, cancelled: &FromAgent) -> bool {
        let unheard = |word: &Word| word.attempts == 0 && is_of(cancelled, &word.said.message);
        let question = self.waiting.iter().position(unheard);
        question.is_some_and(|index| self.waiting.remove(index).is_some())
    }

    /// Acknowledgements and questions are said anew with each connection.
    fn is_waiting(&self, message: &FromAgent) -> bool {
        let is_repeated = matches!(message, FromAgent::Ack { .. } | FromAgent::Approval { .. });
        is_repeated && self.waiting.iter().any(|word| word.said.message == *message)
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub fn again(&mut self) {
        self.waiting.iter_mut().for_each(|word| word.until = None);
        for word in std::mem::take(&mut self.sent).into_iter().rev() {
            if word.attempts >= MAX_ATTEMPTS {
                tracing::warn!("a message to the server is given up: {MAX_ATTEMPTS} connections have ended on it");
            } else if !self.is_replaced(&word) {
                self.waiting.push_front(word);
            }
        }
    }

    fn is_replaced(&self, word: &Word) -> bool {
        let mut later = self.waiting.iter();
        later.any(|later| replaces(&later.said.message, &word.said.message))
    }

    pub fn next(&mut self, now: Instant, is_out: impl Fn(SessionId, i64) -> bool) -> Option<FromAgent> {
        let index = self.due(now, is_out)?;
        let mut word = self.waiting.remove(index)?;
        let message = word.said.message.clone();
        if !matches!(message, FromAgent::TokenRequest { .. }) {
            self.count += 1;
            (word.mark, word.until) = (self.count, None);
            word.attempts += 1;
            self.sent.push_back(word);
        }
        Some(message)
    }

    /// The first word that may go: its output went before, or was waited for long enough, and no other of its session is before it.
    fn due(&mut self, now: Instant, is_out: impl Fn(SessionId, i64) -> bool) -> Option<usize> {
        let mut held = Vec::new();
        for (index, word) in self.waiting.iter_mut().enumerate() {
            let Some((session, seq)) = word.said.after else {
                return Some(index);
            };
            let until = *word.until.get_or_insert(now + HOLD);
            if held.contains(&session) {
                continue;
            }
            if now >= until || is_out(session, seq) {
                return Some(index);
            }
            held.push(session);
        }
        None
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|word| word.until).min()
    }

    pub fn mark(&self) -> u64 {
        self.count
    }

    pub fn confirm(&mut self, mark: u64) {
        while self.sent.front().is_some_and(|word| word.mark <= mark) {
            self.sent.pop_front();
        }
    }

    pub fn is_unconfirmed(&self) -> bool {
        !self.sent.is_empty()
    }
}

/// Whether the server needs only the later of two words: a run's status, its wish for a token.
fn replaces(later: &FromAgent, earlier: &FromAgent) -> bool {
    match (later, earlier) {
        (
            FromAgent::Status { session_id, run, .. },
            FromAgent::Status {
                session_id: of,
                run: before,
                ..
            },
        ) => (session_id, run) == (of, before),
        (FromAgent::TokenRequest { session_id, .. }, FromAgent::TokenRequest { session_id: of, .. }) => {
            session_id == of
        }
        _ => false,
    }
}

/// Whether a withdrawal is of a question.
fn is_of(cancelled: &FromAgent, question: &FromAgent) -> bool {
    match (cancelled, question) {
        (
            FromAgent::ApprovalCancelled { session_id, request_id },
            FromAgent::Approval {
                session_id: of,
                request_id: asked,
                ..
            },
        ) => (session_id, request_id) == (of, asked),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
