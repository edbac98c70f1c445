//! What the server wants.

use ace_policies::{
    SessionId,
    wire::{Behavior, Command, FailureCode, FromAgent, Start},
};
use uuid::Uuid;

use super::{Effect, Saved, Session, Supervisor, done, failure};
use crate::driver::{Input, Message};

/// How long the end of the sessions is waited for when the machine was taken off the list; shorter than the connection waits.
const LEAVE_MS: i64 = 20_000;

impl Supervisor {
    /// A command: acknowledged once it is on the disk, done once it was applied.
    pub(super) fn command(&mut self, id: Uuid, expired: bool, command: Command, now: i64, out: &mut Vec<Effect>) {
        let session_id = match session_of(&command) {
            Some(session_id) => session_id,
            None => return self.of_the_machine(id, &command, now, out),
        };
        if self.is_repeated(session_id, id) {
            return out.push(ack(id));
        }
        let ends = matches!(command, Command::StopSession { .. });
        if (expired && !ends) || self.ending {
            let why = if expired {
                "it came too late: its time was over"
            } else {
                "the agent is about to end"
            };
            out.extend([ack(id), done(id, Some(failure(FailureCode::Failed, why)))]);
            return;
        }
        if let Command::StartSession(start) = command {
            return self.start(id, start, now, out);
        }
        let Some(session) = self.sessions.get_mut(&session_id) else {
            let error = failure(FailureCode::NotFound, "this machine does not have the session");
            out.extend([ack(id), done(id, Some(error).filter(|_| !ends))]);
            return;
        };
        session.saved.apply(id);
        session.command(id, command, &self.limits, now, out);
    }

    fn is_repeated(&self, session_id: SessionId, id: Uuid) -> bool {
        self.sessions
            .get(&session_id)
            .is_some_and(|session| session.saved.applied.contains(&id))
    }

    fn of_the_machine(&mut self, id: Uuid, command: &Command, now: i64, out: &mut Vec<Effect>) {
        out.push(ack(id));
        if matches!(command, Command::Unregister {}) {
            for session in self.sessions.values_mut() {
                session.forget(&self.limits, out);
            }
            self.sessions.retain(|_, session| session.number().is_some());
            self.leaving = Some((id, now + LEAVE_MS));
            return;
        }
        let text = format!("{} is not for sessions", command.kind());
        out.push(done(id, Some(failure(FailureCode::Unsupported, text))));
    }

    /// The answer to being taken off the list is the agent's last word: it comes when nothing runs any more, or its time is up.
    pub(super) fn leave_when_quiet(&mut self, now: i64, out: &mut Vec<Effect>) {
        let is_over = |(_, until): &mut (Uuid, i64)| now >= *until;
        let quiet = self.is_quiet();
        if let Some((id, _)) = self.leaving.take_if(|leaving| quiet || is_over(leaving)) {
            out.push(done(id, None));
        }
    }

    fn start(&mut self, id: Uuid, start: Start, now: i64, out: &mut Vec<Effect>) {
        let session_id = start.session_id;
        let known = self.sessions.get(&session_id).map(|session| session.saved.start.run);
        if known.is_some_and(|run| run >= start.run) {
            let error = failure(FailureCode::Invalid, format!("run {} is over", start.run));
            out.extend([ack(id), done(id, Some(error).filter(|_| known != Some(start.run)))]);
            return;
        }
        let others = self.live() - usize::from(self.sessions.get(&session_id).is_some_and(Session::is_live));
        if others >= self.limits.max_sessions {
            let text = format!("this machine runs {others} sessions already, and no more than that at once");
            out.extend([ack(id), done(id, Some(failure(FailureCode::TooMuch, text)))]);
            return;
        }
        let token = start.proxy_token.clone();
        let until_ms = start.proxy_token_expires_at_s * 1000 - self.clock_ahead_ms;
        let saved = Saved::new(start, id);
        let session = self
            .sessions
            .entry(session_id)
            .or_insert_with(|| Session::new(saved.clone()));
        let mut before_it = Vec::new();
        session.begin(saved, &self.limits, &mut before_it);
        session.token_until_ms = Some(until_ms);
        out.extend([session.save(), ack(id)]);
        out.append(&mut before_it);
        out.push(Effect::Token {
            session_id,
            token,
            until_ms,
        });
        session.go_on(&self.limits, now, out);
    }
}

impl Session {
    fn command(&mut self, id: Uuid, command: Command, limits: &super::Limits, now: i64, out: &mut Vec<Effect>) {
        if !self.is_live() && !matches!(command, Command::StopSession { .. }) {
            let error = failure(FailureCode::Invalid, "the session has ended here");
            out.extend([self.save(), ack(id), done(id, Some(error))]);
            return;
        }
        match command {
            Command::SendMessage {
                content, attachments, ..
            } => {
                self.queue(id, Message { content, attachments }, limits, out);
                self.go_on(limits, now, out);
            }
            Command::StopSession { .. } => self.stop(id, limits, out),
            Command::PauseSession { .. } => self.hold(id, true, limits, now, out),
            Command::ResumeSession { .. } => self.hold(id, false, limits, now, out),
            Command::AbortRequest { .. } => {
                out.extend([self.save(), ack(id)]);
                self.abort(now, out);
                out.push(done(id, None));
            }
            Command::PermissionResponse {
                request_id,
                behavior,
                message,
                ..
            } => {
                out.extend([self.save(), ack(id)]);
                self.answer(id, &request_id, behavior == Behavior::Allow, message, out);
            }
            Command::UpdateModel { model, .. } => self.change(id, Input::Model(model), out),
            Command::UpdatePermissionMode { permission_mode, .. } => {
                self.change(id, Input::PermissionMode(permission_mode), out);
            }
            _ => {}
        }
    }
}

pub(super) fn ack(command_id: Uuid) -> Effect {
    Effect::Say(FromAgent::Ack { command_id })
}

/// Whose a command is; none where it is the machine's.
pub(super) fn session_of(command: &Command) -> Option<SessionId> {
    match command {
        Command::StartSession(start) => Some(start.session_id),
        Command::SendMessage { session_id, .. }
        | Command::StopSession { session_id }
        | Command::PauseSession { session_id }
        | Command::ResumeSession { session_id }
        | Command::AbortRequest { session_id, .. }
        | Command::PermissionResponse { session_id, .. }
        | Command::UpdateModel { session_id, .. }
        | Command::UpdatePermissionMode { session_id, .. } => Some(*session_id),
        _ => None,
    }
}
