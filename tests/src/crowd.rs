//! Many callers at once.

use std::time::Instant;

use tokio::task::JoinSet;

use crate::{Answer, Door, End, Order};

/// What became of a call.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub order: Order,
    /// The answer, or how the connection ended before there was one.
    pub answer: Result<Answer, End>,
    /// When the call began.
    pub begun: Instant,
    /// When the answer was there.
    pub at: Instant,
}

/// Makes all calls at once, at these doors in turn, and waits for all answers.
pub async fn crowd(doors: &[&Door], token: &str, orders: Vec<Order>) -> Vec<Outcome> {
    let mut calls = JoinSet::new();
    for (order, door) in orders.into_iter().zip(doors.iter().cycle()) {
        let (door, ask) = ((*door).clone(), order.ask(token));
        calls.spawn(async move { Outcome::of(order, door.try_call(&ask)).await });
    }
    calls.join_all().await
}

impl Outcome {
    /// Makes a call.
    pub async fn of(order: Order, call: impl Future<Output = Result<Answer, End>>) -> Self {
        let begun = Instant::now();
        let answer = call.await;
        let at = Instant::now();
        Self {
            order,
            answer,
            begun,
            at,
        }
    }

    /// The answer's status; 0 where there was none.
    pub fn status(&self) -> u16 {
        self.answer.as_ref().map_or(0, |answer| answer.status)
    }

    /// Whether the provider's answer is there to its end.
    pub fn is_whole(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| {
            let text = answer.text();
            let is_json = || serde_json::from_str::<serde_json::Value>(&text).is_ok();
            let has_ended = self.order.dialect.has_ended(&text) || is_json();
            answer.status == 200 && answer.end == End::Complete && has_ended
        })
    }
}

/// Those with a status.
pub fn with_status(outcomes: &[Outcome], status: u16) -> Vec<&Outcome> {
    outcomes.iter().filter(|outcome| outcome.status() == status).collect()
}
