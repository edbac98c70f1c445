//! The request target that goes to the provider: the key's base URL, the client's path, the client's query.

use std::borrow::Cow;

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
    is_named(part, "key")
}

/// The models that a query names, decoded. Which of several counts is the provider's affair, so all are told.
pub(super) fn models(query: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let named = query.split('&').filter(|part| is_named(part, "model"));
    named.map(|part| {
        let value = part.split_once('=').map_or("", |(_, value)| value);
        percent_decode_str(value).decode_utf8_lossy()
    })
}

fn is_named(part: &str, wanted: &str) -> bool {
    let name = part.split_once('=').map_or(part, |(name, _)| name);
    name == wanted || (name.contains('%') && percent_decode_str(name).eq(wanted.bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn joins(base: &str, path: &str, expected: &str) {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let target = join_base(&Url::parse(base).unwrap(), path, query);
        assert_eq!(String::from_utf8(target).unwrap(), expected, "{base} + {path}");
    }

    #[test]
    fn a_version_is_sent_once() {
        joins(
            "https://api.openai.com/v1",
            "/v1/chat/completions",
            "/v1/chat/completions",
        );
        joins(
            "https://api.openai.com/v1/",
            "/v1/chat/completions",
            "/v1/chat/completions",
        );
        joins("https://api.openai.com/v1", "/chat/completions", "/v1/chat/completions");
        joins("https://api.anthropic.com", "/v1/messages", "/v1/messages");
        joins("https://api.anthropic.com/v1", "/v1/messages", "/v1/messages");
        joins(
            "https://host/v1beta",
            "/v1/models/g:generateContent",
            "/v1beta/models/g:generateContent",
        );
        joins(
            "https://host/api/paas/v4",
            "/v1/chat/completions",
            "/api/paas/v4/chat/completions",
        );
    }

    #[test]
    fn a_base_urls_own_path_is_kept() {
        joins(
            "https://host/compatible-mode/v1",
            "/v1/responses",
            "/compatible-mode/v1/responses",
        );
        joins("https://host/prefix", "/v1/messages", "/prefix/v1/messages");
        joins("https://host/prefix/", "/v1/messages", "/prefix/v1/messages");
        joins("https://host", "/chat/completions", "/chat/completions");
        joins("https://host/vault", "/v1/messages", "/vault/v1/messages");
    }

    #[test]
    fn google_keeps_uploads_beside_its_versions() {
        joins("https://host", "/upload/v1beta/files", "/upload/v1beta/files");
        joins("https://host/v1beta", "/upload/v1beta/files", "/upload/v1beta/files");
    }

    #[test]
    fn trap_16_the_query_survives_byte_for_byte_but_for_the_key() {
        joins("https://host", "/v1/messages?beta=true", "/v1/messages?beta=true");
        joins("https://host", "/x?alt=sse&key=T", "/x?alt=sse");
        joins("https://host", "/x?key=T&alt=sse&a=%20+&&b", "/x?alt=sse&a=%20+&&b");
        joins("https://host", "/x?key=T", "/x");
        joins("https://host", "/x?k%65y=T&keys=1&Key=2", "/x?keys=1&Key=2");
        joins("https://host", "/x?", "/x?");
    }

    proptest! {
        #[test]
        fn a_query_without_a_key_is_the_same_query(query in "[a-jl-z=&%+0-9]{0,30}") {
            let target = join_base(&Url::parse("https://host").unwrap(), "/x", Some(&query));
            prop_assert_eq!(String::from_utf8(target).unwrap(), format!("/x?{query}"));
        }
    }
}
