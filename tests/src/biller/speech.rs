//! What a biller reads in a request, and what it says in the three dialects.

use std::time::Duration;

use serde_json::{Value, json};

use super::order::BYTES_PER_TOKEN;
use crate::Dialect;
use crate::framing::Head;

/// A token's text: as many bytes as the gateway takes for a token where it has to estimate.
const TOKEN: &str = "tok ";
/// The model that serves, whichever was asked for.
const MODEL: &str = "storyteller";

/// What one request comes to.
#[derive(Debug)]
pub(super) struct Job {
    pub dialect: Dialect,
    pub model: String,
    pub input: u64,
    pub output: u64,
    /// Whether the request's own limit ends the answer.
    pub is_cut: bool,
    pub gap: Duration,
    pub streams: bool,
}

impl Job {
    pub fn of(head: &Head, body: &[u8]) -> Self {
        let target = head.first.split(' ').nth(1).unwrap_or_default();
        let dialect = match target {
            target if target.contains(":generateContent") || target.contains(":streamGenerateContent") => {
                Dialect::Google
            }
            target if target.ends_with("/messages") => Dialect::Anthropic,
            _ => Dialect::OpenAi,
        };
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = String::from_utf8_lossy(body);
        let wanted = number_after(&text, "write ");
        let most = [
            &json["max_tokens"],
            &json["max_completion_tokens"],
            &json["generationConfig"]["maxOutputTokens"],
        ];
        let most = most.into_iter().find_map(Value::as_u64).unwrap_or(u64::MAX);
        let model = match dialect {
            Dialect::Google => model_in(target),
            _ => json["model"].as_str().unwrap_or_default(),
        };
        Self {
            dialect,
            model: model.to_owned(),
            input: (body.len() as u64).div_ceil(BYTES_PER_TOKEN),
            output: wanted.min(most),
            is_cut: wanted > most,
            gap: Duration::from_millis(number_after(&text, "every ")),
            streams: json["stream"] == true || target.contains(":stream"),
        }
    }
}

fn model_in(target: &str) -> &str {
    let (_, after) = target.split_once("/models/").unwrap_or_default();
    after.split(':').next().unwrap_or_default()
}

/// The number after some words; 0 where they are not there.
fn number_after(text: &str, words: &str) -> u64 {
    let (_, after) = text.split_once(words).unwrap_or_default();
    let digits = after.split(|other: char| !other.is_ascii_digit()).next();
    digits.unwrap_or_default().parse().unwrap_or(0)
}

/// An answer in the words of its dialect.
pub(super) struct Speech<'j> {
    job: &'j Job,
    id: &'j str,
}

impl<'j> Speech<'j> {
    pub fn new(job: &'j Job, id: &'j str) -> Self {
        Self { job, id }
    }

    /// The head of a stream.
    pub fn head(&self) -> String {
        let framing = "content-type: text/event-stream\r\ntransfer-encoding: chunked";
        format!(
            "HTTP/1.1 200 OK\r\n{}: {}\r\n{framing}\r\n\r\n",
            self.id_header(),
            self.id
        )
    }

