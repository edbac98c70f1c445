//! What a story asks a biller for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Ask, Dialect};

/// Bytes that the gateway takes for a token of the question, by its defaults; the biller counts the same.
pub(super) const BYTES_PER_TOKEN: u64 = 3;

/// A call for so many tokens. Its model is one of its own, by which its row in the ledger is found.
#[derive(Clone, Debug)]
pub struct Order {
    pub dialect: Dialect,
    pub model: String,
    tokens: u64,
    gap: Duration,
    at_most: Option<u64>,
    streams: bool,
}

impl Order {
    /// A stream of so many tokens, which the request does not limit.
    pub fn of(dialect: Dialect, tokens: u64) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        Self {
            dialect,
            model: format!("storyteller-{number:07}"),
            tokens,
            gap: Duration::ZERO,
            at_most: None,
            streams: true,
        }
    }

    /// With so long a pause before each token.
    pub fn every(mut self, gap: Duration) -> Self {
        self.gap = gap;
        self
    }

    /// With a limit on the tokens of the answer.
    pub fn at_most(mut self, tokens: u64) -> Self {
        self.at_most = Some(tokens);
        self
    }

    /// In one piece instead of a stream.
    pub fn whole(mut self) -> Self {
        self.streams = false;
        self
    }

    /// The call, with a proxy token.
    pub fn ask(&self, token: &str) -> Ask {
        let ask = Ask::post(&self.path()).json(&self.body());
        self.dialect.authorize(ask, token)
    }

    /// What the gateway takes for the question, and the biller bills for it.
    pub fn input(&self) -> u64 {
        (self.body().to_string().len() as u64).div_ceil(BYTES_PER_TOKEN)
    }

    /// What the gateway reserves for it, where it says how long its answer may be.
    pub fn reserved(&self) -> u64 {
        self.input() + self.at_most.expect("a limit on the answer")
    }

    fn path(&self) -> String {
        let call = if self.streams {
            "streamGenerateContent?alt=sse"
        } else {
            "generateContent"
        };
        match self.dialect {
            Dialect::Google => format!("/v1beta/models/{}:{call}", self.model),
            other => other.path().to_owned(),
        }
    }

    fn body(&self) -> Value {
        let Self {
            dialect, model, tokens, ..
        } = self;
        let text = format!("write {tokens} tokens every {} ms", self.gap.as_millis());
        if *dialect == Dialect::Google {
            let config = self.at_most.map_or(json!({}), |most| json!({"maxOutputTokens": most}));
            return json!({"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": config});
        }
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": text}]});
        if let Some(most) = self.at_most {
            body["max_tokens"] = json!(most);
        }
        if self.streams {
            body["stream"] = json!(true);
        }
        if self.streams && *dialect == Dialect::OpenAi {
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }
}
