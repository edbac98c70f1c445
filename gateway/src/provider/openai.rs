//! OpenAI's dialect: chat completions, Responses and what is shaped like them (embeddings, images, transcriptions).

use ace_policies::usage::Usage;
use serde_json::json;

use super::tally::Tally;
use crate::json::{self, Members};
use crate::route::Api;
use crate::sse::Event;

/// The members of a whole answer that tell something.
pub(super) const WANTED: &[&str] = &["usage", "model", "service_tier", "error"];

/// The events that end a Responses stream.
const ENDS: [&[u8]; 3] = [
    br#""response.completed""#,
    br#""response.incomplete""#,
    br#""response.failed""#,
];

/// Reads one event of a stream.
pub(super) fn event(tally: &mut Tally, event: Event<'_>) {
    if event.data == b"[DONE]" {
        tally.ended = true;
        return;
    }
    let Some(members) = Members::of(event.data) else { return };
    let (mut has_choice, mut finished) = (false, false);
    let (mut usage, mut kind): (_, &[u8]) = (None, b"");
    for member in members.map_while(Result::ok) {
        let value = &event.data[member.value];
        match &event.data[member.key] {
            b"choices" => {
                has_choice = !matches!(json::first_of(value), None | Some(b']'));
                json::strings(value, |key, text| {
                    tally.text_bytes += if is_text(key) { text.len() as u64 } else { 0 };
                    finished |= key == b"finish_reason";
                });
            }
            b"delta" if value.starts_with(b"\"") => tally.text_bytes += value.len() as u64 - 2,
            b"usage" if value.starts_with(b"{") => usage = Some(value),
            b"type" => kind = value,
            b"response" => response(tally, value),
            b"sequence_number" => tally.sequence = json::count(value).unwrap_or_default(),
            b"created" if tally.created == 0 => tally.created = json::count(value).unwrap_or_default(),
            key => member_of_answer(tally, key, value),
        }
    }
    if let Some(object) = usage {
        tally.tell(read(object));
        // Some servers tell the usage so far in every chunk.
        tally.is_final = finished || !has_choice;
    }
    tally.ended |= finished || ENDS.contains(&kind);
    if kind == br#""error""# {
        tally.learn_error(json::find(event.data, "code"));
    }
}

/// Reads a member of a whole answer, or of an event.
pub(super) fn member_of_answer(tally: &mut Tally, key: &[u8], value: &[u8]) {
    match key {
        b"model" => tally.learn_model(value),
        b"id" => tally.learn_id(value),
        b"service_tier" => tally.learn_tier(value),
        b"usage" if value.starts_with(b"{") => {
            tally.tell(read(value));
            tally.is_final = true;
        }
        b"error" if value != b"null" => tally.learn_error(json::find(value, "type").or(json::find(value, "code"))),
        _ => {}
    }
}

/// Keys of generated text, whose bytes an estimate goes by.
pub(super) fn is_text(key: &[u8]) -> bool {
    matches!(
        key,
        b"content" | b"reasoning_content" | b"reasoning" | b"refusal" | b"arguments" | b"text" | b"input"
    )
}

/// What ends a stream that a budget stopped, as the provider ends one at its token limit.
pub(super) fn ending(tally: &Tally, api: Api) -> Vec<u8> {
    let (id, model) = (
        tally.id.as_deref().unwrap_or_default(),
        tally.model.as_deref().unwrap_or_default(),
    );
    if api == Api::OpenAiResponses {
        let used = tally.so_far();
        let input = used.input_side();
        let event = json!({"type": "response.incomplete", "sequence_number": tally.sequence + 1, "response": {
            "id": id, "object": "response", "created_at": tally.created, "status": "incomplete", "error": null,
            "incomplete_details": {"reason": "max_output_tokens"}, "model": model, "output": [],
            "usage": {
                "input_tokens": input, "input_tokens_details": {"cached_tokens": used.cache_read},
                "output_tokens": used.output, "output_tokens_details": {"reasoning_tokens": used.reasoning},
                "total_tokens": input + used.output,
            },
        }});
        return format!("event: response.incomplete\ndata: {event}\n\n").into_bytes();
    }
    let (object, choice) = match api {
        Api::OpenAiCompletions => (
            "text_completion",
            json!({"index": 0, "text": "", "logprobs": null, "finish_reason": "length"}),
        ),
        _ => (
            "chat.completion.chunk",
            json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"}),
        ),
    };
    let chunk = json!({"id": id, "object": object, "created": tally.created, "model": model, "choices": [choice]});
    format!("data: {chunk}\n\ndata: [DONE]\n\n").into_bytes()
}

