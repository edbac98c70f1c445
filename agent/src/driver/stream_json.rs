//! Claude Code's `--input-format stream-json --output-format stream-json --permission-prompt-tool stdio`, and CLIs that speak like it.
//!
//! Its lines are what people see, as they are; only what the two sides arrange between them (`control_…`) is kept back.

use std::collections::HashMap;

use ace_policies::wire::Attachment;
use serde_json::{Value, json};

use super::{
    Acts, Input, Message, Refused, Setting, Told,
    attachment::{self, Kind},
    text,
};

/// The state of a conversation.
#[derive(Debug)]
pub struct StreamJson {
    initialize: bool,
    /// It is to go on with a conversation.
    resumes: bool,
    next: u64,
    /// What was asked of the CLI, by the name of the request.
    asking: HashMap<String, &'static str>,
    /// What the CLI asks, with the input that it wants to use a tool with.
    asked: HashMap<String, Value>,
    conversation: Option<String>,
    /// The turn is being ended because somebody asked for it: that it ends badly is no news.
    interrupted: bool,
}

const INITIALIZE: &str = "initialize";

impl StreamJson {
    /// A conversation that begins with `initialize`, or without.
    pub fn new(initialize: bool, setting: &Setting) -> Self {
        Self {
            initialize,
            resumes: setting.resume_id.is_some(),
            next: 1,
            asking: HashMap::new(),
            asked: HashMap::new(),
            conversation: None,
            interrupted: false,
        }
    }

    pub(super) fn begin(&mut self, acts: &mut Acts) {
        if self.initialize {
            self.ask(INITIALIZE, json!({ "subtype": "initialize" }), acts);
        } else {
            acts.tell(Told::Ready);
        }
    }

    pub(super) fn input(&mut self, input: Input, acts: &mut Acts) -> Result<(), Refused> {
        match input {
            Input::Message(message) => {
                let content = content(&message)?;
                self.interrupted = false;
                acts.write(&json!({ "type": "user", "message": { "role": "user", "content": content } }));
            }
            Input::Interrupt => {
                self.interrupted = true;
                self.ask("to end the turn", json!({ "subtype": "interrupt" }), acts);
            }
            Input::Answer {
                request_id,
                allow,
                message,
            } => self.answer(&request_id, allow, message, acts),
            Input::Model(model) => self.ask("the model", json!({ "subtype": "set_model", "model": model }), acts),
            Input::PermissionMode(mode) => {
                let request = json!({ "subtype": "set_permission_mode", "mode": mode });
                self.ask("the permission mode", request, acts);
            }
        }
        Ok(())
    }

    fn ask(&mut self, what: &'static str, request: Value, acts: &mut Acts) {
        let id = format!("ace-{}", self.next);
        self.next += 1;
        acts.write(&json!({ "type": "control_request", "request_id": id, "request": request }));
        self.asking.insert(id, what);
    }

    fn answer(&mut self, request_id: &str, allow: bool, message: Option<String>, acts: &mut Acts) {
        let Some(input) = self.asked.remove(request_id) else {
            return;
        };
        let answer = if allow {
            json!({ "behavior": "allow", "updatedInput": input })
        } else {
            let message = message.unwrap_or_else(|| "The user does not allow it.".to_owned());
            json!({ "behavior": "deny", "message": message, "interrupt": false })
        };
        let response = json!({ "subtype": "success", "request_id": request_id, "response": answer });
        acts.write(&json!({ "type": "control_response", "response": response }));
    }

