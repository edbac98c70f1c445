//! The CLI of a session: how it is started and ended, and what it tells.

use ace_policies::{
    session::Report,
    wire::{Failure, FailureCode},
};
use uuid::Uuid;

use super::{
    Effect, End, Limits, done, failure,
    session::{Process, Session, Then},
};
use crate::driver::{Exit, Refused, Told};

impl Session {
    pub(super) fn spawn(&mut self, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        self.saved.processes += 1;
        let (session_id, process) = (self.id(), self.saved.processes);
        self.process = Process::Starting {
            number: process,
            since_ms: now,
        };
        self.stale = false;
        self.ask_for_a_token(limits, now, out);
        if self.saved.spoken && self.saved.start.resume_id.is_none() {
            out.push(self.note("the CLI cannot go on with its conversation: it begins a new one"));
            self.saved.spoken = false;
        }
        out.push(self.save());
        out.push(Effect::Spawn {
            session_id,
            process,
            start: Box::new(self.saved.start.clone()),
        });
    }

    pub(super) fn end_process(&mut self, then: Then, limits: &Limits, out: &mut Vec<Effect>) {
        let (Process::Starting { number, .. } | Process::Ready { number }) = self.process else {
            return;
        };
        self.process = Process::Ending { number, then };
        self.withdraw_all(out);
        out.push(Effect::End {
            session_id: self.id(),
            process: number,
            grace_ms: limits.grace_ms,
        });
    }

    pub(super) fn told(&mut self, told: Told, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        match told {
            Told::Ready => self.ready(limits, now, out),
            Told::Failed(why) => self.failed(&failure(FailureCode::Failed, why), limits, now, out),
            Told::NotResumed(why) => self.not_resumed(why, limits, now, out),
            Told::Conversation(name) => self.conversation(name, out),
            Told::Asked {
                request_id,
                tool_name,
                input,
            } => self.asks(request_id, tool_name, input, out),
            Told::Withdrawn(request_id) => self.withdrawn(&request_id, out),
            Told::Rejected(why) => self.rejected(&why, out),
            Told::TurnEnded(error) => self.turn_ended(error, limits, now, out),
        }
    }

    fn ready(&mut self, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        let Process::Starting { number, .. } = self.process else {
            return;
        };
        self.process = Process::Ready { number };
        self.idle_ms = now;
        if let Some(id) = self.saved.starting.take() {
            out.extend([self.save(), self.status_now(), done(id, None)]);
        }
        self.go_on(limits, now, out);
    }

    fn conversation(&mut self, name: String, out: &mut Vec<Effect>) {
        if self.saved.start.resume_id.as_ref() != Some(&name) {
            self.saved.start.resume_id = Some(name);
            out.extend([self.save(), self.status_now()]);
        }
    }

    /// The CLI has taken what it was given, or not.
    pub(super) fn taken(
        &mut self,
        tag: Option<Uuid>,
        refused: Option<Refused>,
        limits: &Limits,
        now: i64,
        out: &mut Vec<Effect>,
    ) {
        let Some(id) = tag else { return };
        if self.saved.handed == Some(id) {
            return self.message_taken(id, refused, limits, now, out);
        }
        let Some(at) = self.given.iter().position(|given| given.command_id == id) else {
            return;
        };
        let given = self.given.remove(at);
        match refused {
            None => {
                self.before = given.before;
                out.push(done(id, None));
            }
            Some(Refused::Restart) => self.restart_for(given, limits, now, out),
            Some(Refused::Never(why) | Refused::Failed(why)) => self.refuse(given, why, out),
        }
    }

    /// Nothing is left of the process.
    pub(super) fn exited(&mut self, end: &End, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        let process = std::mem::replace(&mut self.process, Process::None);
        self.withdraw_all(out);
        self.settle(out);
        if self.forgotten {
            if let Process::Ending {
                then: Then::Stop(Some(id)),
                ..
            } = process
            {
                out.push(done(id, None));
            }
            return out.extend([Effect::Close(self.id()), Effect::Forget(self.id())]);
        }
        match (process, end) {
            (
                Process::Ending {
                    then: Then::Stop(id), ..
                },
                _,
            ) => self.stopped(id, out),
            (
                Process::Ending {
                    then: Then::Wait | Then::Fail,
                    ..
                },
                _,
            ) => self.turn_lost("the agent is ending", out),
            (Process::Ending { .. }, _) => self.turn_lost("it was ended", out),
            (Process::Starting { .. }, End::NotStarted(why)) => return self.failed(why, limits, now, out),
            (Process::Starting { .. }, End::Exit(exit)) => {
                let why = format!("the CLI {} before it was ready", exit.describe());
                return self.failed(&failure(FailureCode::Failed, why), limits, now, out);
            }
            (_, End::Exit(exit)) => self.died(exit, out),
            (_, End::NotStarted(why)) => self.turn_lost(&why.message, out),
        }
        self.go_on(limits, now, out);
    }

    /// What a dead CLI was given and did not confirm cannot be told from what it never got.
    fn settle(&mut self, out: &mut Vec<Effect>) {
        let lost = failure(FailureCode::Interrupted, "the CLI ended while it was given this");
        let given = std::mem::take(&mut self.given)
            .into_iter()
            .map(|given| given.command_id);
        let given = given.chain(self.saved.handed.take());
        out.extend(given.map(|id| done(id, Some(lost.clone()))));
        self.interrupted_ms = None;
    }

    fn died(&mut self, exit: &Exit, out: &mut Vec<Effect>) {
        let words = format!("the CLI {}", exit.describe());
        if self.saved.busy {
            return self.turn_lost(&words, out);
        }
        if exit.code == 0 && self.saved.queue.is_empty() {
            return self.over(Report::Completed, None, out);
        }
        out.push(self.note(&format!("{words}; the next message starts it again")));
    }

    /// A conversation that is lost is no reason to fail every message from now on: the next process begins a new one.
    fn not_resumed(&mut self, why: String, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        if self.saved.starting.is_some() {
            return self.failed(&failure(FailureCode::Failed, why), limits, now, out);
        }
        out.push(self.note(&why));
        self.saved.start.resume_id = None;
        out.push(self.save());
        self.end_process(Then::GoOn, limits, out);
    }

    /// The CLI cannot be used. A session that begins is over with it; else the message that it was started for.
    fn failed(&mut self, why: &Failure, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        self.end_process(Then::Fail, limits, out);
        out.push(self.note(&why.message));
        if let Some(id) = self.saved.starting.take() {
            out.push(done(id, Some(why.clone())));
            return self.over(Report::Error, Some(why.message.clone()), out);
        }
        if let Some(queued) = self.saved.queue.pop_front() {
            out.extend([self.save(), done(queued.command_id, Some(why.clone()))]);
        }
        self.go_on(limits, now, out);
    }
}
