//! The messages of a session: one at a time is with the CLI, the others wait here.

use ace_policies::wire::FailureCode;
use uuid::Uuid;

use super::{
    Effect, Limits, ProcessNumber, Queued,
    command::ack,
    done, failure,
    session::{Process, Session, Then},
};
use crate::driver::{Input, Message, Refused};

impl Session {
    pub(super) fn queue(&mut self, id: Uuid, message: Message, limits: &Limits, out: &mut Vec<Effect>) {
        if self.saved.queue.len() >= limits.queue {
            let text = format!("{} messages wait already", self.saved.queue.len());
            out.extend([
                self.save(),
                ack(id),
                done(id, Some(failure(FailureCode::TooMuch, text))),
            ]);
            return;
        }
        self.saved.queue.push_back(Queued {
            command_id: id,
            message,
        });
        out.extend([self.save(), ack(id)]);
    }

    /// Whatever can be done next: a process for what waits, or the next message for the process.
    pub(super) fn go_on(&mut self, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        if !self.is_live() || self.unconfirmed || self.saved.paused {
            return;
        }
        match self.process {
            Process::None if self.saved.starting.is_some() || !self.saved.queue.is_empty() => {
                self.spawn(limits, now, out)
            }
            Process::Ready { .. } if self.stale && !self.saved.busy => self.end_process(Then::GoOn, limits, out),
            Process::Ready { number } if !self.saved.busy && self.saved.handed.is_none() => {
                self.hand_over(number, now, out)
            }
            _ => {}
        }
    }

    fn hand_over(&mut self, process: ProcessNumber, now: i64, out: &mut Vec<Effect>) {
        let Some(queued) = self.saved.queue.pop_front() else {
            return;
        };
        self.saved.handed = Some(queued.command_id);
        self.saved.busy = true;
        self.idle_ms = now;
        let (session_id, tag) = (self.id(), Some(queued.command_id));
        out.extend([
            self.save(),
            Effect::Give {
                session_id,
                process,
                tag,
                input: Input::Message(queued.message),
            },
            self.status_now(),
        ]);
    }

    pub(super) fn message_taken(
        &mut self,
        id: Uuid,
        refused: Option<Refused>,
        limits: &Limits,
        now: i64,
        out: &mut Vec<Effect>,
    ) {
        self.saved.handed = None;
        let Some(why) = refused else {
            self.saved.spoken = true;
            return out.extend([self.save(), done(id, None)]);
        };
        let why = match why {
            Refused::Never(why) => failure(FailureCode::Unsupported, why),
            Refused::Failed(why) => failure(FailureCode::Failed, why),
            Refused::Restart => failure(FailureCode::Unsupported, "the CLI takes no messages"),
        };
        out.push(done(id, Some(why)));
        self.turn_ended(None, limits, now, out);
    }

    pub(super) fn turn_ended(&mut self, error: Option<String>, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        self.saved.busy = false;
        self.idle_ms = now;
        self.withdraw_all(out);
        out.extend([self.save(), self.status(self.state(), error)]);
        if let (Some(_), true, Some(process)) = (self.interrupted_ms.take(), self.saved.paused, self.number()) {
            out.push(Effect::Hold {
                session_id: self.id(),
                process,
                held: true,
            });
        }
        self.go_on(limits, now, out);
    }

    /// Ends the turn that is under way; one that waits for its CLI only counts as that.
    pub(super) fn abort(&mut self, now: i64, out: &mut Vec<Effect>) {
        let (true, Process::Ready { number }) = (self.saved.busy, self.process) else {
            return self.abort_waiting(out);
        };
        if self.saved.paused {
            // Held processes would never hear of it. They are held again when the turn is over.
            out.push(Effect::Hold {
                session_id: self.id(),
                process: number,
                held: false,
            });
        }
        self.interrupted_ms = Some(now);
        out.push(Effect::Give {
            session_id: self.id(),
            process: number,
            tag: None,
            input: Input::Interrupt,
        });
    }

    fn abort_waiting(&mut self, out: &mut Vec<Effect>) {
        if self.saved.paused || self.saved.busy {
            return;
        }
        if let Some(queued) = self.saved.queue.pop_front() {
            let why = failure(FailureCode::Interrupted, "the turn was ended before it began");
            let result = crate::driver::failed_turn(&why.message);
            out.extend([self.save(), self.print(&result), done(queued.command_id, Some(why))]);
        }
    }

    /// A turn has no one who works on it any more.
    pub(super) fn turn_lost(&mut self, why: &str, out: &mut Vec<Effect>) {
        if !self.saved.busy {
            return;
        }
        self.saved.busy = false;
        let text = format!("the turn was lost: {why}");
        let result = crate::driver::failed_turn(&text);
        out.extend([self.print(&result), self.save(), self.status(self.state(), Some(text))]);
    }
}
