//! What the dialects share: the call they read, the answer they give, the words and tokens it is made of.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

/// A request as the dialects read it.
pub struct Call {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    /// The body as JSON; none where it is empty or something else.
    pub body: Option<Value>,
    pub bytes: u64,
    /// Counts the calls of this provider: what its ids are made of.
    pub number: u64,
    pub now_s: u64,
}

impl Call {
    pub fn field(&self, name: &str) -> &Value {
        self.body.as_ref().map_or(&Value::Null, |body| &body[name])
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    pub fn has_json_type(&self) -> bool {
        self.header("content-type").contains("json")
    }

    /// The value of a query parameter, not percent-decoded: ours need none.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// An id in the provider's style, unique within one run.
    pub fn id(&self, prefix: &str) -> String {
        format!("{prefix}{:08x}{:016x}", self.now_s, self.number)
    }
}

/// An answer before it is put on the wire.
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

enum Body {
    Json(Value),
    Chunks(&'static str, Vec<String>),
}

impl Answer {
    pub fn json(status: u16, value: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Json(value),
        }
    }

    /// A server-sent-event stream; each item is one whole event.
    pub fn events(events: Vec<String>) -> Self {
        let headers = vec![("cache-control", "no-cache".to_owned())];
        Self {
            status: 200,
            headers,
            body: Body::Chunks("text/event-stream; charset=utf-8", events),
        }
    }

    /// A JSON document in pieces, as Gemini streams without `alt=sse`.
    pub fn json_pieces(pieces: Vec<String>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: Body::Chunks("application/json; charset=UTF-8", pieces),
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn into_response(self, chunk_delay: Duration) -> Response<BoxBody<Bytes, io::Error>> {
        let (content_type, body) = match self.body {
            Body::Json(value) => ("application/json", whole(value.to_string())),
            Body::Chunks(content_type, chunks) => (content_type, slowly(chunks, chunk_delay)),
        };
        let mut response = Response::builder()
            .status(self.status)
            .header(header::CONTENT_TYPE, content_type);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        response.body(body).unwrap_or_else(|_| internal_error())
    }
}

fn whole(text: String) -> BoxBody<Bytes, io::Error> {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

fn slowly(chunks: Vec<String>, delay: Duration) -> BoxBody<Bytes, io::Error> {
    let frames = stream::iter(chunks).then(move |chunk| async move {
        tokio::time::sleep(delay).await;
        Ok(Frame::data(Bytes::from(chunk)))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

/// For a header value that HTTP does not allow, which only a mistake here can make.
fn internal_error() -> Response<BoxBody<Bytes, io::Error>> {
    let mut response = Response::new(whole(String::new()));
    *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// One event of a stream: `event:` line where the dialect has them, then the data.
pub fn event(name: Option<&str>, data: &Value) -> String {
    match name {
        Some(name) => format!("event: {name}\ndata: {data}\n\n"),
        None => format!("data: {data}\n\n"),
    }
}

/// What the simulated model says.
pub fn reply(prompt: &str) -> String {
    let asked: String = prompt
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(80)
        .collect();
    format!(
        "Hello from the simulated provider. You said: \u{201c}{asked}\u{201d}. This answer came through ACE Gateway: \
         your client sent a short-lived proxy token, the provider saw its own key, and every token was counted once."
    )
}

/// The reply in the pieces in which a model would stream it.
pub fn pieces(text: &str) -> Vec<&str> {
    text.split_inclusive(' ').collect()
}

/// The last text that a user wrote, in a message's content of either form (text, or a list of parts).
pub fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .rev()
            .find_map(|part| part["text"].as_str())
            .unwrap_or_default()
            .to_owned(),
        _ => String::new(),
    }
}

/// The last entry of a conversation whose `role` is the user's; Gemini leaves the role out of a single turn.
pub fn last_user<'a>(turns: &'a Value, content: &str) -> Option<&'a Value> {
    let turns = turns.as_array()?;
    let is_user = |turn: &&Value| turn["role"].as_str().is_none_or(|role| role == "user");
    turns.iter().rev().find(is_user).map(|turn| &turn[content])
}

/// What an answer costs. `cached` is part of `input`; `reasoning` is not part of `output`.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    pub input: u64,
    pub cached: u64,
    pub output: u64,
    pub reasoning: u64,
}

impl Tokens {
    pub fn of(prompt: &Value, text: &str, reasons: bool) -> Self {
        let input = count(&prompt.to_string());
        let output = count(text);
        // Providers cache prefixes from 1,024 tokens on, in steps of 128.
        let cached = if input < 1024 { 0 } else { (input - 256) / 128 * 128 };
        Self {
            input,
            cached,
            output,
            reasoning: if reasons { 64 + input % 64 } else { 0 },
        }
    }

    pub fn total(self) -> u64 {
        self.input + self.output + self.reasoning
    }
}

/// Four characters a token: the rule of thumb that the providers themselves publish.
pub fn count(text: &str) -> u64 {
    (text.chars().count() as u64).div_ceil(4).max(1)
}

/// A unit vector, made of the text so that equal texts have equal embeddings.
pub fn embedding(text: &str, dimensions: usize) -> Vec<f32> {
    let mut state = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let mut values: Vec<f32> = (0..dimensions)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let length = values
        .iter()
        .map(|value| value * value)
        .sum::<f32>()
        .sqrt()
        .max(f32::EPSILON);
    values.iter_mut().for_each(|value| *value /= length);
    values
}
