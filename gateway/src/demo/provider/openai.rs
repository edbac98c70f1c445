//! OpenAI's wire format: chat completions, responses, embeddings, models.
//! Source: <https://platform.openai.com/docs/api-reference>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use super::answer::{self, Answer, Call, Tokens, event};

const MODELS: [&str; 7] = [
    "gpt-5.5",
    "gpt-5.5-mini",
    "gpt-5.4-nano",
    "gpt-4o-mini",
    "qwen3-coder-plus",
    "text-embedding-3-large",
    "text-embedding-3-small",
];

/// Answers one call to OpenAI's API.
pub fn answer(call: &Call) -> Answer {
    let path = call.path.strip_prefix("/v1").unwrap_or(&call.path);
    let answer = match (&call.method, path) {
        (&Method::POST, "/chat/completions") => chat(call),
        (&Method::POST, "/responses") => responses(call),
        (&Method::POST, "/responses/input_tokens") => input_tokens(call),
        (&Method::POST, "/embeddings") => embeddings(call),
        (&Method::GET, "/models") => Answer::json(
            200,
            json!({"object": "list", "data": MODELS.map(|id| model(id, call.now_s))}),
        ),
        (&Method::GET, path) if path.starts_with("/models/") => one_model(&path["/models/".len()..], call.now_s),
        (method, _) => error(404, &format!("Invalid URL ({method} {})", call.path)),
    };
    answer
        .with("x-request-id", call.id("req_"))
        .with("openai-version", "2020-10-01")
        .with("openai-processing-ms", "21")
        .with("x-ratelimit-limit-requests", "10000")
        .with("x-ratelimit-remaining-requests", "9999")
        .with("x-ratelimit-reset-requests", "6ms")
}

/// OpenAI's error body.
pub fn error(status: u16, message: &str) -> Answer {
    let (kind, code) = match status {
        401 => ("invalid_request_error", json!("invalid_api_key")),
        404 => ("invalid_request_error", json!("unknown_url")),
        _ => ("invalid_request_error", Value::Null),
    };
    Answer::json(
        status,
        json!({"error": {"message": message, "type": kind, "param": null, "code": code}}),
    )
}

fn chat(call: &Call) -> Answer {
    let messages = call.field("messages");
    let (Some(model), true) = (call.field("model").as_str(), messages.is_array()) else {
        return error(400, "Missing required parameter: 'messages' and 'model' must be given.");
    };
    let text = answer::reply(
        &answer::last_user(messages, "content")
            .map(answer::text_of)
            .unwrap_or_default(),
    );
    let tokens = Tokens::of(messages, &text, reasons(model));
    let base = json!({"id": call.id("chatcmpl-"), "created": call.now_s, "model": model, "service_tier": "default",
        "system_fingerprint": "fp_5f1a2b3c4d"});
    if call.field("stream") == &json!(true) {
        let with_usage = call.field("stream_options")["include_usage"] == json!(true);
        return Answer::events(chat_events(&base, &text, tokens, with_usage));
    }
    let message = json!({"role": "assistant", "content": text, "refusal": null, "annotations": []});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
    let rest = json!({"object": "chat.completion", "choices": [choice], "usage": chat_usage(tokens)});
    Answer::json(200, merged(&base, rest))
}

