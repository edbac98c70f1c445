//! The relay's own answers, in the error format of the API that was called: CLIs show a message only from their own.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Uri,
    header::{CONNECTION, CONTENT_TYPE, UPGRADE},
};
use serde_json::json;

use super::credential;

/// Whose API the caller believes to be calling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Anthropic,
    Google,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "The local key is missing or wrong. This address belongs to one AI coding session and takes that session's key only."
    )]
    LocalKey,
    #[error("This endpoint does not upgrade connections. Use plain HTTP requests.")]
    Upgrade,
    #[error("This address forwards API requests only.")]
    Target,
    #[error("There is no proxy token for this session yet.")]
    NoToken,
    #[error("The gateway at {gateway} cannot be reached: {reason}")]
    Unreachable {
        gateway: String,
        reason: String,
        /// Nothing of the request has left, and the gateway may be on its way back.
        worth_waiting: bool,
    },
    #[error("The gateway at {gateway} did not answer in time.")]
    Timeout { gateway: String },
}

impl Dialect {
    /// By the path, then by the headers that only one provider's clients send.
    pub(super) fn of(headers: &HeaderMap, uri: &Uri) -> Self {
        let path = uri.path();
        if path.contains("/v1/messages") || headers.contains_key("anthropic-version") {
            Self::Anthropic
        } else if path.contains("/v1beta/") || path.contains("GenerateContent") || credential::is_google(headers, uri) {
            Self::Google
        } else {
            Self::OpenAi
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::LocalKey => StatusCode::UNAUTHORIZED,
            Self::Upgrade => StatusCode::UPGRADE_REQUIRED,
            Self::Target => StatusCode::BAD_REQUEST,
            Self::NoToken => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable { .. } => StatusCode::BAD_GATEWAY,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::LocalKey => "auth_error",
            Self::Upgrade | Self::Target => "invalid_request_error",
            Self::NoToken => "unavailable",
            Self::Unreachable { .. } | Self::Timeout { .. } => "upstream_error",
        }
    }

    fn google_status(&self) -> &'static str {
        match self {
            Self::LocalKey => "UNAUTHENTICATED",
            Self::Upgrade | Self::Target => "INVALID_ARGUMENT",
            Self::NoToken | Self::Unreachable { .. } => "UNAVAILABLE",
            Self::Timeout { .. } => "DEADLINE_EXCEEDED",
        }
    }

    pub(super) fn into_response(self, dialect: Dialect, method: &Method) -> Response<Bytes> {
        let body = if method == Method::HEAD {
            Bytes::new()
        } else {
            self.body(dialect)
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(self, Self::Upgrade) {
            response
                .headers_mut()
                .insert(UPGRADE, HeaderValue::from_static("HTTP/1.1"));
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        response
    }

    fn body(&self, dialect: Dialect) -> Bytes {
        let (message, kind) = (self.to_string(), self.kind());
        let body = match dialect {
            Dialect::OpenAi => json!({ "error": { "message": message, "type": kind, "param": null, "code": kind } }),
            Dialect::Anthropic => json!({ "type": "error", "error": { "type": kind, "message": message } }),
            Dialect::Google => {
                json!({ "error": { "code": self.status().as_u16(), "message": message, "status": self.google_status() } })
            }
        };
        Bytes::from(body.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn dialect(uri: &'static str, header: Option<&'static str>, want: Dialect) {
        let headers = header
            .into_iter()
            .map(|name| (name.parse().unwrap(), HeaderValue::from_static("x")))
            .collect();
        assert_eq!(Dialect::of(&headers, &Uri::from_static(uri)), want, "{uri} {header:?}");
    }

    #[test]
    fn the_dialect_is_that_of_the_api_that_was_called() {
        dialect("/v1/messages?beta=true", None, Dialect::Anthropic);
        dialect("/v1/models", Some("anthropic-version"), Dialect::Anthropic);
        dialect("/v1beta/models/m:streamGenerateContent?alt=sse", None, Dialect::Google);
        dialect("/v1/models", Some("x-goog-api-key"), Dialect::Google);
        dialect("/v1/files?key=k", None, Dialect::Google);
        dialect("/v1/chat/completions", None, Dialect::OpenAi);
        dialect("/responses", Some("authorization"), Dialect::OpenAi);
    }

    #[test]
    fn each_dialect_has_its_own_error_format() {
        let body = |dialect| String::from_utf8(Refusal::Upgrade.body(dialect).to_vec()).unwrap();
        let message = "This endpoint does not upgrade connections. Use plain HTTP requests.";
        assert_eq!(
            body(Dialect::OpenAi),
            format!(
                r#"{{"error":{{"code":"invalid_request_error","message":"{message}","param":null,"type":"invalid_request_error"}}}}"#
            )
        );
        assert_eq!(
            body(Dialect::Anthropic),
            format!(r#"{{"error":{{"message":"{message}","type":"invalid_request_error"}},"type":"error"}}"#)
        );
        assert_eq!(
            body(Dialect::Google),
            format!(r#"{{"error":{{"code":426,"message":"{message}","status":"INVALID_ARGUMENT"}}}}"#)
        );
    }
}
