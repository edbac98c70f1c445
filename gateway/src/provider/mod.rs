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
mod tally;
mod usage_chunk;

pub use echo::mask_echo;
pub use meter::{Meter, Metered};
pub use reader::Head;
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
