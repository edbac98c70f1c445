//! Callers who never stop calling, whatever becomes of the gateway.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{Answer, Chance, Dialect, Door, End, LONG_PATIENCE, Order, Outcome, Wire, within};

/// How long a caller waits who found nobody.
const BREATH: Duration = Duration::from_millis(30);

/// A crowd that calls without a pause: all dialects, streams and whole answers, long and short ones. Some hang up in the middle.
pub struct Load {
    door: Arc<Mutex<Door>>,
    stop: watch::Sender<bool>,
    callers: JoinSet<Vec<Outcome>>,
    /// Calls that have got the whole answer.
    whole: Arc<AtomicUsize>,
}

impl Load {
    pub fn begin(door: &Door, token: &str, callers: usize, chance: &mut Chance) -> Self {
        let door = Arc::new(Mutex::new(door.clone()));
        let (stop, stopped) = watch::channel(false);
        let mut load = Self {
            door,
            stop,
            callers: JoinSet::new(),
            whole: Arc::default(),
        };
        for _ in 0..callers {
            let caller = Caller {
                door: load.door.clone(),
                token: token.to_owned(),
                chance: chance.fork(),
                whole: load.whole.clone(),
            };
            load.callers.spawn(caller.call_until(stopped.clone()));
        }
        load
    }

    /// Has everybody call there from now on.
    pub fn moves_to(&self, door: &Door) {
        *self.door.lock().expect("nobody panics at the door") = door.clone();
    }

    /// Waits until so many calls, of all since the beginning, have got the whole answer.
    pub async fn has_had(&self, whole: usize) {
        within(LONG_PATIENCE, "whole answers under load", async || {
            (self.whole.load(Ordering::Relaxed) >= whole).then_some(())
        })
        .await;
    }

    /// Waits until so many more have.
    pub async fn has_had_more(&self, whole: usize) {
        self.has_had(self.whole.load(Ordering::Relaxed) + whole).await;
    }

    /// Stops, and gives what became of every call. Who has hung up has got no answer to its end.
    pub async fn end(self) -> Vec<Outcome> {
        let _ = self.stop.send(true);
        self.callers.join_all().await.concat()
    }
}

struct Caller {
    door: Arc<Mutex<Door>>,
    token: String,
    chance: Chance,
    whole: Arc<AtomicUsize>,
}

impl Caller {
    async fn call_until(mut self, stopped: watch::Receiver<bool>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while !*stopped.borrow() {
            let order = self.order();
            let outcome = Outcome::of(order.clone(), self.call(&order)).await;
            if outcome.status() != 200 {
                tokio::time::sleep(BREATH).await;
            }
            if outcome.is_whole() {
                self.whole.fetch_add(1, Ordering::Relaxed);
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    fn order(&mut self) -> Order {
        let dialect = Dialect::ALL[usize::try_from(self.chance.number(0, 3)).unwrap_or(0)];
        let tokens = self.chance.number(1, 60);
        let order = Order::of(dialect, tokens).every(self.chance.millis(0, 5));
        let order = match self.chance.happens(70) {
            true => order.at_most(self.chance.number(tokens, 100)),
            false => order,
        };
        match self.chance.happens(25) {
            true => order.whole(),
            false => order,
        }
    }

    async fn call(&mut self, order: &Order) -> Result<Answer, End> {
        let door = self.door.lock().expect("nobody panics at the door").clone();
        let ask = order.ask(&self.token);
        if !self.chance.happens(10) {
            return door.try_call(&ask).await;
        }
        let mut wire = Wire::try_connect(door.address).await?;
        wire.ask(&ask).await;
        let patience = self.chance.millis(1, 100);
        let left = Instant::now() + patience;
        let mut answer = tokio::time::timeout(patience, wire.try_answer_head("POST"))
            .await
            .unwrap_or(Err(End::Silence))?;
        while Instant::now() < left
            && let Some(piece) = wire.piece_within(left - Instant::now()).await
        {
            answer.pieces.push(piece);
        }
        Ok(wire.finish(answer))
    }
}
