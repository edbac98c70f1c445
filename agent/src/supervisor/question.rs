//! What a CLI asks people.

use ace_policies::wire::{FailureCode, FromAgent};
use serde_json::Value;
use uuid::Uuid;

use super::{
    Effect, done, failure,
    session::{Process, Session},
    setting::Given,
};
use crate::driver::Input;

impl Session {
    pub(super) fn asks(&mut self, request_id: String, tool_name: String, input: Value, out: &mut Vec<Effect>) {
        // Another process may use the same name for another question.
        let name = format!("{}-{}-{request_id}", self.saved.start.run, self.saved.processes);
        let asked = FromAgent::Approval {
            session_id: self.id(),
            run: self.saved.start.run,
            request_id: name.clone(),
            tool_name,
            input,
        };
        self.asked.insert(name, (request_id, asked.clone()));
        out.push(Effect::Say(asked));
    }

    /// The CLI does not wait for an answer any more.
    pub(super) fn withdrawn(&mut self, request_id: &str, out: &mut Vec<Effect>) {
        let mut names = self.asked.iter().filter(|(_, (id, _))| id == request_id);
        let Some(name) = names.next().map(|(name, _)| name.clone()) else {
            return;
        };
        self.asked.remove(&name);
        out.push(Effect::Say(FromAgent::ApprovalCancelled {
            session_id: self.id(),
            request_id: name,
        }));
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
