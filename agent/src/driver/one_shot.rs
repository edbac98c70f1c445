//! CLIs without a protocol: a process a turn, its answer is what it prints.

use serde_json::Value;

use super::{Act, Acts, Exit, Input, Refused, Setting, Told, events};
use crate::adapter::{OneShot as Row, Output};

/// The state of a conversation.
#[derive(Debug)]
pub struct OneShot {
    row: Row,
    setting: Setting,
    printed: String,
    interrupted: bool,
    /// The CLI has told the end of its turn itself.
    told: bool,
}

/// More than this is not kept for the answer.
const MAX_ANSWER_BYTES: usize = 256 << 10;

impl OneShot {
    /// A conversation with processes of a kind.
    pub fn new(row: Row, setting: Setting) -> Self {
        Self {
            row,
            setting,
            printed: String::new(),
            interrupted: false,
            told: false,
        }
    }

    pub(super) fn begin(&mut self, acts: &mut Acts) {
        acts.tell(Told::Ready);
        if let Some(conversation) = &self.setting.resume_id {
            acts.tell(Told::Conversation(conversation.clone()));
        }
    }

    /// The message was given to the process as it was started, or is written here.
    pub(super) fn input(&mut self, input: Input, acts: &mut Acts) -> Result<(), Refused> {
        match input {
            Input::Message(message) => {
                if let Some(file) = message.attachments.first() {
                    return Err(super::attachment::refuse("this CLI", file));
                }
                (self.interrupted, self.told) = (false, false);
                self.printed.clear();
                acts.0.push(Act::Write(message.content.into_bytes()));
                acts.0.push(Act::Close);
                Ok(())
            }
            Input::Interrupt => {
                self.interrupted = true;
                Ok(())
            }
            // The next process is started with them.
            Input::Answer { .. } | Input::Model(_) | Input::PermissionMode(_) => Ok(()),
        }
    }

    pub(super) fn line(&mut self, line: Vec<u8>, acts: &mut Acts) {
        if self.row.output == Output::Events {
            return self.event(line, acts);
        }
        let text = String::from_utf8_lossy(&line);
        if self.row.output == Output::Text {
            acts.event(&events::text_delta(&text));
        }
        if self.printed.len() + text.len() <= MAX_ANSWER_BYTES {
            self.printed.push_str(&text);
        }
    }

    fn event(&mut self, line: Vec<u8>, acts: &mut Acts) {
        let event: Value = serde_json::from_slice(&line).unwrap_or_default();
        acts.pass(line);
        if let Some(conversation) = super::text(&event, "/session_id") {
            acts.tell(Told::Conversation(conversation.to_owned()));
        }
        self.told |= event["type"] == "result";
    }

    pub(super) fn ended(&mut self, exit: &Exit, acts: &mut Acts) {
        let outcome = match self.row.output {
            Output::Text => Ok(self.text(acts)),
            Output::Json => self.json(acts),
            Output::Events => Ok(String::new()),
        };
        let outcome = match outcome {
            _ if self.interrupted => Err("the turn was interrupted".to_owned()),
            Err(error) => Err(error),
            Ok(_) if exit.code != 0 => Err(format!("the CLI {}", exit.describe())),
            Ok(answer) => Ok(answer),
        };
        if !self.told {
            match &outcome {
                Ok(answer) => acts.event(&events::success(answer)),
                Err(error) => acts.event(&events::failure(error)),
            }
        }
        acts.tell(Told::TurnEnded(outcome.err().filter(|_| !self.interrupted)));
    }

    fn text(&self, acts: &mut Acts) -> String {
        let answer = self.printed.trim_end();
        if !answer.trim().is_empty() {
            acts.event(&events::text(answer));
        }
        answer.to_owned()
    }

    /// The first object in what was printed: some talk before and after it.
    fn json(&self, acts: &mut Acts) -> Result<String, String> {
        let starts = self.printed.match_indices('{').map(|(at, _)| at);
        let object = starts.take(16).find_map(|at| {
            let mut values = serde_json::Deserializer::from_str(&self.printed[at..]).into_iter::<Value>();
            values.next()?.ok()
        });
        let Some(object) = object else {
            return Err(format!("the CLI did not print JSON: {}", self.printed.trim()));
        };
        let at = |places: &[String]| {
            places
                .iter()
                .find_map(|place| object.pointer(place)?.as_str())
                .map(str::to_owned)
        };
        if let Some(conversation) = at(&self.row.conversation) {
            acts.tell(Told::Conversation(conversation));
        }
        if let Some(failure) = at(&self.row.failure) {
            return Err(failure);
        }
        let answer = at(&self.row.answer).unwrap_or_else(|| object.to_string());
        acts.event(&events::text(&answer));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