/// A Responses event's `response`: in the last one with its usage.
fn response(tally: &mut Tally, response: &[u8]) {
    let Some(members) = Members::of(response) else { return };
    for member in members.map_while(Result::ok) {
        let value = &response[member.value];
        match &response[member.key] {
            b"created_at" => tally.created = json::count(value).unwrap_or_default(),
            key => member_of_answer(tally, key, value),
        }
    }
}

/// Reads a usage object in the words of chat (`prompt_tokens`), of Responses (`input_tokens`) or of Realtime and
/// transcriptions (`input_token_details`). Tokens read from the cache or written to it are part of the prompt, reasoning and
/// audio are part of what they stand in; cached audio is in the cache's figure.
///
/// Writing is told and billed since GPT-5.6 (<https://developers.openai.com/api/docs/guides/prompt-caching>). It has one price, and
/// goes with the writes for five minutes.
pub(super) fn read(object: &[u8]) -> Usage {
    let (mut told, mut input, mut output) = (Told::default(), Details::default(), Details::default());
    for (key, value) in members(object) {
        match key {
            b"prompt_tokens" => told.prompt[0] = json::count(value),
            b"input_tokens" => told.prompt[1] = json::count(value),
            b"completion_tokens" => told.completion[0] = json::count(value),
            b"output_tokens" => told.completion[1] = json::count(value),
            // DeepSeek's and Moonshot's words.
            b"prompt_cache_hit_tokens" => told.cached[0] = json::count(value),
            b"cached_tokens" => told.cached[1] = json::count(value),
            b"prompt_tokens_details" | b"input_tokens_details" | b"input_token_details" => input.read(value),
            b"completion_tokens_details" | b"output_tokens_details" | b"output_token_details" => output.read(value),
            _ => {}
        }
    }
    let first = |figures: [Option<u64>; 2]| figures.into_iter().flatten().next();
    let cached = input.cached.or(first(told.cached)).unwrap_or_default();
    let written = input.written.unwrap_or_default();
    let elsewhere = cached.saturating_add(written);
    Usage {
        input: first(told.prompt).unwrap_or_default().saturating_sub(elsewhere),
        cache_read: cached,
        cache_write_5m: written,
        output: first(told.completion).unwrap_or_default(),
        reasoning: output.reasoning.unwrap_or_default(),
        audio_input: input
            .audio
            .unwrap_or_default()
            .saturating_sub(input.cached_audio.unwrap_or_default()),
        audio_output: output.audio.unwrap_or_default(),
        ..Usage::default()
    }
}

/// Figures that go by several names, the better known name first.
#[derive(Default)]
struct Told {
    prompt: [Option<u64>; 2],
    completion: [Option<u64>; 2],
    cached: [Option<u64>; 2],
}

/// What the figures of one side are made of.
#[derive(Default)]
struct Details {
    cached: Option<u64>,
    written: Option<u64>,
    audio: Option<u64>,
    cached_audio: Option<u64>,
    reasoning: Option<u64>,
}

impl Details {
    fn read(&mut self, object: &[u8]) {
        for (key, value) in members(object) {
            match key {
                b"cached_tokens" => self.cached = json::count(value),
                b"cache_write_tokens" => self.written = json::count(value),
                b"audio_tokens" => self.audio = json::count(value),
                b"reasoning_tokens" => self.reasoning = json::count(value),
                b"cached_tokens_details" => self.cached_audio = json::find(value, "audio_tokens").and_then(json::count),
                _ => {}
            }
        }
    }
}

/// The members of an object, read once: a look-up for each figure would read it a dozen times.
fn members(object: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let members = Members::of(object).into_iter().flatten().map_while(Result::ok);
    members.map(|member| (&object[member.key], &object[member.value]))
}
