//! What differs from provider to provider: where the key goes, which header names the provider's own request id, what
//! keeps a stream awake; and, below, how an answer tells its usage and how a stream ends.

use ace_policies::provider::Provider;
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderName, InvalidHeaderValue};

use crate::route::Call;

mod anthropic;
mod decoder;
mod echo;
mod google;
mod meter;
mod openai;
mod reader;
mod realtime;
mod tally;
mod usage_chunk;

pub use echo::mask_echo;
pub use meter::{Halt, Meter, Metered};
pub use reader::Head;
pub use realtime::RealtimeMeter;
pub use tally::tokens_in;
pub use usage_chunk::UsageChunkFilter;

/// The one credential that a forwarded request carries, marked sensitive so that nothing prints it.
pub fn key_header(call: &Call, key: &str) -> Result<(HeaderName, HeaderValue), InvalidHeaderValue> {
    // By dialect within a provider: Google's OpenAI-compatible paths take the key as OpenAI's do.
    let (name, value) = match call.dialect() {
        Provider::OpenAi => (AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}"))),
        Provider::Anthropic => (HeaderName::from_static("x-api-key"), HeaderValue::from_str(key)),
        Provider::Google => (HeaderName::from_static("x-goog-api-key"), HeaderValue::from_str(key)),
    };
    let mut value = value?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// The id under which the provider knows the request, for the ledger.
pub fn upstream_request_id<'h>(header: impl Fn(&str) -> Option<&'h str>) -> Option<&'h str> {
    ["request-id", "x-request-id", "x-goog-request-id"]
        .iter()
        .find_map(|name| header(name))
}

/// The headers in which Google names the URL of an upload's second step. That URL is a credential by itself, and the
/// client's second request carries no other.
pub fn names_upload_url(name: &str) -> bool {
    matches!(name, "x-goog-upload-url" | "x-goog-upload-control-url")
}

/// What keeps a silent stream awake. Nothing does for Google: its clients fail on comments.
pub fn keep_alive(dialect: Provider) -> Option<&'static [u8]> {
    match dialect {
        Provider::OpenAi => Some(b": keep-alive\n\n"),
        Provider::Anthropic => Some(b"event: ping\ndata: {\"type\": \"ping\"}\n\n"),
        Provider::Google => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::route::{Route, route};

    fn call(target: &str) -> Call {
        match route(&Method::POST, target.as_bytes(), &HeaderMap::new()) {
            Ok(Route::DataPlane(call)) => call,
            other => panic!("{target}: {other:?}"),
        }
    }

    #[track_caller]
    fn key_goes(target: &str, name: &str, value: &str) {
        let (found, header) = key_header(&call(target), "sk-1").unwrap();
        assert_eq!((found.as_str(), header.to_str().unwrap()), (name, value));
        assert!(header.is_sensitive());
    }

    #[test]
    fn one_key_in_the_dialects_own_header() {
        key_goes("/v1/chat/completions", "authorization", "Bearer sk-1");
        key_goes("/v1/messages", "x-api-key", "sk-1");
        key_goes("/v1beta/models/g:generateContent", "x-goog-api-key", "sk-1");
        key_goes("/v1beta/openai/chat/completions", "authorization", "Bearer sk-1");
        assert!(key_header(&call("/v1/messages"), "two\nlines").is_err());
    }

    #[test]
    fn trap_25_google_gets_its_key_in_a_header_and_keeps_alt_sse() {
        let target = "/v1beta/models/g:streamGenerateContent?alt=sse&key=T";
        key_goes(target, "x-goog-api-key", "sk-1");
        let base = url::Url::parse(Provider::Google.default_base_url()).unwrap();
        let sent = call(target).upstream_target(&base, target.as_bytes());
        assert_eq!(sent, b"/v1beta/models/g:streamGenerateContent?alt=sse");
    }

    #[test]
    fn trap_23_a_keep_alive_is_the_protocols_own_and_never_googles() {
        assert!(keep_alive(Provider::Anthropic).unwrap().starts_with(b"event: ping\n"));
        assert!(keep_alive(Provider::OpenAi).unwrap().starts_with(b":"));
        assert_eq!(keep_alive(Provider::Google), None);
    }

    #[test]
    fn the_providers_request_id_is_found() {
        let found =
            |names: &'static [&'static str]| upstream_request_id(|name| names.iter().copied().find(|n| *n == name));
        assert_eq!(found(&["x-request-id", "request-id"]), Some("request-id"));
        assert_eq!(found(&["x-request-id"]), Some("x-request-id"));
        assert_eq!(found(&[]), None);
    }
}
