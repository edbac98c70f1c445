//! The Agent Client Protocol: Qwen Code, Gemini CLI, opencode and others.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{
    Acts, Input, Message, Refused, Setting, Told,
    attachment::{self, Kind},
    events::{self, Pieces},
    rpc::{Calls, Incoming, NO_SUCH_METHOD, RpcError},
    text,
};

mod tool;
use tool::Tools;

/// The state of a conversation.
#[derive(Debug)]
pub struct Acp {
    setting: Setting,
    calls: Calls<Call>,
    session: Option<String>,
    /// While the CLI tells again what was said before.
    replaying: bool,
    takes_images: bool,
    can_load: bool,
    /// The modes and models that can be changed to in a running process.
    modes: Vec<String>,
    models: Vec<String>,
    asked: HashMap<String, Question>,
    pieces: Pieces,
    tools: Tools,
    said: String,
    prompting: bool,
}

#[derive(Debug)]
enum Call {
    Initialize,
    New,
    Load,
    Prompt,
    Change(&'static str),
}

#[derive(Debug)]
struct Question {
    id: Value,
    options: Value,
}

impl Acp {
    /// A conversation, new or to go on with.
    pub fn new(setting: Setting) -> Self {
        Self {
            setting,
            calls: Calls::new(true),
            session: None,
            replaying: false,
            takes_images: false,
            can_load: false,
            modes: Vec::new(),
            models: Vec::new(),
            asked: HashMap::new(),
            pieces: Pieces::default(),
            tools: Tools::default(),
            said: String::new(),
            prompting: false,
        }
    }

    pub(super) fn begin(&mut self, acts: &mut Acts) {
        // Files and terminals are the CLI's own affair: it is on the machine, we may not be.
        let capabilities = json!({ "fs": { "readTextFile": false, "writeTextFile": false }, "terminal": false });
        let params = json!({ "protocolVersion": 1, "clientCapabilities": capabilities });
        self.calls.call("initialize", &params, Call::Initialize, acts);
    }

    pub(super) fn input(&mut self, input: Input, acts: &mut Acts) -> Result<(), Refused> {
        let Some(session) = self.session.clone() else {
            return Err(Refused::Never("the CLI is not ready".to_owned()));
        };
        match input {
            Input::Message(message) => {
                let params = json!({ "sessionId": session, "prompt": self.prompt(&message)? });
                self.calls.call("session/prompt", &params, Call::Prompt, acts);
                self.prompting = true;
                self.said.clear();
            }
            Input::Interrupt => {
                self.calls
                    .notify("session/cancel", &json!({ "sessionId": session }), acts);
                self.withdraw_all(acts);
            }
            Input::Answer { request_id, allow, .. } => self.answer(&request_id, allow, acts),
            Input::Model(model) if self.models.contains(&model) => {
                let params = json!({ "sessionId": session, "modelId": model });
                self.calls
                    .call("session/set_model", &params, Call::Change("the model"), acts);
            }
            Input::PermissionMode(mode) if self.modes.contains(&mode) => {
                let params = json!({ "sessionId": session, "modeId": mode });
                self.calls
                    .call("session/set_mode", &params, Call::Change("the permission mode"), acts);
            }
            Input::Model(_) => return Err(Refused::Restart),
            Input::PermissionMode(_) if self.modes.is_empty() => return Err(Refused::Restart),
            Input::PermissionMode(mode) => {
                let text = format!(
                    "`{mode}` is none of the CLI's permission modes: {}",
                    self.modes.join(", ")
                );
                return Err(Refused::Never(text));
            }
        }
        Ok(())
    }

    fn prompt(&self, message: &Message) -> Result<Value, Refused> {
        let mut blocks = Vec::new();
        for kind in attachment::kinds(message)? {
            blocks.push(match kind {
                Kind::Image(file) if self.takes_images => {
                    json!({ "type": "image", "mimeType": file.media_type, "data": file.data_base64 })
                }
                Kind::Image(file) | Kind::Document(file) => return Err(attachment::refuse("this CLI", file)),
                Kind::Text(text) => json!({ "type": "text", "text": text }),
            });
        }
        blocks.push(json!({ "type": "text", "text": message.content }));
        Ok(Value::Array(blocks))
    }

    fn answer(&mut self, request_id: &str, allow: bool, acts: &mut Acts) {
        let Some(question) = self.asked.remove(request_id) else {
            return;
        };
        let kinds = if allow {
            ["allow_once", "allow_always"]
        } else {
            ["reject_once", "reject_always"]
        };
        let options = question.options.as_array();
        let option = kinds
            .iter()
            .find_map(|kind| options?.iter().find(|option| option["kind"] == *kind));
        let outcome = match option {
            Some(option) => json!({ "outcome": "selected", "optionId": option["optionId"] }),
            None => json!({ "outcome": "cancelled" }),
        };
        self.calls.answer(&question.id, &json!({ "outcome": outcome }), acts);
    }

    fn withdraw_all(&mut self, acts: &mut Acts) {
        for (request_id, question) in std::mem::take(&mut self.asked) {
            let outcome = json!({ "outcome": { "outcome": "cancelled" } });
            self.calls.answer(&question.id, &outcome, acts);
            acts.tell(Told::Withdrawn(request_id));
        }
    }

    pub(super) fn line(&mut self, line: Vec<u8>, acts: &mut Acts) {
        match self.calls.read(&line) {
            Incoming::Answer(call, answer) => self.answered(call, answer, acts),
            Incoming::Request { id, method, params } if method == "session/request_permission" => {
                self.asks(id, &params, acts);
            }
            Incoming::Request { id, method, .. } => {
                self.calls
                    .decline(&id, NO_SUCH_METHOD, &format!("{method} is not there"), acts);
            }
            Incoming::Notice { method, params } if method == "session/update" => {
                if !self.replaying {
                    self.update(&params["update"], acts);
                }
            }
            // The vendors' own notices are not for people.
            Incoming::Notice { .. } => {}
            Incoming::Other => acts.pass(line),
        }
    }

