//! Events as Claude Code prints them, for CLIs that have words of their own.

use serde_json::{Value, json};

/// A conversation begins, or goes on.
pub fn init(conversation: &str, model: Option<&str>, cwd: &str) -> Value {
    json!({ "type": "system", "subtype": "init", "session_id": conversation, "model": model, "cwd": cwd })
}

/// What the CLI says.
pub fn text(text: &str) -> Value {
    assistant(json!({ "type": "text", "text": text }))
}

/// What the CLI thinks.
pub fn thinking(text: &str) -> Value {
    assistant(json!({ "type": "thinking", "thinking": text }))
}

/// The CLI uses a tool.
pub fn tool_use(id: &str, name: &str, input: &Value) -> Value {
    assistant(json!({ "type": "tool_use", "id": id, "name": name, "input": input }))
}

/// What came of a tool.
pub fn tool_result(id: &str, content: &Value, is_error: bool) -> Value {
    let result = json!({ "type": "tool_result", "tool_use_id": id, "content": content, "is_error": is_error });
    json!({ "type": "user", "message": { "role": "user", "content": [result] } })
}

/// A piece of a text that is not complete yet.
pub fn text_delta(text: &str) -> Value {
    delta(json!({ "type": "text_delta", "text": text }))
}

/// A piece of a thought that is not complete yet.
pub fn thinking_delta(text: &str) -> Value {
    delta(json!({ "type": "thinking_delta", "thinking": text }))
}

/// Something that is neither said nor done, such as a retry.
pub fn notice(subtype: &str, message: &str) -> Value {
    json!({ "type": "system", "subtype": subtype, "message": message })
}

/// A turn is over.
pub fn success(result: &str) -> Value {
    json!({ "type": "result", "subtype": "success", "is_error": false, "result": result })
}

/// A turn is over, and not well.
pub fn failure(message: &str) -> Value {
    json!({ "type": "result", "subtype": "error_during_execution", "is_error": true, "result": message })
}

fn assistant(block: Value) -> Value {
    json!({ "type": "assistant", "message": { "role": "assistant", "content": [block] } })
}

fn delta(delta: Value) -> Value {
    let event = json!({ "type": "content_block_delta", "index": 0, "delta": delta });
    json!({ "type": "stream_event", "event": event })
}

/// Text that arrives in pieces, and is told whole once something else begins.
#[derive(Debug, Default)]
pub struct Pieces {
    text: String,
    thought: String,
}

/// More than this is not kept for the whole; the pieces were told.
const MAX_WHOLE_BYTES: usize = 256 << 10;

impl Pieces {
    /// A piece of text.
    pub fn text(&mut self, piece: &str, acts: &mut super::Acts) {
        self.end_thought(acts);
        acts.event(&text_delta(piece));
        keep(&mut self.text, piece);
    }

    /// A piece of a thought.
    pub fn thought(&mut self, piece: &str, acts: &mut super::Acts) {
        self.end_text(acts);
        acts.event(&thinking_delta(piece));
        keep(&mut self.thought, piece);
    }

    /// Tells what is complete now.
    pub fn end(&mut self, acts: &mut super::Acts) {
        self.end_thought(acts);
        self.end_text(acts);
    }

    fn end_text(&mut self, acts: &mut super::Acts) {
        if !self.text.is_empty() {
            acts.event(&text(&std::mem::take(&mut self.text)));
        }
    }

    fn end_thought(&mut self, acts: &mut super::Acts) {
        if !self.thought.is_empty() {
            acts.event(&thinking(&std::mem::take(&mut self.thought)));
        }
    }
}

fn keep(whole: &mut String, piece: &str) {
    let room = MAX_WHOLE_BYTES.saturating_sub(whole.len());
    let end = (0..=room.min(piece.len()))
        .rev()
        .find(|end| piece.is_char_boundary(*end));
    whole.push_str(&piece[..end.unwrap_or(0)]);
}
