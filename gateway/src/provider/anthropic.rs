//! Anthropic's dialect: messages. Figures come in `message_start` and, cumulative, in `message_delta`; the last one told
//! of each is the one that counts.

use ace_policies::usage::Usage;
use serde_json::json;

use super::tally::Tally;
use crate::json::{self, Members};
use crate::sse::Event;

/// The members of a whole answer that tell something.
pub(super) const WANTED: &[&str] = &["usage", "model", "error"];

const FAST: &[u8] = br#""fast""#;

/// Reads one event of a stream.
pub(super) fn event(tally: &mut Tally, event: Event<'_>) {
    let data = event.data;
    let kind = if event.name.is_empty() {
        json::find(data, "type").map(unquoted)
    } else {
        Some(event.name)
    };
    match kind.unwrap_or_default() {
        b"content_block_delta" => tally.text_bytes += json::text_bytes(data, is_text),
        b"content_block_start" => {
            tally.begun = true;
            tally.open_block = json::find(data, "index").and_then(json::count);
        }
        b"content_block_stop" => tally.open_block = None,
        b"message_start" => {
            tally.begun = true;
            let message = json::find(data, "message").unwrap_or_default();
            for member in Members::of(message).into_iter().flatten().map_while(Result::ok) {
                told(tally, &message[member.key], &message[member.value]);
            }
        }
        b"message_delta" => {
            if let Some(object) = json::find(data, "usage") {
                told(tally, b"usage", object);
            }
            let reason = json::find(data, "delta").and_then(|delta| json::find(delta, "stop_reason"));
            tally.is_final |= tally.told && reason.is_some_and(|reason| reason != b"null");
        }
        b"message_stop" => {
            tally.ended = true;
            tally.is_final |= tally.told;
        }
        b"error" => {
            tally.learn_error(json::find(data, "error").and_then(|error| json::find(error, "type")));
        }
        _ => {}
    }
}

/// Reads a member of a whole answer.
pub(super) fn member_of_answer(tally: &mut Tally, key: &[u8], value: &[u8]) {
    match key {
        b"error" => tally.learn_error(json::find(value, "type")),
        _ => {
            told(tally, key, value);
            tally.is_final = tally.told;
        }
    }
}

/// Keys of generated text, whose bytes an estimate goes by.
pub(super) fn is_text(key: &[u8]) -> bool {
    matches!(key, b"text" | b"thinking" | b"partial_json")
}

/// What ends a stream that a budget stopped, as the provider ends one at its token limit.
pub(super) fn ending(tally: &Tally) -> Vec<u8> {
    let mut out = String::new();
    let mut push = |name: &str, data: serde_json::Value| out.push_str(&format!("event: {name}\ndata: {data}\n\n"));
    if let Some(index) = tally.open_block {
        push(
            "content_block_stop",
            json!({"type": "content_block_stop", "index": index}),
        );
    }
    let delta = json!({"stop_reason": "max_tokens", "stop_sequence": null});
    let usage = json!({"output_tokens": tally.so_far().output});
    push(
        "message_delta",
        json!({"type": "message_delta", "delta": delta, "usage": usage}),
    );
    push("message_stop", json!({"type": "message_stop"}));
    out.into_bytes()
}

/// What a client is told before the connection of a broken stream breaks.
pub(super) const BROKEN: &[u8] = b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\
    \"message\":\"The connection to the provider was lost before the answer was complete\"}}\n\n";

fn told(tally: &mut Tally, key: &[u8], value: &[u8]) {
    match key {
        b"model" => tally.learn_model(value),
        b"id" => tally.learn_id(value),
        b"usage" if value.starts_with(b"{") => {
            let usage = read(tally.usage, value);
            tally.beside = json::find(value, "iterations").map_or(tally.beside, beside);
            served(tally, value);
            tally.tell(usage);
        }
        _ => {}
    }
}

/// Learns the service tier. Fast mode is none by its name, but it has prices of its own, and is told once.
fn served(tally: &mut Tally, usage: &[u8]) {
    for member in Members::of(usage).into_iter().flatten().map_while(Result::ok) {
        let value = &usage[member.value];
        match &usage[member.key] {
            b"speed" if value == FAST => tally.learn_tier(FAST),
            b"service_tier" if tally.service_tier.as_deref() != Some("fast") => tally.learn_tier(value),
            _ => {}
        }
    }
}

/// Reads a usage object over what was told before: a field that it lacks keeps its value.
fn read(before: Usage, object: &[u8]) -> Usage {
    let count = |key: &str| json::find(object, key).and_then(json::count);
    let written = |key: &str| json::find(json::find(object, "cache_creation")?, key).and_then(json::count);
    let (total, five, hour) = (
        count("cache_creation_input_tokens"),
        written("ephemeral_5m_input_tokens"),
        written("ephemeral_1h_input_tokens"),
    );
    let hour = hour.unwrap_or(before.cache_write_1h);
    // What the two lifetimes do not explain of the total counts as the shorter one.
    let rest = total.map(|total| total.saturating_sub(hour));
    Usage {
        input: count("input_tokens").unwrap_or(before.input),
        cache_read: count("cache_read_input_tokens").unwrap_or(before.cache_read),
        cache_write_5m: five.max(rest).unwrap_or(before.cache_write_5m),
        cache_write_1h: hour,
        output: count("output_tokens").unwrap_or(before.output),
        ..before
    }
}

/// Sums the iterations that the totals leave out: compaction and advisors are billed beside the message's own.
fn beside(iterations: &[u8]) -> Usage {
    let own = |step: &&[u8]| json::find(step, "type").is_none_or(|kind| kind == br#""message""#);
    json::elements(iterations)
        .filter(|step| !own(step))
        .fold(Usage::default(), |sum, step| sum + read(Usage::default(), step))
}

fn unquoted(value: &[u8]) -> &[u8] {
    value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or_default()
}