    fn answered(&mut self, call: Call, answer: Result<Value, RpcError>, acts: &mut Acts) {
        match (call, answer) {
            (Call::Initialize, Ok(answer)) => self.open(&answer, acts),
            (Call::New | Call::Load, Ok(answer)) => self.opened(&answer, acts),
            (Call::Prompt, Ok(answer)) => self.turn_ended(&answer, acts),
            (Call::Prompt, Err(error)) => self.turn_failed(&error.message, acts),
            (Call::Load, Err(error)) => acts.tell(Told::NotResumed(error.message)),
            (Call::Initialize | Call::New, Err(error)) => acts.tell(Told::Failed(error.message)),
            (Call::Change(what), Err(error)) => {
                acts.tell(Told::Rejected(format!(
                    "the CLI was asked for {what} and said: {}",
                    error.message
                )));
            }
            (Call::Change(_), Ok(_)) => {}
        }
    }

    fn open(&mut self, answer: &Value, acts: &mut Acts) {
        let capability = |at: &str| answer.pointer(at).and_then(Value::as_bool).unwrap_or(false);
        self.takes_images = capability("/agentCapabilities/promptCapabilities/image");
        self.can_load = capability("/agentCapabilities/loadSession");
        let mut params = json!({ "cwd": self.setting.cwd, "mcpServers": [] });
        let Some(conversation) = self.setting.resume_id.clone() else {
            return self.calls.call("session/new", &params, Call::New, acts);
        };
        if !self.can_load {
            return acts.tell(Told::NotResumed(
                "the CLI cannot go on with an earlier conversation".to_owned(),
            ));
        }
        params["sessionId"] = json!(conversation);
        self.session = Some(conversation);
        self.replaying = true;
        self.calls.call("session/load", &params, Call::Load, acts);
    }

    fn opened(&mut self, answer: &Value, acts: &mut Acts) {
        self.replaying = false;
        if let Some(session) = text(answer, "/sessionId") {
            self.session = Some(session.to_owned());
        }
        let Some(session) = self.session.clone() else {
            return acts.tell(Told::Failed("the CLI did not name the conversation".to_owned()));
        };
        self.modes = names(answer, "/modes/availableModes", "id");
        self.models = names(answer, "/models/availableModels", "modelId");
        let model = self
            .setting
            .model
            .as_deref()
            .or_else(|| text(answer, "/models/currentModelId"));
        acts.event(&events::init(&session, model, &self.setting.cwd));
        acts.tell(Told::Conversation(session));
        acts.tell(Told::Ready);
    }

    fn asks(&mut self, id: Value, params: &Value, acts: &mut Acts) {
        let call = &params["toolCall"];
        self.pieces.end(acts);
        let (tool_name, input) = self.tools.asked(call, acts);
        let request_id = id.to_string();
        let options = params["options"].clone();
        self.asked.insert(request_id.clone(), Question { id, options });
        acts.tell(Told::Asked {
            request_id,
            tool_name,
            input,
        });
    }

    fn update(&mut self, update: &Value, acts: &mut Acts) {
        let piece = text(update, "/content/text").unwrap_or_default();
        match text(update, "/sessionUpdate") {
            Some("agent_message_chunk" | "agent_thought_chunk") if piece.is_empty() => {}
            Some("agent_message_chunk") => {
                self.pieces.text(piece, acts);
                self.said
                    .push_str(if self.said.len() < MAX_SAID_BYTES { piece } else { "" });
            }
            Some("agent_thought_chunk") => self.pieces.thought(piece, acts),
            Some("tool_call" | "tool_call_update") => {
                self.pieces.end(acts);
                self.tools.update(update, acts);
            }
            Some("plan") => acts.event(&json!({ "type": "system", "subtype": "plan", "entries": update["entries"] })),
            // What the CLI could do, how much it has used: not what it does.
            _ => {}
        }
    }

    fn turn_ended(&mut self, answer: &Value, acts: &mut Acts) {
        self.finish(acts);
        match text(answer, "/stopReason") {
            Some("end_turn") | None => {
                acts.event(&events::success(&self.said));
                acts.tell(Told::TurnEnded(None));
            }
            Some(reason) => {
                let words = format!("the turn ended early: {reason}");
                acts.event(&events::failure(&words));
                acts.tell(Told::TurnEnded((reason != "cancelled").then_some(words)));
            }
        }
    }

    fn turn_failed(&mut self, message: &str, acts: &mut Acts) {
        self.finish(acts);
        acts.event(&events::failure(message));
        acts.tell(Told::TurnEnded(Some(message.to_owned())));
    }

    fn finish(&mut self, acts: &mut Acts) {
        self.prompting = false;
        self.pieces.end(acts);
        self.tools.close(acts);
        self.withdraw_all(acts);
    }

    /// The process is gone: what was said so far is told whole.
    pub(super) fn ended(&mut self, acts: &mut Acts) {
        if self.prompting {
            self.pieces.end(acts);
        }
    }
}

/// The end of a turn repeats what was said, up to about this much.
const MAX_SAID_BYTES: usize = 64 << 10;

fn names(answer: &Value, list: &str, name: &str) -> Vec<String> {
    let rows = answer.pointer(list).and_then(Value::as_array).into_iter().flatten();
    rows.filter_map(|row| row[name].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests;
