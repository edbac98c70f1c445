//! The three APIs, as far as the stories are the same in each.

use serde_json::{Value, json};

use crate::Ask;

/// The APIs that the gateway speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    OpenAi,
    Anthropic,
    Google,
}

impl Dialect {
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Anthropic, Self::Google];

    /// The provider's name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Google => "google",
        }
    }

    /// The real key that a world stores for it.
    pub fn key(self) -> &'static str {
        match self {
            Self::OpenAi => "sk-real-openai-0123456789abcdef",
            Self::Anthropic => "sk-ant-real-0123456789abcdef",
            Self::Google => "AIzaReal0123456789abcdef",
        }
    }

    /// The header that carries the real key, and what comes before the key in it.
    pub fn credential(self) -> (&'static str, &'static str) {
        match self {
            Self::OpenAi => ("authorization", "Bearer "),
            Self::Anthropic => ("x-api-key", ""),
            Self::Google => ("x-goog-api-key", ""),
        }
    }

    /// The path of its main call.
    pub fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/chat/completions",
            Self::Anthropic => "/v1/messages",
            Self::Google => "/v1beta/models/gemini-2.5-pro:generateContent",
        }
    }

    /// The path of its main call where the answer is to be a stream of events.
    pub fn streaming_path(self) -> &'static str {
        match self {
            Self::Google => "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            other => other.path(),
        }
    }

    /// A small body for its main call.
    pub fn body(self) -> Value {
        match self {
            Self::OpenAi => json!({"model": "gpt-5.5", "messages": [{"role": "user", "content": "hi"}]}),
            Self::Anthropic => {
                json!({"model": "claude-opus-5-5", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}]})
            }
            Self::Google => json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}),
        }
    }

    /// A main call without a credential.
    pub fn ask(self) -> Ask {
        self.post(self.path(), &self.body())
    }

    fn post(self, path: &str, body: &Value) -> Ask {
        let ask = Ask::post(path).json(body);
        if self == Self::Anthropic {
            ask.header("anthropic-version", "2023-06-01")
        } else {
            ask
        }
    }

    /// A main call without a credential that asks for a stream, and needs no help from the gateway to be metered.
    pub fn streaming_ask(self) -> Ask {
        let mut body = self.body();
        if self != Self::Google {
            body["stream"] = json!(true);
        }
        if self == Self::OpenAi {
            body["stream_options"] = json!({"include_usage": true});
        }
        self.post(self.streaming_path(), &body)
    }

    /// The request with this credential, where this dialect's clients put it.
    pub fn authorize(self, ask: Ask, token: &str) -> Ask {
        let (name, prefix) = self.credential();
        ask.header(name, format!("{prefix}{token}"))
    }

    /// The one credential that its provider must see: the real key, where this dialect has it.
    pub fn injected(self) -> Vec<(String, String)> {
        let (name, prefix) = self.credential();
        vec![(name.to_owned(), format!("{prefix}{}", self.key()))]
    }

    /// The base URL to store for a provider at this address.
    pub fn base_url(self, provider: &str) -> String {
        match self {
            Self::OpenAi => format!("{provider}/v1"),
            _ => provider.to_owned(),
        }
    }

    /// Whether a stream has come to its protocol's own end.
    pub fn has_ended(self, text: &str) -> bool {
        match self {
            Self::OpenAi => text.trim_end().ends_with("data: [DONE]"),
            Self::Anthropic => text.contains("event: message_stop"),
            Self::Google => text.contains("\"finishReason\""),
        }
    }

    /// Whether a stream ends as one does that has reached its token limit.
    pub fn is_at_its_limit(self, text: &str) -> bool {
        let reason = match self {
            Self::OpenAi => "\"finish_reason\":\"length\"",
            Self::Anthropic => "\"stop_reason\":\"max_tokens\"",
            Self::Google => "\"finishReason\":\"MAX_TOKENS\"",
        };
        self.has_ended(text) && text.matches(reason).count() == 1
    }
}
