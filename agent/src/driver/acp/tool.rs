//! The tools that a CLI uses: told once they are known, and once they are done.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::driver::{Acts, events, text};

/// The calls of tools that are under way.
#[derive(Debug, Default)]
pub struct Tools(HashMap<String, Tool>);

#[derive(Debug, Default)]
struct Tool {
    name: String,
    input: Value,
    told: bool,
}

impl Tools {
    /// A call was made, or goes on.
    pub fn update(&mut self, update: &Value, acts: &mut Acts) {
        let id = text(update, "/toolCallId").unwrap_or_default();
        let done = matches!(text(update, "/status"), Some("completed" | "failed"));
        let tool = self.0.entry(id.to_owned()).or_default();
        tool.learn(update);
        // While it is pending the arguments may not be all there.
        if done || (tool.is_known() && text(update, "/status") != Some("pending")) {
            tool.tell(id, acts);
        }
        if done {
            self.0.remove(id);
            let failed = text(update, "/status") == Some("failed");
            acts.event(&events::tool_result(id, &outcome(update), failed));
        }
    }

    /// Permission is asked for a call: its tool and what for.
    pub fn asked(&mut self, call: &Value, acts: &mut Acts) -> (String, Value) {
        let id = text(call, "/toolCallId").unwrap_or_default();
        let tool = self.0.entry(id.to_owned()).or_default();
        tool.learn(call);
        if !tool.is_known() {
            // Some tell no arguments, only what will come of them.
            tool.input = json!({ "title": call["title"], "content": call["content"] });
        }
        tool.tell(id, acts);
        let asked_for = Some(&call["rawInput"]).filter(|input| is_something(input));
        (tool.name.clone(), asked_for.unwrap_or(&tool.input).clone())
    }

    /// The turn is over: what was told and is not done was not carried out.
    pub fn close(&mut self, acts: &mut Acts) {
        for (id, _) in std::mem::take(&mut self.0).into_iter().filter(|(_, tool)| tool.told) {
            acts.event(&events::tool_result(&id, &json!("not carried out"), true));
        }
    }
}

impl Tool {
    fn learn(&mut self, update: &Value) {
        let name = text(update, "/_meta/toolName")
            .or_else(|| text(update, "/title"))
            .or_else(|| text(update, "/kind"));
        if let Some(name) = name.filter(|_| self.name.is_empty()) {
            name.clone_into(&mut self.name);
        }
        if is_something(&update["rawInput"]) && !self.told {
            self.input = update["rawInput"].clone();
        }
    }

    fn is_known(&self) -> bool {
        is_something(&self.input)
    }

    fn tell(&mut self, id: &str, acts: &mut Acts) {
        if !self.told {
            self.told = true;
            acts.event(&events::tool_use(id, &self.name, &self.input));
        }
    }
}

fn is_something(input: &Value) -> bool {
    match input {
        Value::Null => false,
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

/// Text where there is text; else the parts as they are, such as differences.
fn outcome(update: &Value) -> Value {
    let parts = update["content"].as_array().cloned().unwrap_or_default();
    let texts: Vec<&str> = parts.iter().filter_map(|part| text(part, "/content/text")).collect();
    match (texts.is_empty(), parts.is_empty()) {
        (false, _) => json!(texts.join("\n")),
        (true, false) => json!(Value::Array(parts).to_string()),
        (true, true) if update["rawOutput"].is_null() => json!(""),
        (true, true) => json!(update["rawOutput"].to_string()),
    }
}
