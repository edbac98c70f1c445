//! What becomes of the server's commands: those for sessions are passed on, a few are the connection's own.

use std::time::Duration;

use ace_policies::{
    Secret,
    wire::{Command, Failure, FailureCode, FromAgent, ToAgent},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{exchange::Exchange, lost::Lost};
use crate::files;

/// The sessions answer for the end of everything within less than this; if they do not, the agent ends without their word.
const LEAVE: Duration = Duration::from_secs(25);

/// The command that took the machine off the list.
#[derive(Clone, Copy)]
pub(super) struct Leaving {
    command_id: Uuid,
    until: Instant,
}

impl Exchange<'_> {
    pub(super) fn command(&mut self, command_id: Uuid, expires_at_ms: i64, command: Command) -> Result<(), Lost> {
        let is_late = expires_at_ms < self.now_ms() + self.skew_ms;
        match command {
            Command::BrowseDirectory { .. }
            | Command::ReadFile { .. }
            | Command::GitStatus { .. }
            | Command::GitDiff { .. }
            | Command::RotateToken { .. }
            | Command::Unregister {}
                if is_late =>
            {
                self.too_late(command_id);
                return Ok(());
            }
            Command::BrowseDirectory { .. }
            | Command::ReadFile { .. }
            | Command::GitStatus { .. }
            | Command::GitDiff { .. } => {
                self.own.outbox.say(FromAgent::Ack { command_id });
                files::answer(
                    self.shared.looking.clone(),
                    self.own.outbox.clone(),
                    command_id,
                    command,
                );
                return Ok(());
            }
            Command::RotateToken { new_token, .. } => {
                self.rotate(command_id, new_token);
                return Ok(());
            }
            Command::Unregister {} => self.leave(command_id),
            Command::StartSession(ref start) => {
                self.shared.learn(&start.proxy_token);
                if let Err(error) = self.shared.spool.begin(start.session_id, start.last_seq) {
                    tracing::error!(session = %start.session_id, %error, "the spool cannot be opened");
                }
                self.flow.begin(start.session_id, start.last_seq);
            }
            _ => {}
        }
        // Sessions judge by themselves what comes too late: a stop never does.
        self.pass_on(ToAgent::Command {
            command_id,
            expires_at_ms,
            command,
        })
    }

    fn too_late(&self, command_id: Uuid) {
        let error = failed("it came too late: its time was over".to_owned());
        self.answer(command_id, Some(error));
    }

    fn answer(&self, command_id: Uuid, error: Option<Failure>) {
        self.own.outbox.say(FromAgent::Ack { command_id });
        self.own.outbox.say(FromAgent::Done {
            command_id,
            result: None,
            error,
        });
    }

    /// Stores the new token first, so that it is not lost if we are killed now; then connects with it.
    fn rotate(&mut self, command_id: Uuid, new_token: String) {
        self.shared.learn(&new_token);
        let stored = match new_token.is_empty() {
            true => Err("the command has no token".to_owned()),
            false => self
                .own
                .credentials
                .rotate_to(Secret::new(new_token))
                .map_err(|error| format!("the new token cannot be stored: {error}")),
        };
        let error = stored.err().map(failed);
        if error.is_none() && self.own.credentials.is_rotating() {
            self.ending = Some(Lost::Rotated);
        }
        self.answer(command_id, error);
    }

    /// The sessions answer the command when they have ended; that is the last word.
    fn leave(&mut self, command_id: Uuid) {
        let until = Instant::now() + LEAVE;
        self.own.leaving = Some(Leaving { command_id, until });
    }

    /// Whether what is being said is the answer after which nothing binds us to the server.
    pub(super) fn look_for_the_last(&mut self, message: &FromAgent) {
        if let (Some(leaving), FromAgent::Done { command_id, .. }) = (self.own.leaving, message)
            && leaving.command_id == *command_id
        {
            self.ending = Some(Lost::Unregistered);
        }
    }

    pub(super) fn leaving_until(&self) -> Option<Instant> {
        self.own.leaving.map(|leaving| leaving.until)
    }

    /// Why the connection ends now that there is nothing more to say.
    pub(super) fn end(&mut self, now: Instant) -> Option<Lost> {
        match self.own.leaving {
            Some(leaving) if now >= leaving.until => Some(Lost::Unregistered),
            _ => self.ending.take(),
        }
    }
}

fn failed(message: String) -> Failure {
    Failure {
        code: FailureCode::Failed,
        message,
    }
}
