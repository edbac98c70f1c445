//! One session: what waits in it, and what is asked of its CLI.

use std::collections::BTreeMap;

use ace_policies::{
    SessionId,
    session::Report,
    wire::{FailureCode, FromAgent, Stream},
};
use uuid::Uuid;

use super::{Effect, Limits, ProcessNumber, Queued, Saved, command::ack, done, failure, has_ended, line};
use crate::{
    adapter::is_plain_name,
    driver::{Input, Message},
};

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

/// A command whose input the CLI was given.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) command_id: Uuid,
    /// Model and permission mode as they were, should the CLI not take the change.
    pub(super) before: Option<(Option<String>, Option<String>)>,
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
        self.status(
            if self.saved.paused {
                Report::Paused
            } else {
                Report::Running
            },
            None,
        )
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

    /// A full disk does not keep a session from ending: a stop may come twice.
    pub(super) fn stop(&mut self, id: Uuid, limits: &Limits, out: &mut Vec<Effect>) {
        out.extend([ack(id), self.save()]);
        if self.saved.ended.is_some() {
            return out.push(done(id, None));
        }
        match self.process {
            Process::None => self.stopped(Some(id), out),
            Process::Ending { number, then } => {
                if let Then::Stop(Some(earlier)) = then {
                    out.push(done(earlier, None));
                }
                let then = Then::Stop(Some(id));
                self.process = Process::Ending { number, then };
            }
            _ => self.end_process(Then::Stop(Some(id)), limits, out),
        }
    }

    pub(super) fn stopped(&mut self, id: Option<Uuid>, out: &mut Vec<Effect>) {
        self.over(Report::Stopped, None, out);
        out.extend(id.map(|id| done(id, None)));
    }

    /// The session is over here. It is kept until the server knows.
    pub(super) fn over(&mut self, report: Report, message: Option<String>, out: &mut Vec<Effect>) {
        self.saved.busy = false;
        let left = failure(FailureCode::Interrupted, "the session ended before it was its turn");
        for queued in std::mem::take(&mut self.saved.queue) {
            out.push(done(queued.command_id, Some(left.clone())));
        }
        if let Some(id) = self.saved.starting.take() {
            let text = message.clone().unwrap_or_else(|| "the session was stopped".to_owned());
            out.push(done(id, Some(failure(FailureCode::Failed, text))));
        }
        self.saved.ended = Some((report, message.clone()));
        out.extend([self.save(), self.status(report, message), Effect::Close(self.id())]);
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

    pub(super) fn answer(
        &mut self,
        id: Uuid,
        request: &str,
        allow: bool,
        message: Option<String>,
        out: &mut Vec<Effect>,
    ) {
        let (Some((request_id, _)), Process::Ready { number }) = (self.asked.remove(request), self.process) else {
            let error = failure(FailureCode::NotFound, "nobody waits for this answer any more");
            return out.push(done(id, Some(error)));
        };
        let input = Input::Answer {
            request_id,
            allow,
            message,
        };
        self.given.push(Given {
            command_id: id,
            before: None,
        });
        out.push(Effect::Give {
            session_id: self.id(),
            process: number,
            tag: Some(id),
            input,
        });
    }

    /// Changes a setting: at once in a CLI that can, else with the next process.
    pub(super) fn change(&mut self, id: Uuid, input: Input, out: &mut Vec<Effect>) {
        let start = &mut self.saved.start;
        let before = (start.model.clone(), start.permission_mode.clone());
        let (name, place) = match &input {
            Input::Model(name) => (name, &mut start.model),
            Input::PermissionMode(name) => (name, &mut start.permission_mode),
            _ => return,
        };
        if !is_plain_name(name) {
            let text = format!("`{}` is not a name", name.escape_debug());
            return out.extend([
                self.save(),
                ack(id),
                done(id, Some(failure(FailureCode::Invalid, text))),
            ]);
        }
        *place = Some(name.clone());
        out.extend([self.save(), ack(id)]);
        match self.process {
            Process::Ready { number } => {
                self.given.push(Given {
                    command_id: id,
                    before: Some(before),
                });
                out.push(Effect::Give {
                    session_id: self.id(),
                    process: number,
                    tag: Some(id),
                    input,
                });
            }
            Process::Starting { .. } => {
                self.stale = true;
                out.push(done(id, None));
            }
            _ => out.push(done(id, None)),
        }
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

    pub(super) fn withdraw_all(&mut self, out: &mut Vec<Effect>) {
        let session_id = self.id();
        let asked = std::mem::take(&mut self.asked);
        out.extend(
            asked
                .into_keys()
                .map(|request_id| Effect::Say(FromAgent::ApprovalCancelled { session_id, request_id })),
        );
    }
}
