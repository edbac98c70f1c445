//! Codex's `app-server`: threads, turns and items over JSON-RPC.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{
    Acts, Input, Message, Refused, Setting, Told,
    attachment::{self, Kind},
    events::{self, Pieces},
    rpc::{Calls, Incoming, NO_SUCH_METHOD, RpcError},
    text,
};

mod item;
mod permission;
use permission::Permission;

/// The state of a conversation.
#[derive(Debug)]
pub struct AppServer {
    setting: Setting,
    calls: Calls<Call>,
    thread: Option<String>,
    turn: Option<String>,
    /// The turn is to be ended as soon as its name is known.
    interrupt: bool,
    model: Option<String>,
    permission: Option<Permission>,
    /// Items that the CLI asks about, as they began.
    items: HashMap<String, Value>,
    asked: HashMap<String, Value>,
    pieces: Pieces,
    said: String,
}

#[derive(Debug)]
enum Call {
    Initialize,
    Open,
    Turn,
    Interrupt,
}

impl AppServer {
    /// A conversation, new or to go on with.
    pub fn new(setting: Setting) -> Self {
        Self {
            setting,
            calls: Calls::new(false),
            thread: None,
            turn: None,
            interrupt: false,
            model: None,
            permission: None,
            items: HashMap::new(),
            asked: HashMap::new(),
            pieces: Pieces::default(),
            said: String::new(),
        }
    }

    pub(super) fn begin(&mut self, acts: &mut Acts) {
        let version = env!("CARGO_PKG_VERSION");
        let client = json!({ "name": "ace-agent", "title": "ACE Gateway", "version": version });
        self.calls
            .call("initialize", &json!({ "clientInfo": client }), Call::Initialize, acts);
    }

    pub(super) fn input(&mut self, input: Input, acts: &mut Acts) -> Result<(), Refused> {
        match input {
            Input::Message(message) => self.start_turn(&message, acts)?,
            Input::Interrupt => {
                self.interrupt = true;
                self.end_turn(acts);
            }
            Input::Answer { request_id, allow, .. } => {
                if let Some(id) = self.asked.remove(&request_id) {
                    let decision = if allow { "accept" } else { "decline" };
                    self.calls.answer(&id, &json!({ "decision": decision }), acts);
                }
            }
            Input::Model(model) => self.model = Some(model),
            Input::PermissionMode(mode) => self.permission = Some(Permission::of(&mode).map_err(Refused::Never)?),
        }
        Ok(())
    }

    fn start_turn(&mut self, message: &Message, acts: &mut Acts) -> Result<(), Refused> {
        let Some(thread) = &self.thread else {
            return Err(Refused::Never("the CLI is not ready".to_owned()));
        };
        let mut params = json!({ "threadId": thread, "input": input(message)? });
        if let Some(model) = &self.model {
            params["model"] = json!(model);
        }
        if let Some(permission) = self.permission {
            params["approvalPolicy"] = json!(permission.approval);
            params["sandboxPolicy"] = permission.policy();
        }
        self.interrupt = false;
        self.said.clear();
        self.calls.call("turn/start", &params, Call::Turn, acts);
        Ok(())
    }

    fn end_turn(&mut self, acts: &mut Acts) {
        if let (true, Some(thread), Some(turn)) = (self.interrupt, &self.thread, &self.turn) {
            let params = json!({ "threadId": thread, "turnId": turn });
            self.interrupt = false;
            self.calls.call("turn/interrupt", &params, Call::Interrupt, acts);
        }
    }

    pub(super) fn line(&mut self, line: Vec<u8>, acts: &mut Acts) {
        match self.calls.read(&line) {
            Incoming::Answer(call, answer) => self.answered(call, answer, acts),
            Incoming::Request { id, method, params } => self.asks(id, &method, &params, acts),
            Incoming::Notice { method, params } => self.notice(&method, &params, acts),
            Incoming::Other => acts.pass(line),
        }
    }

    fn answered(&mut self, call: Call, answer: Result<Value, RpcError>, acts: &mut Acts) {
        match (call, answer) {
            (Call::Initialize, Ok(_)) => self.open(acts),
            (Call::Open, Ok(answer)) => self.opened(&answer, acts),
            (Call::Turn, Ok(answer)) => self.turn_started(&answer, acts),
            (Call::Turn, Err(error)) => self.turn_ended(Err(error.message), acts),
            (Call::Open, Err(error)) if self.setting.resume_id.is_some() => acts.tell(Told::NotResumed(error.message)),
            (Call::Initialize | Call::Open, Err(error)) => acts.tell(Told::Failed(error.message)),
            (Call::Interrupt, _) => {}
        }
    }

    fn open(&mut self, acts: &mut Acts) {
        self.calls.notify("initialized", &json!({}), acts);
        let mut params = json!({ "cwd": self.setting.cwd });
        if let Some(model) = &self.setting.model {
            params["model"] = json!(model);
        }
        match self
            .setting
            .permission_mode
            .as_deref()
            .map_or(Ok(Permission::USUAL), Permission::of)
        {
            Ok(permission) => {
                params["approvalPolicy"] = json!(permission.approval);
                params["sandbox"] = json!(permission.sandbox);
            }
            Err(error) => return acts.tell(Told::Failed(error)),
        }
        let Some(thread) = &self.setting.resume_id else {
            return self.calls.call("thread/start", &params, Call::Open, acts);
        };
        params["threadId"] = json!(thread);
        self.calls.call("thread/resume", &params, Call::Open, acts);
    }

