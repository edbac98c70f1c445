//! What differs from provider to provider and is no matter of reading an answer: where the key goes, what a stream's
//! keep-alive and its breaking off look like, which header names the provider's own request id.

use ace_policies::provider::Provider;
use http::header::{AUTHORIZATION, HeaderName, InvalidHeaderValue};
use http::{HeaderMap, HeaderValue};

use crate::route::Call;

mod echo;

pub use echo::mask_echo;

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
pub fn upstream_request_id(headers: &HeaderMap) -> Option<&str> {
    let named = ["request-id", "x-request-id", "x-goog-request-id"];
    named.iter().find_map(|name| headers.get(*name)?.to_str().ok())
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

/// What a client is told before the connection of a broken stream breaks. Only Anthropic's protocol has such an event;
/// some clients of the others take one for the end and wait on it.
pub fn broken_stream(dialect: Provider) -> Option<&'static [u8]> {
    const LOST: &[u8] = b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\
        \"message\":\"The connection to the provider was lost before the answer was complete\"}}\n\n";
    (dialect == Provider::Anthropic).then_some(LOST)
}
