//! What the gateway answers in a provider's place: one reason, told in the dialect of the API that was called, because
//! a CLI shows the message of its own provider's error shape and prints anything else raw.

use ace_policies::provider::Provider;
use http::StatusCode;
use serde_json::{Value, json};

use crate::body::BodyError;
use crate::json::{Fault, MAX_DEPTH};
use crate::route::PathRefusal;

mod spent;

pub use spent::Spent;

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
    /// A limit on requests or tokens per minute, or on calls at once, is reached.
    RateLimit { spent: Spent, retry_after_s: u64 },
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
            Self::Quota(spent) => format!("Quota exceeded: {spent}"),
            Self::RateLimit { spent, .. } => format!("Rate limit exceeded: {spent}"),
            Self::BodyTooLarge { max_bytes } => format!("The request body is larger than {max_bytes} bytes"),
            Self::HeadTooLarge => "The request's headers are too large".to_owned(),
            Self::TargetTooLong => "The request's path and query are too long".to_owned(),
            Self::Method => "This method is not served here".to_owned(),
            Self::Upgrade => {
                "Of all upgrades only a WebSocket to /v1/realtime is carried here; use plain HTTP requests".to_owned()
            }
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
        let error = json!({"message": self.message(), "type": kind, "code": self.openai_code(), "param": null});
        json!({"error": self.with_figures(error)})
    }

    /// The figures beside what a dialect's errors have: their clients read the members that they know.
    fn with_figures(&self, mut error: Value) -> Value {
        if let (Some(spent), Some(members)) = (self.spent(), error.as_object_mut()) {
            members.extend(spent.figures().as_object_mut().map(std::mem::take).unwrap_or_default());
        }
        error
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
        let error = self.with_figures(json!({"type": kind, "message": self.message()}));
        json!({"type": "error", "error": error, "request_id": request_id})
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
        let mut info = json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": self.reason().to_ascii_uppercase(),
            "domain": "ace-gateway",
        });
        let mut details = Vec::new();
        if let Some(spent) = self.spent() {
            // A map of texts, by its definition.
            info["metadata"] = spent.metadata();
            details.push(spent.quota_failure());
        }
        details.insert(0, info);
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
        match self {
            Self::Quota(_) => headers.push(("x-ace-stop-reason", "quota_exceeded".to_owned())),
            Self::RateLimit { .. } => headers.push(("x-ace-stop-reason", "rate_limited".to_owned())),
            _ => {}
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

    /// Whether it is a limit that says no.
    pub fn is_limit(&self) -> bool {
        self.spent().is_some()
    }

    fn spent(&self) -> Option<&Spent> {
        match self {
            Self::Quota(spent) | Self::RateLimit { spent, .. } => Some(spent),
            _ => None,
        }
    }

    /// CLIs repeat for minutes what no repetition can mend, unless told not to.
    fn should_retry(&self) -> bool {
        !matches!(self, Self::Quota(_) | Self::NoKey(_) | Self::Config(_))
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::NotJson(fault) => {
                let why = match fault {
                    Fault::Truncated => "it ends too early".to_owned(),
                    Fault::Syntax(at) => format!("unexpected byte at offset {at}"),
                    Fault::TooDeep => format!("it is nested deeper than {MAX_DEPTH} levels"),
                };
                Self::InvalidRequest(format!(
                    "The request's body is not the JSON that its content type says: {why}"
                ))
            }
            BodyError::NotEncoded(encoding) => Self::InvalidRequest(format!(
                "The request's body is not in the encoding that its header says: {encoding}"
            )),
            BodyError::DecodedTooLarge { max_bytes } => Self::BodyTooLarge {
                max_bytes: max_bytes as u64,
            },
        }
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

#[cfg(test)]
mod tests {
    use ace_policies::UserId;
    use ace_policies::provider::Provider::{Anthropic, Google, OpenAi};
    use ace_policies::quota::{Account, LimitName};

    use super::*;

    #[track_caller]
    fn body(refusal: &Refusal, dialect: Provider) -> Value {
        serde_json::from_slice(&refusal.answer(dialect, "req-1").body).unwrap()
    }

    fn header(refusal: &Refusal, name: &str) -> Option<String> {
        refusal
            .answer(OpenAi, "req-1")
            .headers
            .into_iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }

    fn limit(limit: LimitName, resets_at_ms: Option<i64>) -> Spent {
        Spent {
            account: Account::User(UserId(5)),
            limit,
            used: 900,
            reserved: 100,
            maximum: 1000,
            resets_at_ms,
        }
    }

    const MIDNIGHT_MS: i64 = 1_795_305_600_000;

    fn spent() -> Refusal {
        limit(LimitName::TokensPerDay, Some(MIDNIGHT_MS)).refusal(0)
    }

    fn rate_limit() -> Refusal {
        limit(LimitName::RequestsPerMinute, Some(MIDNIGHT_MS)).refusal(MIDNIGHT_MS - 6_001)
    }

    #[test]
    fn statuses_and_reasons_are_the_contracts() {
        let table = [
            (Refusal::Auth, 401, "auth_error"),
            (Refusal::Permission("no".to_owned()), 403, "permission_error"),
            (Refusal::InvalidRequest("no".to_owned()), 400, "invalid_request_error"),
            (spent(), 402, "quota_exceeded"),
            (rate_limit(), 429, "rate_limit_error"),
            (Refusal::BodyTooLarge { max_bytes: 64 }, 413, "request_too_large"),
            (Refusal::HeadTooLarge, 431, "request_too_large"),
            (Refusal::TargetTooLong, 414, "request_too_large"),
            (Refusal::Method, 405, "invalid_request_error"),
            (Refusal::Upgrade, 426, "invalid_request_error"),
            (Refusal::NoKey(OpenAi), 400, "config_error"),
            (Refusal::Config("no".to_owned()), 400, "config_error"),
            (Refusal::Upstream, 502, "upstream_error"),
            (Refusal::UpstreamTimeout, 504, "upstream_error"),
            (
                Refusal::Unavailable {
                    message: "draining",
                    retry_after_s: 1,
                },
                503,
                "unavailable",
            ),
        ];
        for (refusal, status, reason) in table {
            assert_eq!(
                (refusal.status().as_u16(), refusal.reason()),
                (status, reason),
                "{refusal:?}"
            );
            for dialect in Provider::ALL {
                let answer = refusal.answer(dialect, "req-1");
                let error = &serde_json::from_slice::<Value>(&answer.body).unwrap()["error"];
                assert_eq!(error["message"], refusal.message(), "{refusal:?}");
                assert!(
                    answer
                        .headers
                        .contains(&("content-type", "application/json".to_owned()))
                );
                assert!(answer.headers.contains(&("x-request-id", "req-1".to_owned())));
            }
        }
    }

    #[test]
    fn a_missing_key_is_told_in_the_documented_words() {
        let refusal = Refusal::NoKey(OpenAi);
        let error = json!({
            "message": "No API key configured for provider 'openai'",
            "type": "config_error",
            "code": "config_error",
            "param": null,
        });
        assert_eq!(body(&refusal, OpenAi), json!({"error": error}));
        assert_eq!(header(&refusal, "x-should-retry").as_deref(), Some("false"));
    }

    #[test]
    fn trap_14_a_spent_quota_names_the_limit_the_use_and_the_reset_and_stops_retries() {
        let message = "Quota exceeded: tokens per day of user 5: 900 used and 100 reserved of 1000; resets at 2026-11-22T00:00:00Z";
        let figures = json!({"account": "user 5", "limit": "tokens_per_day", "used": 900, "reserved": 100, "maximum": 1000,
            "resets_at": "2026-11-22T00:00:00Z"});
        let with_figures = |mut error: Value| {
            let members = error.as_object_mut().unwrap();
            members.extend(figures.as_object().unwrap().clone());
            error
        };
        let error = json!({"message": message, "type": "insufficient_quota", "code": "quota_exceeded", "param": null});
        assert_eq!(body(&spent(), OpenAi), json!({"error": with_figures(error)}));
        let error = with_figures(json!({"type": "billing_error", "message": message}));
        assert_eq!(
            body(&spent(), Anthropic),
            json!({"type": "error", "error": error, "request_id": "req-1"})
        );
        let google = &body(&spent(), Google)["error"];
        assert_eq!(
            (&google["code"], &google["status"], &google["message"]),
            (&json!(402), &json!("RESOURCE_EXHAUSTED"), &json!(message))
        );
        assert_eq!(google["details"][0]["reason"], "QUOTA_EXCEEDED");
        assert_eq!(google["details"][0]["metadata"]["reserved"], "100");
        let violation = &google["details"][1]["violations"][0];
        assert_eq!(
            (&violation["quotaId"], &violation["quotaValue"]),
            (&json!("TokensPerDay"), &json!("1000"))
        );
        for (name, value) in [("x-should-retry", "false"), ("x-ace-stop-reason", "quota_exceeded")] {
            assert_eq!(header(&spent(), name).as_deref(), Some(value));
        }
        assert_eq!(header(&spent(), "retry-after"), None);
    }

    #[test]
    fn a_short_limit_says_when_to_come_back() {
        let refusal = rate_limit();
        assert_eq!(
            refusal.message(),
            "Rate limit exceeded: requests per minute of user 5: 900 used and 100 reserved of 1000; resets at 2026-11-22T00:00:00Z"
        );
        assert_eq!(header(&refusal, "retry-after").as_deref(), Some("7"));
        assert_eq!(header(&refusal, "x-should-retry"), None);
        assert_eq!(header(&refusal, "x-ace-stop-reason").as_deref(), Some("rate_limited"));
        let details = &body(&refusal, Google)["error"]["details"];
        assert_eq!(details[1]["violations"][0]["quotaId"], "RequestsPerMinute");
        assert_eq!(details[2]["retryDelay"], "7s");
    }

    #[test]
    fn a_place_among_the_running_ones_gets_free_at_no_certain_time() {
        let refusal = limit(LimitName::ParallelRequests, None).refusal(0);
        assert_eq!(
            refusal.message(),
            "Rate limit exceeded: parallel requests of user 5: 1000 running of 1000"
        );
        assert_eq!(header(&refusal, "retry-after").as_deref(), Some("1"));
        assert_eq!(body(&refusal, OpenAi)["error"]["resets_at"], Value::Null);
        assert_eq!(
            body(&refusal, Google)["error"]["details"][0]["metadata"].get("resets_at"),
            None
        );
    }

    #[test]
    fn every_dialect_names_a_refused_token_its_own_way() {
        assert_eq!(body(&Refusal::Auth, OpenAi)["error"]["type"], "auth_error");
        assert_eq!(body(&Refusal::Auth, Anthropic)["error"]["type"], "authentication_error");
        assert_eq!(body(&Refusal::Auth, Google)["error"]["status"], "UNAUTHENTICATED");
        let headers = Refusal::Auth.answer(Anthropic, "req-1").headers;
        assert!(headers.contains(&("request-id", "req-1".to_owned())));
    }

    #[test]
    fn another_dialects_path_is_a_matter_of_permission() {
        let refusal = Refusal::from(PathRefusal::OtherDialect {
            path: Anthropic,
            claim: OpenAi,
        });
        assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
        assert_eq!(
            refusal.message(),
            "The token is for provider 'openai', the path is for provider 'anthropic'"
        );
    }
}
