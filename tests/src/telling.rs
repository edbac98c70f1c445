//! What a dialect's stream tells: made up for a provider to say, and read the way a strict client reads it.

use serde_json::{Value, json};

use crate::Dialect;

/// The text of each piece of [`Dialect::telling`]; its bytes are five tokens by the estimate.
pub const PIECE: &str = "twenty bytes of text";

/// A stream that has come to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub text: String,
    /// Why it ended, in the dialect's word.
    pub reason: String,
    /// The comments in it.
    pub comments: Vec<String>,
}

impl Dialect {
    /// The events of a whole answer with so many [`PIECE`]s and these figures.
    pub fn telling(self, pieces: usize, input: u64, output: u64) -> Vec<String> {
        let mut events = Vec::new();
        match self {
            Self::OpenAi => {
                let chunk = |choices: Value, usage: Value| {
                    let chunk = json!({"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m",
                        "choices": choices, "usage": usage});
                    format!("data: {chunk}\n\n")
                };
                let choice =
                    |delta: Value, reason: Value| json!([{"index": 0, "delta": delta, "finish_reason": reason}]);
                let piece = choice(json!({"content": PIECE}), Value::Null);
                events.extend((0..pieces).map(|_| chunk(piece.clone(), Value::Null)));
                events.push(chunk(choice(json!({}), json!("stop")), Value::Null));
                let usage = json!({"prompt_tokens": input, "completion_tokens": output});
                events.push(chunk(json!([]), usage));
                events.push("data: [DONE]\n\n".to_owned());
            }
            Self::Anthropic => {
                let mut push = |event: Value| {
                    let name = event["type"].as_str().unwrap_or_default();
                    events.push(format!("event: {name}\ndata: {event}\n\n"));
                };
                let usage = json!({"input_tokens": input, "output_tokens": 1});
                push(json!({"type": "message_start", "message": {"id": "m1", "model": "m", "usage": usage}}));
                let block = json!({"type": "text", "text": ""});
                push(json!({"type": "content_block_start", "index": 0, "content_block": block}));
                let delta = json!({"type": "text_delta", "text": PIECE});
                (0..pieces)
                    .for_each(|_| push(json!({"type": "content_block_delta", "index": 0, "delta": delta.clone()})));
                push(json!({"type": "content_block_stop", "index": 0}));
                let delta = json!({"stop_reason": "end_turn", "stop_sequence": null});
                push(json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}}));
                push(json!({"type": "message_stop"}));
            }
            Self::Google => {
                let event = |candidate: Value, rest: Value| {
                    let mut event = json!({"candidates": [candidate], "modelVersion": "m", "responseId": "r1"});
                    if rest.is_object() {
                        event["usageMetadata"] = rest;
                    }
                    format!("data: {event}\r\n\r\n")
                };
                let content = json!({"role": "model", "parts": [{"text": PIECE}]});
                let piece = json!({"content": content, "index": 0});
                events.extend((0..pieces).map(|_| event(piece.clone(), Value::Null)));
                let usage = json!({"promptTokenCount": input, "candidatesTokenCount": output,
                    "totalTokenCount": input + output});
                let last = json!({"content": {"role": "model"}, "finishReason": "STOP", "index": 0});
                events.push(event(last, usage));
            }
        }
        events
    }

    /// Reads a stream of the dialect's main call as its own SDK does, which takes it for a whole answer or fails.
    ///
    /// # Panics
    /// When an SDK would fail: on an event that is none, out of order, or missing at the end.
    #[track_caller]
    pub fn reads(self, stream: &str) -> Told {
        let mut told = Told::default();
        let mut events = Vec::new();
        let stream = stream.replace("\r\n", "\n");
        let whole = stream
            .strip_suffix("\n\n")
            .unwrap_or_else(|| panic!("it ends within an event: {stream}"));
        for event in whole.split("\n\n") {
            let lines: Vec<_> = event.lines().collect();
            let comments = lines.iter().filter_map(|line| line.strip_prefix(": "));
            told.comments.extend(comments.map(str::to_owned));
            let field = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let Some(data) = field("data: ") {
                events.push((field("event: ").unwrap_or_default(), data));
            }
        }
        match self {
            Self::OpenAi => read_openai(&mut told, &events),
            Self::Anthropic => read_anthropic(&mut told, &events),
            Self::Google => read_google(&mut told, &events),
        }
        assert!(!told.reason.is_empty(), "nothing says why it ended: {stream}");
        told
    }
}

