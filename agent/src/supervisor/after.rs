//! What time, a new connection and the agent's own end bring.

use ace_policies::wire::{FailureCode, FromAgent};

use super::{
    Effect, Limits, done, failure,
    session::{Process, Session, Then},
};
impl Session {
    pub(super) fn tick(&mut self, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        match self.process {
            Process::Starting { since_ms, .. } if !self.saved.paused && now - since_ms > limits.start_ms => {
                let why = format!("the CLI was not ready after {} s", limits.start_ms / 1000);
                self.told(crate::driver::Told::Failed(why), limits, now, out);
            }
            Process::Ready { .. }
                if self
                    .interrupted_ms
                    .is_some_and(|since| now - since > limits.interrupt_ms) =>
            {
                out.push(self.note("the CLI did not end its turn and was ended itself"));
                self.end_process(Then::GoOn, limits, out);
            }
            Process::Ready { .. } if self.is_idle(limits, now) => self.end_process(Then::GoOn, limits, out),
            _ => {}
        }
        if matches!(self.process, Process::Starting { .. } | Process::Ready { .. }) {
            self.ask_for_a_token(limits, now, out);
        }
    }

    /// Only a conversation that can be gone on with is worth ending a process for.
    fn is_idle(&self, limits: &Limits, now: i64) -> bool {
        let nothing_to_do = !self.saved.busy && !self.saved.paused && self.saved.queue.is_empty();
        nothing_to_do && self.saved.start.resume_id.is_some() && now - self.idle_ms > limits.idle_ms
    }

    pub(super) fn ask_for_a_token(&mut self, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        let good = self
            .token_until_ms
            .is_some_and(|until| until - now > limits.token_ahead_ms);
        let asked = self
            .token_asked_ms
            .is_some_and(|asked| now - asked < limits.token_again_ms);
        if !good && !asked {
            self.token_asked_ms = Some(now);
            out.push(Effect::Say(FromAgent::TokenRequest {
                session_id: self.id(),
                run: self.saved.start.run,
            }));
        }
    }

    /// The server knows it, too: it is told everything again.
    pub(super) fn greet(&mut self, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        if let Some((report, message)) = self.saved.ended.clone() {
            return out.push(self.status(report, message));
        }
        if std::mem::take(&mut self.unconfirmed) {
            self.recover(out);
        }
        self.token_asked_ms = None;
        if self.saved.starting.is_none() {
            out.push(self.status_now());
        }
        out.extend(self.asked.values().map(|(_, asked)| Effect::Say(asked.clone())));
        self.go_on(limits, now, out);
    }

    /// The agent had ended without notice: its CLIs with it.
    fn recover(&mut self, out: &mut Vec<Effect>) {
        if let Some(id) = self.saved.handed.take() {
            let why = "the agent was started again while the message was handed to the CLI";
            out.push(done(id, Some(failure(FailureCode::Interrupted, why))));
        }
        self.turn_lost("the agent was started again", out);
    }

    /// A later run is on the way: nothing of this one is to go on.
    pub(super) fn overtaken(&mut self, limits: &Limits, out: &mut Vec<Effect>) {
        self.saved.busy = false;
        self.saved.queue.clear();
        self.saved.starting = None;
        self.end_process(Then::GoOn, limits, out);
    }

    /// The server does not want it any more.
    pub(super) fn forget(&mut self, limits: &Limits, out: &mut Vec<Effect>) {
        self.forgotten = true;
        self.saved.busy = false;
        self.end_process(Then::Wait, limits, out);
        if self.number().is_none() {
            out.extend([Effect::Close(self.id()), Effect::Forget(self.id())]);
        }
    }

    pub(super) fn shut_down(&mut self, limits: &Limits, out: &mut Vec<Effect>) {
        self.unconfirmed = true;
        if let Process::Ending {
            number,
            then: Then::GoOn,
        } = self.process
        {
            self.process = Process::Ending {
                number,
                then: Then::Wait,
            };
        }
        self.end_process(Then::Wait, limits, out);
    }
}
