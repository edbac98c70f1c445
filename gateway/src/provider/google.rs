//! Google's dialect: Gemini, streamed as events (`alt=sse`) or as one long array.

use ace_policies::usage::Usage;
use memchr::memmem;
use serde_json::json;

use super::tally::Tally;
use crate::json::{self, Members};
use crate::sse::Event;

/// The members of a whole answer, or of an element of the array, that tell something.
pub(super) const WANTED: &[&str] = &["usageMetadata", "modelVersion", "responseId", "error"];

/// Reads one event of a stream.
pub(super) fn event(tally: &mut Tally, event: Event<'_>) {
    let Some(members) = Members::of(event.data) else { return };
    let mut usage = None;
    for member in members.map_while(Result::ok) {
        let value = &event.data[member.value];
        match &event.data[member.key] {
            b"candidates" => {
                tally.text_bytes += json::text_bytes(value, is_text);
                tally.ended |= memmem::find(value, b"\"finishReason\"").is_some();
            }
            // Without candidates: the prompt itself was blocked.
            b"promptFeedback" => tally.ended |= memmem::find(value, b"\"blockReason\"").is_some(),
            b"usageMetadata" => usage = Some(value),
            key => member_of_answer(tally, key, value),
        }
    }
    if let Some(object) = usage {
        member_of_answer(tally, b"usageMetadata", object);
    }
    tally.is_final = tally.told && tally.ended && tally.text_bytes == 0;
}

/// Reads a member of a whole answer, or of an event.
pub(super) fn member_of_answer(tally: &mut Tally, key: &[u8], value: &[u8]) {
    match key {
        b"usageMetadata" if value.starts_with(b"{") => tally.tell(read(value)),
        b"modelVersion" => tally.learn_model(value),
        b"responseId" => tally.learn_id(value),
        b"error" => tally.learn_error(json::find(value, "status")),
        _ => {}
    }
}

/// Keys of generated text, whose bytes an estimate goes by.
pub(super) fn is_text(key: &[u8]) -> bool {
    key == b"text"
}

/// The last element of a stream that a budget stopped, as the provider ends one at its token limit.
pub(super) fn ending(tally: &Tally) -> String {
    let used = tally.so_far();
    let (input, output) = (used.input_side(), used.output.saturating_sub(used.reasoning));
    let content = json!({"role": "model", "parts": [{"text": ""}]});
    json!({
        "candidates": [{"content": content, "finishReason": "MAX_TOKENS", "index": 0}],
        "usageMetadata": {
            "promptTokenCount": input,
            "candidatesTokenCount": output,
            "thoughtsTokenCount": used.reasoning,
            "totalTokenCount": input + used.output,
        },
        "modelVersion": tally.model,
        "responseId": tally.id,
    })
    .to_string()
}

/// Reads a usage object. Cached tokens are part of the prompt; thoughts come on top of the candidates, and what tools put
/// into the prompt comes on top of the prompt.
fn read(object: &[u8]) -> Usage {
    let count = |key: &str| json::find(object, key).and_then(json::count).unwrap_or_default();
    let (prompt, cached, thoughts) = (
        count("promptTokenCount"),
        count("cachedContentTokenCount"),
        count("thoughtsTokenCount"),
    );
    let audio = |key: &str| json::find(object, key).map_or(0, audio);
    Usage {
        input: prompt
            .saturating_sub(cached)
            .saturating_add(count("toolUsePromptTokenCount")),
        cache_read: cached,
        output: count("candidatesTokenCount").saturating_add(thoughts),
        reasoning: thoughts,
        audio_input: audio("promptTokensDetails").saturating_sub(audio("cacheTokensDetails")),
        audio_output: audio("candidatesTokensDetails"),
        ..Usage::default()
    }
}

/// The audio in a list of `{modality, tokenCount}`.
fn audio(details: &[u8]) -> u64 {
    json::elements(details)
        .filter(|detail| json::find(detail, "modality") == Some(br#""AUDIO""#))
        .filter_map(|detail| json::count(json::find(detail, "tokenCount")?))
        .fold(0, u64::saturating_add)
}
