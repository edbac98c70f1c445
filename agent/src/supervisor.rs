//! What becomes of the sessions of this machine: commands and news go in, what is to be done comes out. Pure.
//!
//! A session outlives its CLI's process: that may die, be idle for too long or have to be started anew for another model, and is
//! started again, with its conversation, by the next message. One message is given to a CLI at a time; others wait here.

use std::collections::BTreeMap;

use ace_policies::{
    SessionId,
    session::Report,
    wire::{Command, Failure, FailureCode, FromAgent, Known},
};
use serde_json::Value;
use uuid::Uuid;

mod after;
mod command;
mod effect;
mod ending;
mod process;
mod question;
mod queue;
mod saved;
mod session;
mod setting;
#[cfg(test)]
mod tests;

use command::session_of;
pub use effect::Effect;
pub use saved::{Queued, Saved};
use session::Session;

use crate::driver::{Exit, Told};

/// How long and how many.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Sessions that may be live at once.
    pub max_sessions: usize,
    /// A CLI that is not ready by then is ended.
    pub start_ms: i64,
    /// A turn that has not ended by then, after it was asked to, is ended with its CLI.
    pub interrupt_ms: i64,
    /// A CLI that had nothing to do for so long is ended; the session goes on.
    pub idle_ms: i64,
    /// A CLI has so long to go by itself.
    pub grace_ms: u64,
    /// A proxy token is asked for so long before the last one ends.
    pub token_ahead_ms: i64,
    /// And again after so long without one.
    pub token_again_ms: i64,
    /// Messages that may wait in one session.
    pub queue: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 5,
            start_ms: 120_000,
            interrupt_ms: 15_000,
            idle_ms: 30 * 60_000,
            grace_ms: 5_000,
            token_ahead_ms: 90_000,
            token_again_ms: 10_000,
            queue: 64,
        }
    }
}

/// Names a process of a session: later ones have higher numbers.
pub type ProcessNumber = u64;

/// What happens.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The server wants something.
    Command {
        /// Applied once.
        command_id: Uuid,
        /// Not to be begun after this, UTC milliseconds by the server's clock.
        expires_at_ms: i64,
        /// What.
        command: Command,
    },
    /// The connection to the server is new; this is what it knows.
    Connected {
        /// The server's clock less ours, in milliseconds.
        clock_ahead_ms: i64,
        /// The sessions of this machine.
        known: Vec<Known>,
    },
    /// There is no connection any more.
    Disconnected,
    /// A fresh proxy token.
    Token {
        /// Whose.
        session_id: SessionId,
        /// The token.
        token: String,
        /// Its end, UTC seconds.
        expires_at_s: i64,
    },
    /// A CLI tells something.
    Told {
        /// Whose.
        session_id: SessionId,
        /// Which process.
        process: ProcessNumber,
        /// What.
        told: Told,
    },
    /// A CLI was given something, or will not take it.
    Taken {
        /// Whose.
        session_id: SessionId,
        /// Which process.
        process: ProcessNumber,
        /// Whatever the input was given for.
        tag: Option<Uuid>,
        /// Why not.
        refused: Option<crate::driver::Refused>,
    },
    /// Nothing is left of a process, or it could not be started at all.
    Exited {
        /// Whose.
        session_id: SessionId,
        /// Which process.
        process: ProcessNumber,
        /// How.
        end: End,
    },
    /// Time goes by.
    Tick,
    /// The agent is about to end: so do all CLIs, and their sessions go on when it is there again.
    Shutdown,
}

/// How a process ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It ran.
    Exit(Exit),
    /// It was never there.
    NotStarted(Failure),
}

/// The sessions of this machine.
#[derive(Debug)]
pub struct Supervisor {
    limits: Limits,
    sessions: BTreeMap<SessionId, Session>,
    /// The session of the command that is being handled, as it was before it.
    before: Option<(SessionId, Option<Session>)>,
    /// The server's clock less ours.
    clock_ahead_ms: i64,
    ending: bool,
    /// Nobody hears what is said.
    server_is_away: bool,
    /// The command that took the machine off the server's list, and until when the end of its sessions is waited for.
    leaving: Option<(Uuid, i64)>,
}

impl Supervisor {
    /// With what was on the disk. Nothing is started before the server has said what it knows.
    pub fn new(limits: Limits, saved: impl IntoIterator<Item = Saved>) -> Self {
        let sessions = saved
            .into_iter()
            .map(|saved| (saved.start.session_id, Session::found(saved)));
        Self {
            limits,
            sessions: sessions.collect(),
            before: None,
            clock_ahead_ms: 0,
            ending: false,
            server_is_away: false,
            leaving: None,
        }
    }

