//! Anthropic's wire format: messages, token counting, models.
//! Source: <https://docs.anthropic.com/en/api>.

use http::Method;
use serde_json::{Value, json};

use super::answer::{self, Answer, Call, Tokens, event};

const MODELS: [(&str, &str); 4] = [
    ("claude-opus-5-5", "Claude Opus 5.5"),
    ("claude-opus-4-5", "Claude Opus 4.5"),
    ("claude-sonnet-4-5", "Claude Sonnet 4.5"),
    ("claude-haiku-4-5", "Claude Haiku 4.5"),
];

const THOUGHT: &str = "The user wants to see the gateway work, so a short and friendly answer is best.";

/// Answers one call to Anthropic's API.
pub fn answer(call: &Call) -> Answer {
    let answer = match (&call.method, call.path.as_str()) {
        (&Method::POST, "/v1/messages") => messages(call),
        (&Method::POST, "/v1/messages/count_tokens") => {
            Answer::json(200, json!({"input_tokens": answer::count(&prompt(call).to_string())}))
        }
        (&Method::GET, "/v1/models") => models(),
        (&Method::GET, path) if path.starts_with("/v1/models/") => one_model(&path["/v1/models/".len()..]),
        _ => error(404, "Not found"),
    };
    answer
        .with("request-id", call.id("req_"))
        .with("anthropic-organization-id", "5dbc1d2e-0000-4000-8000-000000000000")
        .with("anthropic-ratelimit-requests-limit", "4000")
        .with("anthropic-ratelimit-requests-remaining", "3999")
}

/// Anthropic's error body.
pub fn error(status: u16, message: &str) -> Answer {
    let kind = match status {
        401 => "authentication_error",
        404 => "not_found_error",
        413 => "request_too_large",
        _ => "invalid_request_error",
    };
    Answer::json(
        status,
        json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": null}),
    )
}

fn messages(call: &Call) -> Answer {
    let messages = call.field("messages");
    let (Some(model), true) = (call.field("model").as_str(), messages.is_array()) else {
        return error(400, "messages: Field required");
    };
    let thinks = matches!(call.field("thinking")["type"].as_str(), Some("enabled" | "adaptive"));
    let text = answer::reply(
        &answer::last_user(messages, "content")
            .map(answer::text_of)
            .unwrap_or_default(),
    );
    let tokens = Tokens::of(&prompt(call), &text, thinks);
    let usage = usage(
        tokens,
        call.body
            .as_ref()
            .is_some_and(|body| body.to_string().contains("\"cache_control\"")),
    );
    let message = json!({"id": call.id("msg_"), "type": "message", "role": "assistant", "model": model,
        "content": blocks(&text, thinks), "stop_reason": "end_turn", "stop_sequence": null, "usage": usage});
    match call.field("stream") == &json!(true) {
        true => Answer::events(message_events(message)),
        false => Answer::json(200, message),
    }
}

/// Everything that is billed as input.
fn prompt(call: &Call) -> Value {
    json!([call.field("system"), call.field("tools"), call.field("messages")])
}

fn blocks(text: &str, thinks: bool) -> Value {
    let text = json!({"type": "text", "text": text});
    let thought = json!({"type": "thinking", "thinking": THOUGHT, "signature": "c2ltdWxhdGVk"});
    if thinks { json!([thought, text]) } else { json!([text]) }
}

/// Anthropic caches only what the request marks, and counts the cached classes beside `input_tokens`, not within.
fn usage(tokens: Tokens, marks_cache: bool) -> Value {
    let read = if marks_cache { tokens.cached } else { 0 };
    let written = if read > 0 { 128.min(tokens.input - read) } else { 0 };
    json!({
        "input_tokens": tokens.input - read - written,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": tokens.output + tokens.reasoning,
        "service_tier": "standard",
    })
}

fn message_events(message: Value) -> Vec<String> {
    let mut opened = message.clone();
    opened["content"] = json!([]);
    opened["stop_reason"] = Value::Null;
    opened["usage"]["output_tokens"] = json!(1);
    let mut steps = vec![("message_start", json!({"message": opened})), ("ping", json!({}))];
    for (index, block) in message["content"].as_array().into_iter().flatten().enumerate() {
        steps.extend(block_steps(index, block));
    }
    let delta = json!({"stop_reason": message["stop_reason"], "stop_sequence": null});
    // Cumulative: the numbers of the whole message, not what came since `message_start`.
    steps.push(("message_delta", json!({"delta": delta, "usage": message["usage"]})));
    steps.push(("message_stop", json!({})));
    steps
        .into_iter()
        .map(|(kind, data)| event(Some(kind), &typed(kind, data)))
        .collect()
}

fn block_steps(index: usize, block: &Value) -> Vec<(&'static str, Value)> {
    let thinks = block["type"] == json!("thinking");
    let empty = match thinks {
        true => json!({"type": "thinking", "thinking": "", "signature": ""}),
        false => json!({"type": "text", "text": ""}),
    };
    let mut steps = vec![("content_block_start", json!({"index": index, "content_block": empty}))];
    let text = block[if thinks { "thinking" } else { "text" }]
        .as_str()
        .unwrap_or_default();
    for piece in answer::pieces(text) {
        let delta = match thinks {
            true => json!({"type": "thinking_delta", "thinking": piece}),
            false => json!({"type": "text_delta", "text": piece}),
        };
        steps.push(("content_block_delta", json!({"index": index, "delta": delta})));
    }
    if thinks {
        let delta = json!({"type": "signature_delta", "signature": block["signature"]});
        steps.push(("content_block_delta", json!({"index": index, "delta": delta})));
    }
    steps.push(("content_block_stop", json!({"index": index})));
    steps
}

fn typed(kind: &str, mut data: Value) -> Value {
    data["type"] = json!(kind);
    data
}

fn models() -> Answer {
    let data = MODELS.map(|(id, name)| model(id, name));
    let ends = json!({"first_id": MODELS[0].0, "last_id": MODELS[MODELS.len() - 1].0});
    Answer::json(
        200,
        json!({"data": data, "has_more": false, "first_id": ends["first_id"], "last_id": ends["last_id"]}),
    )
}

fn one_model(id: &str) -> Answer {
    match MODELS.iter().find(|(known, _)| *known == id) {
        Some((id, name)) => Answer::json(200, model(id, name)),
        None => error(404, &format!("model: {id}")),
    }
}

fn model(id: &str, name: &str) -> Value {
    json!({"type": "model", "id": id, "display_name": name, "created_at": "2026-09-01T00:00:00Z"})
}
