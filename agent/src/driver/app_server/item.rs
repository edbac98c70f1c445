//! Codex's items as events.

use serde_json::{Value, json};

use crate::driver::{events, text};

/// Items that are not uses of tools.
const SAID: [&str; 4] = ["userMessage", "agentMessage", "reasoning", "hookPrompt"];

/// What an item is asked to do: everything but how it goes.
pub fn input(item: &Value) -> Value {
    let mut input = json!({});
    for field in [
        "command",
        "cwd",
        "changes",
        "query",
        "server",
        "tool",
        "arguments",
        "path",
        "prompt",
    ] {
        if !item[field].is_null() {
            input[field] = item[field].clone();
        }
    }
    input
}

/// An item begins: the use of a tool.
pub fn started(item: &Value) -> Option<Value> {
    let kind = text(item, "/type").filter(|kind| !SAID.contains(kind))?;
    let name = match kind {
        "commandExecution" => "shell",
        "fileChange" => "apply_patch",
        "mcpToolCall" | "dynamicToolCall" => text(item, "/tool").unwrap_or(kind),
        kind => kind,
    };
    Some(events::tool_use(text(item, "/id")?, name, &input(item)))
}

/// An item is complete: what was said, or what came of a tool.
pub fn completed(item: &Value) -> Option<Value> {
    let kind = text(item, "/type")?;
    if kind == "agentMessage" {
        return text(item, "/text").filter(|text| !text.is_empty()).map(events::text);
    }
    if SAID.contains(&kind) {
        return None;
    }
    let failed = matches!(text(item, "/status"), Some("failed" | "declined"));
    let failed = failed || item["exitCode"].as_i64().is_some_and(|code| code != 0);
    Some(events::tool_result(text(item, "/id")?, &json!(outcome(item)), failed))
}

fn outcome(item: &Value) -> String {
    let output = text(item, "/aggregatedOutput").or_else(|| text(item, "/error/message"));
    if let Some(output) = output.filter(|output| !output.is_empty()) {
        return output.to_owned();
    }
    if !item["result"].is_null() {
        return item["result"].to_string();
    }
    text(item, "/status").unwrap_or_default().to_owned()
}
