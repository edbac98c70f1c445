//! One session: what is known of it, and how it begins and is held.

use std::collections::BTreeMap;

use ace_policies::{
    SessionId,
    session::Report,
    wire::{FailureCode, FromAgent, Stream},
};
use uuid::Uuid;

use super::{Effect, Limits, ProcessNumber, Saved, command::ack, done, failure, has_ended, line, setting::Given};

/// A session.
#[derive(Clone, Debug)]
pub struct Session {
    pub(super) saved: Saved,
    pub(super) process: Process,
    /// Commands whose inputs the CLI was given, until it has them.
    pub(super) given: Vec<Given>,
    /// Model and permission mode before the latest change, should the CLI reject it.
    pub(super) before: Option<(Option<String>, Option<String>)>,
    /// Questions that wait for people: as the server names them, what the CLI calls them and what was said about them.
    pub(super) asked: BTreeMap<String, (String, FromAgent)>,
    pub(super) interrupted_ms: Option<i64>,
    /// Since when the CLI has nothing to do.
    pub(super) idle_ms: i64,
    /// The CLI has to be started anew before the next turn.
    pub(super) stale: bool,
    pub(super) token_until_ms: Option<i64>,
    pub(super) token_asked_ms: Option<i64>,
    /// The server does not know it any more.
    pub(super) forgotten: bool,
    /// The server was not heard of since this was read from the disk.
    pub(super) unconfirmed: bool,
}

/// The CLI of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    /// None; the next message starts it.
    None,
    /// Not ready yet.
    Starting { number: ProcessNumber, since_ms: i64 },
    /// It takes messages.
    Ready { number: ProcessNumber },
    /// It is being ended.
    Ending { number: ProcessNumber, then: Then },
}

/// What comes after the end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// The session goes on, with a new process where there is something to do.
    GoOn,
    /// The session is over; with the command that stopped it.
    Stop(Option<Uuid>),
    /// The CLI could not be used: what it said goes for how it ended.
    Fail,
    /// The agent is about to end.
    Wait,
}

impl Session {
    pub(super) fn new(saved: Saved) -> Self {
        Self {
            saved,
            process: Process::None,
            given: Vec::new(),
            before: None,
            asked: BTreeMap::new(),
            interrupted_ms: None,
            idle_ms: 0,
            stale: false,
            token_until_ms: None,
            token_asked_ms: None,
            forgotten: false,
            unconfirmed: false,
        }
    }

    /// One that was on the disk.
    pub(super) fn found(saved: Saved) -> Self {
        Self {
            unconfirmed: true,
            ..Self::new(saved)
        }
    }

    pub(super) fn id(&self) -> SessionId {
        self.saved.start.session_id
    }

    pub(super) fn is_live(&self) -> bool {
        self.saved.ended.is_none()
            && !self.forgotten
            && !matches!(
                self.process,
                Process::Ending {
                    then: Then::Stop(_),
                    ..
                }
            )
    }

    /// The process that there is.
    pub(super) const fn number(&self) -> Option<ProcessNumber> {
        match self.process {
            Process::None => None,
            Process::Starting { number, .. } | Process::Ready { number } | Process::Ending { number, .. } => {
                Some(number)
            }
        }
    }

    pub(super) fn save(&self) -> Effect {
        Effect::Save(self.id(), Box::new(self.saved.clone()))
    }

    pub(super) fn status(&self, state: Report, message: Option<String>) -> Effect {
        Effect::Say(FromAgent::Status {
            session_id: self.id(),
            run: self.saved.start.run,
            state,
            busy: self.saved.busy && !has_ended(state),
            resume_id: self.saved.start.resume_id.clone(),
            message,
        })
    }

    pub(super) fn status_now(&self) -> Effect {
        self.status(self.state(), None)
    }

    /// How a session is that has not ended.
    pub(super) const fn state(&self) -> Report {
        if self.saved.paused {
            Report::Paused
        } else {
            Report::Running
        }
    }

    pub(super) fn note(&self, text: &str) -> Effect {
        Effect::Print {
            session_id: self.id(),
            stream: Stream::System,
            data: line(text),
        }
    }

    pub(super) fn print(&self, event: &serde_json::Value) -> Effect {
        Effect::Print {
            session_id: self.id(),
            stream: Stream::Stdout,
            data: super::event(event),
        }
    }

    /// A new run takes the place of whatever there was.
    pub(super) fn begin(&mut self, saved: Saved, limits: &Limits, out: &mut Vec<Effect>) {
        let earlier = std::mem::replace(&mut self.saved, saved);
        let over = || {
            failure(
                FailureCode::Interrupted,
                "the session was started anew before it was its turn",
            )
        };
        let waiting = earlier
            .queue
            .iter()
            .map(|queued| queued.command_id)
            .chain(earlier.handed)
            .chain(earlier.starting)
            .chain(
                std::mem::take(&mut self.given)
                    .into_iter()
                    .map(|given| given.command_id),
            );
        let waiting = waiting.filter(|id| Some(*id) != self.saved.starting);
        out.extend(waiting.map(|id| done(id, Some(over()))));
        self.withdraw_all(out);
        (self.saved.applied, self.saved.processes) = (earlier.applied, earlier.processes);
        self.saved.spoken = self.saved.start.resume_id.is_some();
        if let Some(id) = self.saved.starting {
            self.saved.apply(id);
        }
        (self.stale, self.forgotten, self.unconfirmed, self.interrupted_ms) = (false, false, false, None);
        if let Process::Ending {
            then: then @ Then::Stop(_),
            number,
        } = self.process
        {
            if let Then::Stop(Some(id)) = then {
                out.push(done(id, None));
            }
            self.process = Process::Ending {
                number,
                then: Then::GoOn,
            };
        } else {
            self.end_process(Then::GoOn, limits, out);
        }
    }

    pub(super) fn hold(&mut self, id: Uuid, held: bool, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        self.saved.paused = held;
        out.extend([self.save(), ack(id)]);
        if let Process::Starting { number, .. } | Process::Ready { number } = self.process {
            out.push(Effect::Hold {
                session_id: self.id(),
                process: number,
                held,
            });
        }
        out.extend([self.status_now(), done(id, None)]);
        self.idle_ms = now;
        if let (Process::Starting { since_ms, .. }, false) = (&mut self.process, held) {
            *since_ms = now;
        }
        self.go_on(limits, now, out);
    }
}