    fn opened(&mut self, answer: &Value, acts: &mut Acts) {
        let Some(thread) = text(answer, "/thread/id").map(str::to_owned) else {
            return acts.tell(Told::Failed("the CLI did not name the conversation".to_owned()));
        };
        let model = text(answer, "/model").or(self.setting.model.as_deref());
        acts.event(&events::init(&thread, model, &self.setting.cwd));
        // A thread without a turn is not kept: it cannot be gone on with.
        if self.setting.resume_id.is_some() {
            acts.tell(Told::Conversation(thread.clone()));
        }
        self.thread = Some(thread);
        acts.tell(Told::Ready);
    }

    fn turn_started(&mut self, answer: &Value, acts: &mut Acts) {
        self.turn = text(answer, "/turn/id").map(str::to_owned);
        if let Some(thread) = &self.thread {
            acts.tell(Told::Conversation(thread.clone()));
        }
        self.end_turn(acts);
    }

    fn asks(&mut self, id: Value, method: &str, params: &Value, acts: &mut Acts) {
        let name = match method {
            "item/commandExecution/requestApproval" => "shell",
            "item/fileChange/requestApproval" => "apply_patch",
            _ => {
                return self
                    .calls
                    .decline(&id, NO_SUCH_METHOD, &format!("{method} is not there"), acts);
            }
        };
        self.pieces.end(acts);
        let item = text(params, "/itemId").and_then(|item| self.items.get(item));
        let mut input = item.map_or_else(|| json!({}), item::input);
        for field in ["command", "cwd", "reason", "grantRoot"] {
            if !params[field].is_null() {
                input[field] = params[field].clone();
            }
        }
        let request_id = id.to_string();
        self.asked.insert(request_id.clone(), id);
        acts.tell(Told::Asked {
            request_id,
            tool_name: name.to_owned(),
            input,
        });
    }

    fn notice(&mut self, method: &str, params: &Value, acts: &mut Acts) {
        match method {
            "item/agentMessage/delta" => self.pieces.text(text(params, "/delta").unwrap_or_default(), acts),
            "item/reasoning/summaryTextDelta" | "item/reasoning/textDelta" => {
                self.pieces.thought(text(params, "/delta").unwrap_or_default(), acts);
            }
            "item/started" => self.item_started(&params["item"], acts),
            "item/completed" => self.item_completed(&params["item"], acts),
            "serverRequest/resolved" => {
                let request_id = params["requestId"].to_string();
                if self.asked.remove(&request_id).is_some() {
                    acts.tell(Told::Withdrawn(request_id));
                }
            }
            "error" => {
                let message = text(params, "/error/message").unwrap_or("an error without words");
                acts.event(&events::notice("api_retry", message));
            }
            "turn/completed" => self.turn_completed(&params["turn"], acts),
            // Usage, status, settings: not what it does.
            _ => {}
        }
    }

    fn item_started(&mut self, item: &Value, acts: &mut Acts) {
        if let Some(event) = item::started(item) {
            self.pieces.end(acts);
            acts.event(&event);
            self.items
                .insert(text(item, "/id").unwrap_or_default().to_owned(), item.clone());
        }
    }

    fn item_completed(&mut self, item: &Value, acts: &mut Acts) {
        if text(item, "/type") == Some("agentMessage") {
            // The whole is here; what came in pieces is not told twice.
            self.pieces = Pieces::default();
            text(item, "/text").unwrap_or_default().clone_into(&mut self.said);
        }
        if text(item, "/type") == Some("reasoning") {
            return self.pieces.end(acts);
        }
        self.items.remove(text(item, "/id").unwrap_or_default());
        if let Some(event) = item::completed(item) {
            acts.event(&event);
        }
    }

    fn turn_completed(&mut self, turn: &Value, acts: &mut Acts) {
        let error = text(turn, "/error/message").map(str::to_owned);
        match text(turn, "/status") {
            Some("failed") => self.turn_ended(Err(error.unwrap_or_else(|| "the turn failed".to_owned())), acts),
            Some("interrupted") => {
                self.finish(acts);
                acts.event(&events::failure("the turn was interrupted"));
                acts.tell(Told::TurnEnded(None));
            }
            _ => self.turn_ended(Ok(()), acts),
        }
    }

    fn turn_ended(&mut self, outcome: Result<(), String>, acts: &mut Acts) {
        self.finish(acts);
        match &outcome {
            Ok(()) => acts.event(&events::success(&self.said)),
            Err(message) => acts.event(&events::failure(message)),
        }
        acts.tell(Told::TurnEnded(outcome.err()));
    }

    fn finish(&mut self, acts: &mut Acts) {
        self.pieces.end(acts);
        (self.turn, self.interrupt) = (None, false);
        self.items.clear();
        for (request_id, _) in self.asked.drain() {
            acts.tell(Told::Withdrawn(request_id));
        }
    }

    /// The process is gone: what was said so far is told whole.
    pub(super) fn ended(&mut self, acts: &mut Acts) {
        self.pieces.end(acts);
    }
}

fn input(message: &Message) -> Result<Value, Refused> {
    let mut parts = Vec::new();
    for kind in attachment::kinds(message)? {
        parts.push(match kind {
            Kind::Image(file) => {
                json!({ "type": "image", "url": format!("data:{};base64,{}", file.media_type, file.data_base64) })
            }
            Kind::Document(file) => return Err(attachment::refuse("Codex", file)),
            Kind::Text(text) => json!({ "type": "text", "text": text }),
        });
    }
    parts.push(json!({ "type": "text", "text": message.content }));
    Ok(Value::Array(parts))
}

#[cfg(test)]
mod tests;
