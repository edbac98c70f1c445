//! The credentials a client may send: where they can stand, what they say, and what must never reach a provider.
//! Whether one of them is a valid proxy token is for the caller's verifier to say.

use std::borrow::Cow;

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

use crate::route::{X_API_KEY, X_GOOG_API_KEY, is_key};

/// OpenAI's browsers send the key as a WebSocket subprotocol of this name.
const SUBPROTOCOL: &str = "openai-insecure-api-key.";

/// Real CLIs send the same token in two headers, or two tokens; more distinct values than this are an attempt to guess.
const MOST: usize = 4;

/// The distinct values that a request offers as its credential.
#[derive(Debug, Default)]
pub struct Candidates<'r> {
    values: [Option<Cow<'r, str>>; MOST],
    too_many: bool,
}

impl<'r> Candidates<'r> {
    /// Collects from `Authorization: Bearer`, `x-api-key`, `x-goog-api-key`, `?key=` and the WebSocket subprotocol.
    /// A value that was percent-encoded on the way is decoded once.
    pub fn of(headers: &'r HeaderMap, query: Option<&'r str>) -> Self {
        let mut found = Self::default();
        for value in headers.get_all(header::AUTHORIZATION) {
            found.add(value.to_str().ok().and_then(bearer));
        }
        for name in [&X_API_KEY, &X_GOOG_API_KEY] {
            for value in headers.get_all(name) {
                found.add(value.to_str().ok());
            }
        }
        for part in query.into_iter().flat_map(|query| query.split('&')) {
            found.add(key_of(part));
        }
        for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
            for protocol in value.to_str().unwrap_or_default().split(',') {
                found.add(protocol.trim().strip_prefix(SUBPROTOCOL));
            }
        }
        found
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.values.iter().flatten().map(Cow::as_ref)
    }

    pub fn is_empty(&self) -> bool {
        self.values[0].is_none()
    }

    /// What `verify` made of the one value that it accepts. Two that it accepts are none: the request then speaks for
    /// two callers at once.
    pub fn only<T>(&self, mut verify: impl FnMut(&str) -> Option<T>) -> Option<T> {
        if self.too_many {
            return None;
        }
        let mut accepted = self.iter().filter_map(&mut verify);
        let one = accepted.next()?;
        accepted.next().is_none().then_some(one)
    }

    fn add(&mut self, value: Option<&'r str>) {
        let Some(value) = value.map(str::trim).filter(|value| !value.is_empty()) else {
            return;
        };
        let Some(value) = decoded(value) else { return };
        match self
            .values
            .iter_mut()
            .find(|slot| slot.as_ref().is_none_or(|known| *known == value))
        {
            Some(slot) => *slot = Some(value),
            None => self.too_many = true,
        }
    }
}

/// Whether a request header holds a credential and is therefore never forwarded.
pub fn is_credential(name: &str) -> bool {
    matches!(
        name,
        "authorization" | "x-api-key" | "x-goog-api-key" | "api-key" | "proxy-authorization" | "sec-websocket-protocol"
    )
}

/// A value of `sec-websocket-protocol` as it goes on: without the protocols that hold a credential, and `None` where
/// nothing is left.
pub fn without_subprotocol(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let holds = |protocol: &&[u8]| {
        let name = protocol.get(..SUBPROTOCOL.len());
        name.is_some_and(|name| name.eq_ignore_ascii_case(SUBPROTOCOL.as_bytes()))
    };
    let offered = || value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if !offered().any(|protocol| holds(&protocol)) {
        return (!value.trim_ascii().is_empty()).then_some(Cow::Borrowed(value));
    }
    let kept = offered().filter(|protocol| !protocol.is_empty() && !holds(protocol));
    let kept = kept.collect::<Vec<_>>().join(&b", "[..]);
    (!kept.is_empty()).then_some(Cow::Owned(kept))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim_start().split_once([' ', '\t'])?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn key_of(part: &str) -> Option<&str> {
    if is_key(part) {
        part.split_once('=').map(|(_, value)| value)
    } else {
        None
    }
}

fn decoded(value: &str) -> Option<Cow<'_, str>> {
    if value.contains('%') {
        percent_decode_str(value).decode_utf8().ok()
    } else {
        Some(Cow::Borrowed(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[track_caller]
    fn offers(pairs: &[(&'static str, &'static str)], query: Option<&str>, expected: &[&str]) {
        let headers = headers(pairs);
        let found = Candidates::of(&headers, query);
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
        assert_eq!(found.is_empty(), expected.is_empty());
    }

    #[test]
    fn every_place_a_client_may_use() {
        offers(&[("authorization", "Bearer T")], None, &["T"]);
        offers(&[("authorization", "bearer  T ")], None, &["T"]);
        offers(&[("authorization", "BEARER\tT")], None, &["T"]);
        offers(&[("x-api-key", "T")], None, &["T"]);
        offers(&[("x-goog-api-key", " T ")], None, &["T"]);
        offers(&[], Some("alt=sse&key=T"), &["T"]);
        offers(&[], Some("%6bey=T"), &["T"]);
        offers(
            &[("sec-websocket-protocol", "realtime, openai-insecure-api-key.T")],
            None,
            &["T"],
        );
    }

    #[test]
    fn what_is_no_credential_is_not_offered() {
        offers(&[("authorization", "Basic dXNlcg==")], None, &[]);
        offers(&[("authorization", "Bearer ")], None, &[]);
        offers(&[("authorization", "T")], None, &[]);
        offers(&[("x-api-key", "")], Some("keys=T&monkey=T&key="), &[]);
    }

    #[test]
    fn equal_values_count_once_and_keep_their_order() {
        offers(
            &[("authorization", "Bearer T"), ("x-api-key", "T")],
            Some("key=T"),
            &["T"],
        );
        offers(&[("x-api-key", "B"), ("authorization", "Bearer A")], None, &["A", "B"]);
    }

    #[test]
    fn trap_30_a_percent_encoded_token_is_decoded_once() {
        offers(
            &[("authorization", "Bearer a%2Eb%2ec")],
            Some("key=a.b%2Ec"),
            &["a.b.c"],
        );
        offers(&[("x-api-key", "a%252Eb")], None, &["a%2Eb"]);
        offers(&[("x-api-key", "a%ffb")], None, &[]);
    }

    #[test]
    fn exactly_one_distinct_value_must_be_valid() {
        let valid = |token: &str| token.starts_with("ok").then(|| token.to_owned());
        let check = |pairs: &[(&'static str, &'static str)]| Candidates::of(&headers(pairs), None).only(valid);
        assert_eq!(check(&[]), None);
        assert_eq!(check(&[("x-api-key", "ok1")]), Some("ok1".to_owned()));
        assert_eq!(
            check(&[("x-api-key", "ok1"), ("authorization", "Bearer junk")]),
            Some("ok1".to_owned())
        );
        assert_eq!(check(&[("x-api-key", "ok1"), ("authorization", "Bearer ok2")]), None);
        let guesses = [
            ("x-api-key", "a"),
            ("x-api-key", "b"),
            ("x-api-key", "c"),
            ("x-api-key", "d"),
            ("x-api-key", "ok"),
        ];
        assert_eq!(check(&guesses), None);
    }

    #[test]
    fn credential_headers_stay_here() {
        for name in [
            "authorization",
            "x-api-key",
            "x-goog-api-key",
            "api-key",
            "sec-websocket-protocol",
        ] {
            assert!(is_credential(name), "{name}");
        }
        assert!(!is_credential("anthropic-version"));
    }
}
