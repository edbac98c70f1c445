//! JSON-RPC over lines: calls and what they were for.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Acts;

/// Calls that wait for their answers.
#[derive(Debug)]
pub struct Calls<P> {
    /// Whether messages say `"jsonrpc":"2.0"`.
    versioned: bool,
    next: u64,
    waiting: HashMap<u64, P>,
}

/// A message of the other side.
#[derive(Debug)]
pub enum Incoming<P> {
    /// The answer to a call, and what the call was for.
    Answer(P, Result<Value, RpcError>),
    /// It asks for something.
    Request {
        /// Its name for the call.
        id: Value,
        /// What.
        method: String,
        /// With what.
        params: Value,
    },
    /// It says something.
    Notice {
        /// What.
        method: String,
        /// With what.
        params: Value,
    },
    /// It is no message.
    Other,
}

/// A call failed.
#[derive(Debug)]
pub struct RpcError {
    /// For people.
    pub message: String,
}

/// The other side asked for what is not there.
pub const NO_SUCH_METHOD: i64 = -32601;

impl<P> Calls<P> {
    /// No calls yet.
    pub fn new(versioned: bool) -> Self {
        Self {
            versioned,
            next: 1,
            waiting: HashMap::new(),
        }
    }

    /// Calls; the answer comes back with `purpose`.
    pub fn call(&mut self, method: &str, params: &Value, purpose: P, acts: &mut Acts) {
        self.waiting.insert(self.next, purpose);
        acts.write(&self.stamp(json!({ "id": self.next, "method": method, "params": params })));
        self.next += 1;
    }

    /// Says something that has no answer.
    pub fn notify(&self, method: &str, params: &Value, acts: &mut Acts) {
        acts.write(&self.stamp(json!({ "method": method, "params": params })));
    }

    /// Answers a request.
    pub fn answer(&self, id: &Value, result: &Value, acts: &mut Acts) {
        acts.write(&self.stamp(json!({ "id": id, "result": result })));
    }

    /// Turns a request down.
    pub fn decline(&self, id: &Value, code: i64, message: &str, acts: &mut Acts) {
        acts.write(&self.stamp(json!({ "id": id, "error": { "code": code, "message": message } })));
    }

    /// What a line is.
    pub fn read(&mut self, line: &[u8]) -> Incoming<P> {
        let Ok(Value::Object(mut message)) = serde_json::from_slice(line) else {
            return Incoming::Other;
        };
        let id = message.remove("id").filter(|id| !id.is_null());
        let params = message.remove("params").unwrap_or_default();
        match (id, message.remove("method")) {
            (Some(id), Some(Value::String(method))) => Incoming::Request { id, method, params },
            (None, Some(Value::String(method))) => Incoming::Notice { method, params },
            (Some(id), None) => self.answered(&id, message.remove("result"), message.remove("error")),
            _ => Incoming::Other,
        }
    }

    fn answered(&mut self, id: &Value, result: Option<Value>, error: Option<Value>) -> Incoming<P> {
        let Some(purpose) = id.as_u64().and_then(|id| self.waiting.remove(&id)) else {
            return Incoming::Other;
        };
        match error.filter(|error| !error.is_null()) {
            Some(error) => Incoming::Answer(purpose, Err(RpcError::of(&error))),
            None => Incoming::Answer(purpose, Ok(result.unwrap_or_default())),
        }
    }

    fn stamp(&self, mut message: Value) -> Value {
        if self.versioned {
            message["jsonrpc"] = json!("2.0");
        }
        message
    }
}

impl RpcError {
    fn of(error: &Value) -> Self {
        let message = error["message"].as_str().unwrap_or("an error without words");
        let details = ["/data/details", "/data/message"]
            .iter()
            .find_map(|at| error.pointer(at)?.as_str());
        Self {
            message: details.map_or_else(|| message.to_owned(), |details| format!("{message}: {details}")),
        }
    }
}
