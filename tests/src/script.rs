//! What a scripted provider does when it is asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Notify;

use crate::ask::chunk;

/// One thing that the provider does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes exactly these bytes.
    Send(Bytes),
    Wait(Duration),
    /// Waits until the story says so.
    UntilTold(Arc<Notify>),
    /// Says nothing until the other side goes.
    Silence,
    /// Closes the connection in the regular way.
    Close,
    /// Resets the connection.
    Reset,
}

/// What the provider does for one request, in order. It keeps the connection afterwards unless a step ends it.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub(crate) steps: Vec<Step>,
    pub(crate) before_body: bool,
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    /// An answer of exactly these bytes.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::new().send(bytes)
    }

    /// A whole answer with `content-length`.
    pub fn answer(status: u16, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head = format!(
            "HTTP/1.1 {status} Scripted\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self::raw([head.as_bytes(), body].concat())
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::answer(status, "application/json", body.to_string())
    }

    /// The head of a stream of server-sent events; chunks follow.
    pub fn stream() -> Self {
        Self::raw(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n",
        )
    }

    /// A stream of these events, one chunk each, `gap` apart, with its regular end.
    pub fn events<T: AsRef<[u8]>>(events: impl IntoIterator<Item = T>, gap: Duration) -> Self {
        events
            .into_iter()
            .fold(Self::stream(), |script, event| script.chunk(event).wait(gap))
            .last_chunk()
    }

    pub fn send(self, bytes: impl Into<Bytes>) -> Self {
        self.step(Step::Send(bytes.into()))
    }

    /// Sends one chunk of a chunked body.
    pub fn chunk(self, bytes: impl AsRef<[u8]>) -> Self {
        self.send(chunk(bytes.as_ref()))
    }

    pub fn last_chunk(self) -> Self {
        self.send(&b"0\r\n\r\n"[..])
    }

    pub fn wait(self, time: Duration) -> Self {
        if time.is_zero() {
            self
        } else {
            self.step(Step::Wait(time))
        }
    }

    /// Goes on when the story tells it to: what a time to wait could only hope for has happened then.
    pub fn until_told(self, told: &Arc<Notify>) -> Self {
        self.step(Step::UntilTold(Arc::clone(told)))
    }

    pub fn silence(self) -> Self {
        self.step(Step::Silence)
    }

    pub fn close(self) -> Self {
        self.step(Step::Close)
    }

    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    /// Plays as soon as the head of the request is there, without reading its body.
    pub fn before_body(mut self) -> Self {
        self.before_body = true;
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

/// Numbered server-sent events without a dialect.
pub fn events(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("data: {{\"n\":{n}}}\n\n")).collect()
}
