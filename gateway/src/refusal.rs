//! What the gateway answers in a provider's place: one reason, told in the dialect of the API that was called, because
//! a CLI shows the message of its own provider's error shape and prints anything else raw.

use ace_policies::provider::Provider;
use http::StatusCode;
use serde_json::{Value, json};

use crate::route::PathRefusal;

/// Everything the data plane says no for. The status and the words follow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token is missing, malformed, expired or revoked; which of them, nobody is told.
    Auth,
    /// The token or a policy does not allow it; the sentence says what.
    Permission(String),
    /// The path or the body is not what it must be.
    InvalidRequest(String),
    /// A quota is used up.
    Quota(Spent),
    /// Requests or tokens per minute, or calls at once; the sentence names the limit.
    RateLimit { message: String, retry_after_s: u64 },
    /// 413: the body is above the configured size.
    BodyTooLarge { max_bytes: u64 },
    /// 431: the head is.
    HeadTooLarge,
    /// 414: the request target is.
    TargetTooLong,
    /// 405 for a method that no provider serves here.
    Method,
    /// 426: an upgrade that the gateway does not carry. Codex then falls back to plain HTTP at once.
    Upgrade,
    /// No provider key is configured.
    NoKey(Provider),
    /// The configuration cannot serve this call in another way; the sentence says which.
    Config(String),
    /// The provider could not be reached, or broke off before it answered.
    Upstream,
    /// The provider did not answer in time.
    UpstreamTimeout,
    /// Draining, or nothing to account against.
    Unavailable { message: &'static str, retry_after_s: u64 },
}

/// A quota that is used up, as people are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// The limit's name: `daily tokens`, `monthly cost`.
    pub limit: String,
    /// What was used, and what may be, in the words of the limit's unit.
    pub used: String,
    pub max: String,
    /// RFC 3339, UTC.
    pub resets_at: String,
}