fn chat_events(base: &Value, text: &str, tokens: Tokens, with_usage: bool) -> Vec<String> {
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = merged(base, json!({"object": "chat.completion.chunk", "choices": choices}));
        if with_usage {
            chunk["usage"] = usage;
        }
        event(None, &chunk)
    };
    let choice =
        |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    let first = json!({"role": "assistant", "content": "", "refusal": null});
    let mut events = vec![chunk(choice(first, Value::Null), Value::Null)];
    for piece in answer::pieces(text) {
        events.push(chunk(choice(json!({"content": piece}), Value::Null), Value::Null));
    }
    events.push(chunk(choice(json!({}), json!("stop")), Value::Null));
    if with_usage {
        events.push(chunk(json!([]), chat_usage(tokens)));
    }
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn chat_usage(tokens: Tokens) -> Value {
    json!({
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output + tokens.reasoning,
        "total_tokens": tokens.total(),
        "prompt_tokens_details": {"cached_tokens": tokens.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    })
}

fn responses(call: &Call) -> Answer {
    let input = call.field("input");
    let Some(model) = call.field("model").as_str().filter(|_| !input.is_null()) else {
        return error(400, "Missing required parameter: 'input' and 'model' must be given.");
    };
    let prompt = input.as_str().map(str::to_owned);
    let prompt = prompt
        .or_else(|| answer::last_user(input, "content").map(answer::text_of))
        .unwrap_or_default();
    let text = answer::reply(&prompt);
    let usage = responses_usage(Tokens::of(input, &text, reasons(model)));
    let response = |status: &str, output: Value, usage: Value| {
        json!({"id": call.id("resp_"), "object": "response", "created_at": call.now_s, "status": status, "model": model,
            "error": null, "incomplete_details": null, "instructions": null, "metadata": {}, "output": output,
            "parallel_tool_calls": true, "previous_response_id": null, "store": false, "temperature": 1.0, "top_p": 1.0,
            "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "truncation": "disabled",
            "usage": usage})
    };
    let item = message_item(call, "completed", json!([text_part(&text)]));
    if call.field("stream") != &json!(true) {
        return Answer::json(200, response("completed", json!([item]), usage));
    }
    let opened = response("in_progress", json!([]), Value::Null);
    let closed = response("completed", json!([item]), usage);
    Answer::events(response_events(call, &text, opened, item, closed))
}

fn response_events(call: &Call, text: &str, opened: Value, item: Value, closed: Value) -> Vec<String> {
    let item_id = item["id"].clone();
    let at = |rest: Value| {
        merged(
            &json!({"item_id": item_id, "output_index": 0, "content_index": 0}),
            rest,
        )
    };
    let mut steps = vec![
        ("response.created", json!({"response": opened})),
        ("response.in_progress", json!({"response": opened})),
        (
            "response.output_item.added",
            json!({"output_index": 0, "item": message_item(call, "in_progress", json!([]))}),
        ),
        ("response.content_part.added", at(json!({"part": text_part("")}))),
    ];
    for piece in answer::pieces(text) {
        steps.push((
            "response.output_text.delta",
            at(json!({"delta": piece, "logprobs": []})),
        ));
    }
    steps.push(("response.output_text.done", at(json!({"text": text, "logprobs": []}))));
    steps.push(("response.content_part.done", at(json!({"part": text_part(text)}))));
    steps.push(("response.output_item.done", json!({"output_index": 0, "item": item})));
    steps.push(("response.completed", json!({"response": closed})));
    let numbered = steps.into_iter().enumerate();
    numbered
        .map(|(n, (kind, data))| event(Some(kind), &merged(&json!({"type": kind, "sequence_number": n}), data)))
        .collect()
}

fn message_item(call: &Call, status: &str, content: Value) -> Value {
    json!({"id": call.id("msg_"), "type": "message", "status": status, "role": "assistant", "content": content})
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn responses_usage(tokens: Tokens) -> Value {
    json!({
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cached},
        "output_tokens": tokens.output + tokens.reasoning,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.total(),
    })
}

fn input_tokens(call: &Call) -> Answer {
    let tokens = answer::count(&call.field("input").to_string());
    Answer::json(200, json!({"object": "response.input_tokens", "input_tokens": tokens}))
}

fn embeddings(call: &Call) -> Answer {
    let Some(model) = call.field("model").as_str() else {
        return error(400, "Missing required parameter: 'model'.");
    };
    let inputs = match call.field("input") {
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    };
    let dimensions = call
        .field("dimensions")
        .as_u64()
        .map_or(256, |asked| asked.clamp(1, 3072) as usize);
    let as_base64 = call.field("encoding_format") == &json!("base64");
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let values = answer::embedding(&input.to_string(), dimensions);
            let embedding = if as_base64 { packed(&values) } else { json!(values) };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let tokens = answer::count(&call.field("input").to_string());
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Answer::json(
        200,
        json!({"object": "list", "model": model, "data": data, "usage": usage}),
    )
}

/// Little-endian 32-bit floats in Base64: what the SDKs ask for by default.
fn packed(values: &[f32]) -> Value {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    json!(STANDARD.encode(bytes))
}

fn model(id: &str, created: u64) -> Value {
    json!({"id": id, "object": "model", "created": created, "owned_by": "system"})
}

fn one_model(id: &str, created: u64) -> Answer {
    match MODELS.contains(&id) {
        true => Answer::json(200, model(id, created)),
        false => error(
            404,
            &format!("The model '{id}' does not exist or you do not have access to it."),
        ),
    }
}

fn reasons(model: &str) -> bool {
    model.starts_with("gpt-5") || model.starts_with('o')
}

/// `base` with the fields of `rest` put over it.
fn merged(base: &Value, rest: Value) -> Value {
    let mut all = base.clone();
    if let (Value::Object(all), Value::Object(rest)) = (&mut all, rest) {
        all.extend(rest);
    }
    all
}