    fn id_header(&self) -> &'static str {
        match self.job.dialect {
            Dialect::Anthropic => "request-id",
            _ => "x-request-id",
        }
    }

    /// What comes before the first token.
    pub fn begin(&self) -> String {
        match self.job.dialect {
            Dialect::OpenAi => self.chunk(json!({"role": "assistant", "content": ""}), Value::Null),
            Dialect::Google => String::new(),
            Dialect::Anthropic => {
                let usage = json!({"input_tokens": self.job.input, "output_tokens": 0});
                let message = json!({"id": self.id, "type": "message", "role": "assistant", "model": MODEL, "content": [],
                    "stop_reason": null, "stop_sequence": null, "usage": usage});
                let block = json!({"type": "text", "text": ""});
                named(json!({"type": "message_start", "message": message}))
                    + &named(json!({"type": "content_block_start", "index": 0, "content_block": block}))
            }
        }
    }

    /// Token number `n`, counted from 1.
    pub fn token(&self, n: u64) -> String {
        match self.job.dialect {
            Dialect::OpenAi => self.chunk(json!({"content": TOKEN}), Value::Null),
            Dialect::Anthropic => {
                let delta = json!({"type": "text_delta", "text": TOKEN});
                named(json!({"type": "content_block_delta", "index": 0, "delta": delta}))
            }
            Dialect::Google => {
                let mut content = self.content(TOKEN, n);
                if n == self.job.output {
                    content["candidates"][0]["finishReason"] = json!(self.reason());
                }
                format!("data: {content}\r\n\r\n")
            }
        }
    }

    /// What comes after the last token, with the usage.
    pub fn end(&self) -> String {
        match self.job.dialect {
            Dialect::OpenAi => {
                let usage = json!({"id": self.id, "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [],
                    "usage": self.usage()});
                let finish = self.chunk(json!({}), json!(self.reason()));
                format!("{finish}data: {usage}\n\ndata: [DONE]\n\n")
            }
            Dialect::Anthropic => {
                let delta = json!({"stop_reason": self.reason(), "stop_sequence": null});
                named(json!({"type": "content_block_stop", "index": 0}))
                    + &named(
                        json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": self.job.output}}),
                    )
                    + &named(json!({"type": "message_stop"}))
            }
            Dialect::Google => String::new(),
        }
    }

    /// An answer that is no stream, head and all.
    pub fn whole(&self) -> String {
        let text = TOKEN.repeat(usize::try_from(self.job.output).unwrap_or_default());
        let body = match self.job.dialect {
            Dialect::OpenAi => {
                let message = json!({"role": "assistant", "content": text});
                let choice = json!({"index": 0, "message": message, "finish_reason": self.reason()});
                json!({"id": self.id, "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice],
                    "usage": self.usage()})
            }
            Dialect::Anthropic => json!({"id": self.id, "type": "message", "role": "assistant", "model": MODEL,
                "content": [{"type": "text", "text": text}], "stop_reason": self.reason(), "stop_sequence": null,
                "usage": {"input_tokens": self.job.input, "output_tokens": self.job.output}}),
            Dialect::Google => {
                let mut content = self.content(&text, self.job.output);
                content["candidates"][0]["finishReason"] = json!(self.reason());
                content
            }
        }
        .to_string();
        let (name, id, length) = (self.id_header(), self.id, body.len());
        let framing = format!("content-type: application/json\r\ncontent-length: {length}");
        format!("HTTP/1.1 200 OK\r\n{name}: {id}\r\n{framing}\r\n\r\n{body}")
    }

    fn reason(&self) -> &'static str {
        match (self.job.dialect, self.job.is_cut) {
            (Dialect::OpenAi, false) => "stop",
            (Dialect::OpenAi, true) => "length",
            (Dialect::Anthropic, false) => "end_turn",
            (Dialect::Anthropic, true) => "max_tokens",
            (Dialect::Google, false) => "STOP",
            (Dialect::Google, true) => "MAX_TOKENS",
        }
    }

    fn usage(&self) -> Value {
        let Job { input, output, .. } = self.job;
        json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
    }

    fn chunk(&self, delta: Value, finish: Value) -> String {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        let chunk = json!({"id": self.id, "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]});
        format!("data: {chunk}\n\n")
    }

    /// Google's, which tells the usage so far in every piece.
    fn content(&self, text: &str, written: u64) -> Value {
        let input = self.job.input;
        let content = json!({"role": "model", "parts": [{"text": text}]});
        json!({"candidates": [{"index": 0, "content": content}], "modelVersion": MODEL, "responseId": self.id,
            "usageMetadata": {"promptTokenCount": input, "candidatesTokenCount": written, "totalTokenCount": input + written}})
    }
}

/// An event with the name that is also its type.
fn named(data: Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}
