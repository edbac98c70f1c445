//! The request target that goes to the provider: the key's base URL, the client's path, the client's query.

use percent_encoding::percent_decode_str;
use url::Url;

use super::path::is_version;

/// Appends the provider's path to the base URL's own path, leniently, and the query without its `key=` parts.
///
/// A version named by both is sent once, the base URL's: `…/v1` + `/v1/messages`, `…/api/paas/v4` + `/v1/chat/completions`.
pub fn join_base(base_url: &Url, path: &str, query: Option<&str>) -> Vec<u8> {
    let (base, path) = join(base_url.path().trim_end_matches('/'), path);
    let mut target = Vec::with_capacity(base.len() + path.len() + 1 + query.map_or(0, str::len));
    target.extend_from_slice(base.as_bytes());
    target.extend_from_slice(path.as_bytes());
    if target.is_empty() {
        target.push(b'/');
    }
    let mut separator = b'?';
    for part in query.into_iter().flat_map(kept_query) {
        target.push(separator);
        target.extend_from_slice(part.as_bytes());
        separator = b'&';
    }
    target
}

fn join<'a>(base: &'a str, path: &'a str) -> (&'a str, &'a str) {
    let Some((above, _)) = base.rsplit_once('/').filter(|(_, last)| is_version(last)) else {
        return (base, path);
    };
    if path.starts_with("/upload/") {
        // Google keeps uploads beside its versions, not below them.
        return (above, path);
    }
    let first = path.split('/').nth(1).unwrap_or_default();
    if is_version(first) {
        (base, &path[1 + first.len()..])
    } else {
        (base, path)
    }
}

/// The parts of a query that go on, byte for byte: all but `key=`, in any spelling of its name.
pub fn kept_query(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|part| !is_key(part))
}

/// Whether a part of a query is Google's `key=`.
pub(crate) fn is_key(part: &str) -> bool {
    let name = part.split_once('=').map_or(part, |(name, _)| name);
    name == "key" || (name.contains('%') && percent_decode_str(name).eq(*b"key"))
}