    /// Decides. `now` is our clock's, UTC milliseconds.
    pub fn handle(&mut self, event: Event, now: i64) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        match event {
            Event::Command {
                command_id,
                expires_at_ms,
                command,
            } => {
                let expired = now + self.clock_ahead_ms > expires_at_ms;
                self.before = session_of(&command).map(|id| (id, self.sessions.get(&id).cloned()));
                self.command(command_id, expired, command, now, out);
            }
            Event::Connected { clock_ahead_ms, known } => {
                self.clock_ahead_ms = clock_ahead_ms;
                self.server_is_away = false;
                self.connected(&known, now, out);
            }
            Event::Disconnected => self.server_is_away = true,
            Event::Token {
                session_id,
                token,
                expires_at_s,
            } => {
                if let Some(session) = self.sessions.get_mut(&session_id) {
                    let until_ms = expires_at_s * 1000 - self.clock_ahead_ms;
                    session.token_until_ms = Some(until_ms);
                    session.token_asked_ms = None;
                    out.push(Effect::Token {
                        session_id,
                        token,
                        until_ms,
                    });
                }
            }
            Event::Told {
                session_id,
                process,
                told,
            } => {
                self.with(session_id, process, |session, limits| {
                    session.told(told, limits, now, out)
                });
            }
            Event::Taken {
                session_id,
                process,
                tag,
                refused,
            } => {
                self.with(session_id, process, |session, limits| {
                    session.taken(tag, refused, limits, now, out)
                });
            }
            Event::Exited {
                session_id,
                process,
                end,
            } => {
                self.with(session_id, process, |session, limits| {
                    session.exited(&end, limits, now, out)
                });
                self.forget_ended(session_id);
            }
            Event::Tick => self.tick(now, out),
            Event::Shutdown => self.shutdown(out),
        }
        self.leave_when_quiet(now, out);
        if self.server_is_away {
            // Asked for again with the next connection.
            effects.retain(|effect| !matches!(effect, Effect::Say(FromAgent::TokenRequest { .. })));
        }
        effects
    }

    /// Makes the latest command undone, which could not be written to the disk and of which nothing was done yet; answers with what
    /// its sender is told.
    pub fn take_back(&mut self, command_id: Uuid, why: String) -> Effect {
        match self.before.take() {
            Some((id, Some(before))) => drop(self.sessions.insert(id, before)),
            Some((id, None)) => drop(self.sessions.remove(&id)),
            None => {}
        }
        done(command_id, Some(failure(FailureCode::Failed, why)))
    }

    /// Sessions whose CLI runs.
    pub fn active(&self) -> usize {
        self.sessions
            .values()
            .filter(|session| session.number().is_some())
            .count()
    }

    /// Whether no CLI runs any more.
    pub fn is_quiet(&self) -> bool {
        self.active() == 0
    }

    /// News of a process that is not the session's any more change nothing.
    fn with(&mut self, id: SessionId, process: ProcessNumber, act: impl FnOnce(&mut Session, &Limits)) {
        if let Some(session) = self
            .sessions
            .get_mut(&id)
            .filter(|session| session.number() == Some(process))
        {
            act(session, &self.limits);
        }
    }

    fn forget_ended(&mut self, id: SessionId) {
        if self
            .sessions
            .get(&id)
            .is_some_and(|session| session.forgotten && session.number().is_none())
        {
            self.sessions.remove(&id);
        }
    }

    fn live(&self) -> usize {
        self.sessions.values().filter(|session| session.is_live()).count()
    }

    fn tick(&mut self, now: i64, out: &mut Vec<Effect>) {
        for session in self.sessions.values_mut() {
            session.tick(&self.limits, now, out);
        }
    }

    fn shutdown(&mut self, out: &mut Vec<Effect>) {
        self.ending = true;
        for session in self.sessions.values_mut() {
            session.shut_down(&self.limits, out);
        }
    }

    /// What the server knows counts: what is not live there, or in another run, ends here. Everything else is said again, since
    /// what was said on an earlier connection may have been lost.
    fn connected(&mut self, known: &[Known], now: i64, out: &mut Vec<Effect>) {
        for (id, session) in &mut self.sessions {
            match known.iter().find(|known| known.session_id == *id) {
                Some(known) if known.run == session.saved.start.run && known.live => {
                    session.greet(&self.limits, now, out);
                }
                // Its start is on the way, and ends the old run itself.
                Some(known) if known.run > session.saved.start.run && known.live => {
                    session.overtaken(&self.limits, out)
                }
                _ => session.forget(&self.limits, out),
            }
        }
        self.sessions
            .retain(|_, session| !session.forgotten || session.number().is_some());
    }
}

fn failure(code: FailureCode, message: impl Into<String>) -> Failure {
    Failure {
        code,
        message: message.into(),
    }
}

fn done(command_id: Uuid, error: Option<Failure>) -> Effect {
    Effect::Say(FromAgent::Done {
        command_id,
        result: None,
        error,
    })
}

fn line(text: &str) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}

fn event(value: &Value) -> Vec<u8> {
    line(&value.to_string())
}

const fn has_ended(report: Report) -> bool {
    matches!(report, Report::Stopped | Report::Completed | Report::Error)
}