type Events = [(String, String)];

#[track_caller]
fn parsed(data: &str) -> Value {
    serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"))
}

#[track_caller]
fn read_openai(told: &mut Told, events: &Events) {
    let Some(((_, done), chunks)) = events.split_last() else {
        panic!("an empty stream");
    };
    assert_eq!(done, "[DONE]", "the last event");
    for (_, data) in chunks {
        let chunk = parsed(data);
        assert_eq!(chunk["object"], "chat.completion.chunk", "{chunk}");
        for choice in chunk["choices"].as_array().expect("choices") {
            assert!(told.reason.is_empty(), "more after the end of the choice: {chunk}");
            assert!(choice["delta"].is_object() && choice["index"].is_u64(), "{chunk}");
            told.text
                .push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            told.reason
                .push_str(choice["finish_reason"].as_str().unwrap_or_default());
        }
    }
}

#[track_caller]
fn read_anthropic(told: &mut Told, events: &Events) {
    let (mut begun, mut open, mut ended) = (false, None, false);
    for (name, data) in events {
        let event = parsed(data);
        assert_eq!(event["type"], name.as_str(), "the event's name is its type");
        assert!(!ended, "more after the end: {event}");
        assert!(
            begun || name == "message_start" || name == "ping",
            "out of order: {event}"
        );
        match name.as_str() {
            "message_start" => assert!(!std::mem::replace(&mut begun, true), "twice: {event}"),
            "content_block_start" => assert_eq!(open.replace(event["index"].clone()), None, "{event}"),
            "content_block_delta" => {
                assert_eq!(open.as_ref(), Some(&event["index"]), "{event}");
                told.text.push_str(event["delta"]["text"].as_str().unwrap_or_default());
            }
            "content_block_stop" => assert_eq!(open.take().as_ref(), Some(&event["index"]), "{event}"),
            "message_delta" => {
                assert_eq!(open, None, "a block is still open: {event}");
                assert!(event["usage"]["output_tokens"].is_u64(), "{event}");
                told.reason
                    .push_str(event["delta"]["stop_reason"].as_str().unwrap_or_default());
            }
            "message_stop" => ended = true,
            "ping" => {}
            other => panic!("an unknown event: {other}"),
        }
    }
    assert!(ended, "it has no end");
}

#[track_caller]
fn read_google(told: &mut Told, events: &Events) {
    assert_eq!(told.comments, [""; 0], "its clients fail on comments");
    for (_, data) in events {
        let event = parsed(data);
        let candidate = &event["candidates"][0];
        assert!(told.reason.is_empty(), "more after the end: {event}");
        told.text
            .push_str(candidate["content"]["parts"][0]["text"].as_str().unwrap_or_default());
        told.reason
            .push_str(candidate["finishReason"].as_str().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_answer_is_read_and_a_part_of_it_is_not() {
        for (dialect, reason) in [
            (Dialect::OpenAi, "stop"),
            (Dialect::Anthropic, "end_turn"),
            (Dialect::Google, "STOP"),
        ] {
            let events = dialect.telling(3, 11, 40);
            let told = dialect.reads(&events.concat());
            assert_eq!((told.text, told.reason.as_str()), (PIECE.repeat(3), reason));
            let part = events[..events.len() - 1].concat();
            assert!(
                std::panic::catch_unwind(|| dialect.reads(&part)).is_err(),
                "{dialect:?}"
            );
        }
    }
}
