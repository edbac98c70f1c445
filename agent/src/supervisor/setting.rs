//! Model and permission mode: changed at once in a CLI that can, else with its next process.

use ace_policies::wire::FailureCode;
use uuid::Uuid;

use super::{
    Effect, Limits,
    command::ack,
    done, failure,
    session::{Process, Session},
};
use crate::{adapter::is_plain_name, driver::Input};

/// A command whose input the CLI was given.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) command_id: Uuid,
    /// Model and permission mode as they were, should the CLI not take the change.
    pub(super) before: Option<(Option<String>, Option<String>)>,
}

impl Session {
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

    /// A setting that is an argument: with the next process, where the conversation can be gone on with.
    pub(super) fn restart_for(&mut self, given: Given, limits: &Limits, now: i64, out: &mut Vec<Effect>) {
        if self.saved.spoken && self.saved.start.resume_id.is_none() {
            let why = "the CLI cannot change that in the middle of a conversation".to_owned();
            return self.refuse(given, why, out);
        }
        self.stale = true;
        out.push(done(given.command_id, None));
        self.go_on(limits, now, out);
    }

    pub(super) fn refuse(&mut self, given: Given, why: String, out: &mut Vec<Effect>) {
        if let Some((model, permission_mode)) = given.before {
            (self.saved.start.model, self.saved.start.permission_mode) = (model, permission_mode);
            out.push(self.save());
        }
        out.push(done(given.command_id, Some(failure(FailureCode::Unsupported, why))));
    }

    /// The CLI had taken a change and says no after all.
    pub(super) fn rejected(&mut self, why: &str, out: &mut Vec<Effect>) {
        out.push(self.note(why));
        if let Some((model, permission_mode)) = self.before.take() {
            (self.saved.start.model, self.saved.start.permission_mode) = (model, permission_mode);
            out.push(self.save());
        }
    }
}