    pub(super) fn line(&mut self, line: Vec<u8>, acts: &mut Acts) {
        let Ok(event @ Value::Object(_)) = serde_json::from_slice::<Value>(&line) else {
            return acts.pass(line);
        };
        match text(&event, "/type") {
            Some("control_response") => self.answered(&event, acts),
            Some("control_request") => self.asks(&event, acts),
            Some("control_cancel_request") => {
                self.withdraw(text(&event, "/request_id").unwrap_or_default(), acts);
            }
            // There was no turn yet: it has not found the conversation, and ends.
            Some("result") if self.resumes && self.is_beginning() && event["is_error"] == true => {
                let words = text(&event, "/errors/0").or_else(|| text(&event, "/result"));
                let words = words.unwrap_or("the CLI cannot go on with the conversation");
                acts.tell(Told::NotResumed(words.to_owned()));
            }
            Some("result") => {
                acts.pass(line);
                self.turn_ended(&event, acts);
            }
            Some("system") if text(&event, "/subtype") == Some("init") => {
                acts.pass(line);
                self.begins(&event, acts);
            }
            _ => acts.pass(line),
        }
    }

    fn is_beginning(&self) -> bool {
        self.asking.values().any(|what| *what == INITIALIZE)
    }

    fn answered(&mut self, event: &Value, acts: &mut Acts) {
        let id = text(event, "/response/request_id").unwrap_or_default();
        let Some(what) = self.asking.remove(id) else { return };
        let error = text(event, "/response/error").filter(|_| text(event, "/response/subtype") == Some("error"));
        match (what, error) {
            (INITIALIZE, None) => acts.tell(Told::Ready),
            (INITIALIZE, Some(error)) => acts.tell(Told::Failed(error.to_owned())),
            (what, Some(error)) => {
                let words = format!("the CLI was asked for {what} and said: {error}");
                acts.tell(Told::Rejected(words));
            }
            _ => {}
        }
    }

    fn asks(&mut self, event: &Value, acts: &mut Acts) {
        let request_id = text(event, "/request_id").unwrap_or_default().to_owned();
        if text(event, "/request/subtype") != Some("can_use_tool") {
            let response = json!({ "subtype": "error", "request_id": request_id, "error": "not supported" });
            return acts.write(&json!({ "type": "control_response", "response": response }));
        }
        let input = event.pointer("/request/input").cloned().unwrap_or_default();
        self.asked.insert(request_id.clone(), input.clone());
        let tool_name = text(event, "/request/tool_name").unwrap_or("a tool").to_owned();
        acts.tell(Told::Asked {
            request_id,
            tool_name,
            input,
        });
    }

    fn withdraw(&mut self, request_id: &str, acts: &mut Acts) {
        if self.asked.remove(request_id).is_some() {
            acts.tell(Told::Withdrawn(request_id.to_owned()));
        }
    }

    fn begins(&mut self, event: &Value, acts: &mut Acts) {
        let conversation = text(event, "/session_id").map(str::to_owned);
        if conversation.is_some() && conversation != self.conversation {
            self.conversation.clone_from(&conversation);
            conversation
                .into_iter()
                .for_each(|id| acts.tell(Told::Conversation(id)));
        }
    }

    fn turn_ended(&mut self, event: &Value, acts: &mut Acts) {
        for (request_id, _) in self.asked.drain() {
            acts.tell(Told::Withdrawn(request_id));
        }
        let failed = event["is_error"].as_bool().unwrap_or(false) && !self.interrupted;
        let words = text(event, "/result").or_else(|| text(event, "/error/message"));
        let words = words.or_else(|| text(event, "/subtype")).unwrap_or("error");
        acts.tell(Told::TurnEnded(failed.then(|| words.to_owned())));
    }
}

fn content(message: &Message) -> Result<Value, Refused> {
    if message.attachments.is_empty() {
        return Ok(json!(message.content));
    }
    let files = attachment::kinds(message)?.into_iter().map(|kind| match kind {
        Kind::Image(file) => json!({ "type": "image", "source": source(file) }),
        Kind::Document(file) => json!({ "type": "document", "source": source(file) }),
        Kind::Text(text) => json!({ "type": "text", "text": text }),
    });
    let mut blocks: Vec<Value> = files.collect();
    blocks.push(json!({ "type": "text", "text": message.content }));
    Ok(Value::Array(blocks))
}

fn source(file: &Attachment) -> Value {
    json!({ "type": "base64", "media_type": file.media_type, "data": file.data_base64 })
}

#[cfg(test)]
mod tests;
