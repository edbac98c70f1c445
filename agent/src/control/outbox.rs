//! What was said on a connection and may not have arrived: it is said again on the next one.
//!
//! A WebSocket's answer to a ping tells that everything before the ping has arrived; a long poll's answer tells it of its request.

use std::collections::VecDeque;

use ace_policies::wire::FromAgent;

/// More than this is not sent before some of it is known to have arrived.
const MAX: usize = 1024;
/// A message on which so many connections have ended is more likely the reason for it than a victim.
const MAX_ATTEMPTS: u32 = 10;

#[derive(Default)]
pub(super) struct Outbox {
    unconfirmed: VecDeque<Said>,
    count: u64,
}

struct Said {
    mark: u64,
    message: FromAgent,
    attempts: u32,
}

impl Outbox {
    pub fn has_room(&self) -> bool {
        self.unconfirmed.len() < MAX
    }

    /// Keeps a message that is being sent. What is told again anyway is not kept.
    pub fn sending(&mut self, message: &FromAgent) {
        use FromAgent::{Connect, Heartbeat, Output};
        if !matches!(message, Connect(_) | Heartbeat { .. } | Output { .. }) {
            self.keep(message.clone(), 1);
        }
    }

    fn keep(&mut self, message: FromAgent, attempts: u32) {
        self.count += 1;
        self.unconfirmed.push_back(Said {
            mark: self.count,
            message,
            attempts,
        });
    }

    /// Names everything that was sent until now.
    pub fn mark(&self) -> u64 {
        self.count
    }

    /// Everything up to a mark has arrived.
    pub fn confirm(&mut self, mark: u64) {
        while self.unconfirmed.front().is_some_and(|said| said.mark <= mark) {
            self.unconfirmed.pop_front();
        }
    }

    /// What a new connection has to say once more, in order. It stays here until it is confirmed.
    pub fn again(&mut self) -> Vec<FromAgent> {
        for said in std::mem::take(&mut self.unconfirmed) {
            if said.attempts < MAX_ATTEMPTS {
                self.keep(said.message, said.attempts + 1);
            } else {
                tracing::warn!("a message to the server is given up: {MAX_ATTEMPTS} connections have ended on it");
            }
        }
        self.unconfirmed.iter().map(|said| said.message.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn ack(id: u128) -> FromAgent {
        FromAgent::Ack {
            command_id: Uuid::from_u128(id),
        }
    }

    #[test]
    fn what_was_not_confirmed_is_said_again_in_order() {
        let mut outbox = Outbox::default();
        outbox.sending(&ack(1));
        outbox.sending(&ack(2));
        let mark = outbox.mark();
        outbox.sending(&ack(3));
        let heartbeat = FromAgent::Heartbeat {
            active_sessions: 0,
            capabilities: None,
        };
        outbox.sending(&heartbeat);
        outbox.confirm(mark);
        assert_eq!(outbox.again(), [ack(3)]);
        outbox.sending(&ack(4));
        assert_eq!(outbox.again(), [ack(3), ack(4)]);
        outbox.confirm(outbox.mark());
        assert!(outbox.again().is_empty());
    }

    #[test]
    fn a_message_that_ends_every_connection_is_given_up() {
        let mut outbox = Outbox::default();
        outbox.sending(&ack(1));
        let told = (0..20).take_while(|_| !outbox.again().is_empty()).count();
        assert_eq!(told, MAX_ATTEMPTS as usize - 1);
    }

    #[test]
    fn it_has_an_end() {
        let mut outbox = Outbox::default();
        (0..MAX as u128).for_each(|id| outbox.sending(&ack(id)));
        assert!(!outbox.has_room());
    }
}