/// A whole answer. `x-ace-request-id`, which every answer of the gateway carries, is the caller's to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Refusal {
    /// Writes the refusal in a dialect.
    pub fn answer(&self, dialect: Provider, request_id: &str) -> Answer {
        let body = match dialect {
            Provider::OpenAi => self.openai(),
            Provider::Anthropic => self.anthropic(request_id),
            Provider::Google => self.google(),
        };
        Answer {
            status: self.status(),
            headers: self.headers(dialect, request_id),
            body: body.to_string().into_bytes(),
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::Auth => StatusCode::UNAUTHORIZED,
            Self::Permission(_) => StatusCode::FORBIDDEN,
            Self::InvalidRequest(_) | Self::NoKey(_) | Self::Config(_) => StatusCode::BAD_REQUEST,
            Self::Quota(_) => StatusCode::PAYMENT_REQUIRED,
            Self::RateLimit { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Upgrade => StatusCode::UPGRADE_REQUIRED,
            Self::Upstream => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The stable name, for the error's type, the log and the ledger.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Auth => "auth_error",
            Self::Permission(_) => "permission_error",
            Self::InvalidRequest(_) | Self::Method | Self::Upgrade => "invalid_request_error",
            Self::Quota(_) => "quota_exceeded",
            Self::RateLimit { .. } => "rate_limit_error",
            Self::BodyTooLarge { .. } | Self::HeadTooLarge | Self::TargetTooLong => "request_too_large",
            Self::NoKey(_) | Self::Config(_) => "config_error",
            Self::Upstream | Self::UpstreamTimeout => "upstream_error",
            Self::Unavailable { .. } => "unavailable",
        }
    }

    /// The sentence for people.
    pub fn message(&self) -> String {
        match self {
            Self::Auth => "The proxy token is missing, invalid, expired or revoked".to_owned(),
            Self::Permission(message) | Self::InvalidRequest(message) | Self::Config(message) => message.clone(),
            Self::Quota(Spent {
                limit,
                used,
                max,
                resets_at,
            }) => {
                format!("Quota exceeded: {limit}: {used} of {max} used; resets at {resets_at}")
            }
            Self::RateLimit { message, .. } => message.clone(),
            Self::BodyTooLarge { max_bytes } => format!("The request body is larger than {max_bytes} bytes"),
            Self::HeadTooLarge => "The request's headers are too large".to_owned(),
            Self::TargetTooLong => "The request's path and query are too long".to_owned(),
            Self::Method => "This method is not served here".to_owned(),
            Self::Upgrade => "WebSockets are not carried here; use plain HTTP requests".to_owned(),
            Self::NoKey(provider) => format!("No API key configured for provider '{provider}'"),
            Self::Upstream => "The provider could not be reached".to_owned(),
            Self::UpstreamTimeout => "The provider did not answer in time".to_owned(),
            Self::Unavailable { message, .. } => (*message).to_owned(),
        }
    }

    fn openai(&self) -> Value {
        // OpenAI's own type, which its clients know; the reason stands in `code`.
        let kind = if matches!(self, Self::Quota(_)) {
            "insufficient_quota"
        } else {
            self.reason()
        };
        json!({"error": {"message": self.message(), "type": kind, "code": self.openai_code(), "param": null}})
    }

    fn openai_code(&self) -> &'static str {
        match self {
            Self::Auth => "invalid_api_key",
            Self::RateLimit { .. } => "rate_limit_exceeded",
            Self::Upgrade => "upgrade_required",
            Self::Method => "method_not_allowed",
            Self::UpstreamTimeout => "upstream_timeout",
            _ => self.reason(),
        }
    }

    fn anthropic(&self, request_id: &str) -> Value {
        let kind = match self {
            Self::Auth => "authentication_error",
            Self::Quota(_) => "billing_error",
            Self::Upstream => "api_error",
            Self::UpstreamTimeout => "timeout_error",
            Self::Unavailable { .. } => "overloaded_error",
            _ => self.reason(),
        };
        json!({"type": "error", "error": {"type": kind, "message": self.message()}, "request_id": request_id})
    }

    fn google(&self) -> Value {
        let status = match self {
            Self::Auth => "UNAUTHENTICATED",
            Self::Permission(_) => "PERMISSION_DENIED",
            Self::Quota(_) | Self::RateLimit { .. } => "RESOURCE_EXHAUSTED",
            Self::NoKey(_) | Self::Config(_) => "FAILED_PRECONDITION",
            Self::Upstream | Self::Unavailable { .. } => "UNAVAILABLE",
            Self::UpstreamTimeout => "DEADLINE_EXCEEDED",
            _ => "INVALID_ARGUMENT",
        };
        let mut details = vec![json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": self.reason().to_ascii_uppercase(),
            "domain": "ace-gateway",
        })];
        if let Some(seconds) = self.retry_after_s() {
            let delay = format!("{seconds}s");
            details.push(json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}));
        }
        let code = self.status().as_u16();
        json!({"error": {"code": code, "message": self.message(), "status": status, "details": details}})
    }

    fn headers(&self, dialect: Provider, request_id: &str) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("x-request-id", request_id.to_owned()),
        ];
        if dialect == Provider::Anthropic {
            headers.push(("request-id", request_id.to_owned()));
        }
        if let Some(seconds) = self.retry_after_s() {
            headers.push(("retry-after", seconds.to_string()));
        }
        if !self.should_retry() {
            headers.push(("x-should-retry", "false".to_owned()));
        }
        headers
    }

    fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::RateLimit { retry_after_s, .. } | Self::Unavailable { retry_after_s, .. } => Some(*retry_after_s),
            _ => None,
        }
    }

    /// CLIs repeat for minutes what no repetition can mend, unless told not to.
    fn should_retry(&self) -> bool {
        !matches!(self, Self::Quota(_) | Self::NoKey(_) | Self::Config(_))
    }
}

impl From<PathRefusal> for Refusal {
    fn from(refusal: PathRefusal) -> Self {
        match refusal {
            PathRefusal::Bad(why) => Self::InvalidRequest(format!("Bad request path: {why}")),
            PathRefusal::Method => Self::Method,
            PathRefusal::OtherDialect { path, claim } => Self::Permission(format!(
                "The token is for provider '{claim}', the path is for provider '{path}'"
            )),
            PathRefusal::MintsCredential => {
                Self::Permission("Calls that hand out a provider credential are not allowed".to_owned())
            }
        }
    }
}
