//! Which headers cross the gateway. Everything does, in its order and with its duplicates, but for what the contract
//! lists: the connection's own headers, credentials, cookies, and who is behind the client. Names are lower case.

use std::borrow::Cow;

use crate::credential;
use crate::route::Call;

/// The headers that a message's `Connection` header declares to be the connection's own.
#[derive(Clone, Debug, Default)]
pub struct Nominated(Vec<Box<str>>);

impl Nominated {
    /// Reads the values of all `Connection` headers.
    pub fn by<'v>(connection: impl IntoIterator<Item = &'v [u8]>) -> Self {
        let mut names = Vec::new();
        for value in connection {
            let listed = value
                .split(|byte| *byte == b',')
                .filter_map(|name| std::str::from_utf8(name.trim_ascii()).ok());
            names.extend(
                listed
                    .filter(|name| may_nominate(name))
                    .map(|name| name.to_ascii_lowercase().into()),
            );
        }
        Self(names)
    }

    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|nominated| **nominated == *name)
    }
}

/// What describes the body belongs to whoever reads it last (RFC 9110, 7.6.1): nominated away, the provider would read
/// another body than the one that was checked. The common two say nothing of headers and need no entry.
fn may_nominate(name: &str) -> bool {
    let body = name
        .get(..8)
        .is_some_and(|start| start.eq_ignore_ascii_case("content-"));
    !name.is_empty() && !body && !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close")
}

/// Whether a client's header goes on to the provider.
///
/// The engine writes `Host`, the body's framing, the provider key and, for a metered call, `Accept-Encoding` itself,
/// after this: no client can name those away.
pub fn request_header(name: &str, nominated: &Nominated, call: &Call) -> bool {
    let ours = matches!(name, "host" | "content-length" | "expect" | "http2-settings")
        || (name == "accept-encoding" && call.api.is_metered());
    !(ours || connection_own(name, nominated) || credential::is_credential(name) || tells_who(name))
}

/// The value with which a header of a WebSocket's upgrade request goes on to the provider, if it does.
///
/// What goes on otherwise does here, the client's `sec-websocket-key` and `-version` with it, and of the protocols that it
/// offers all but those that hold a credential. `sec-websocket-extensions` does not: they compress messages, and messages
/// that cannot be read cannot be counted. It is the `Accept-Encoding: identity` of WebSockets.
pub fn upgrade_header<'v>(name: &str, value: &'v [u8], nominated: &Nominated, call: &Call) -> Option<Cow<'v, [u8]>> {
    match name {
        "sec-websocket-extensions" => None,
        "sec-websocket-protocol" => credential::without_subprotocol(value),
        _ => request_header(name, nominated, call).then_some(Cow::Borrowed(value)),
    }
}

/// Whether a provider's header goes on to the client. `content-length` does: the engine changes it with the body.
pub fn answer_header(name: &str, nominated: &Nominated) -> bool {
    let cookie = matches!(name, "set-cookie" | "set-cookie2");
    !(cookie || name.starts_with("x-ace-") || connection_own(name, nominated))
}

/// What the gateway asks for where it reads the answer: a compressed stream would have to be decoded to be counted.
pub fn accept_encoding(call: &Call) -> Option<&'static str> {
    call.api.is_metered().then_some("identity")
}

fn connection_own(name: &str, nominated: &Nominated) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade"
    ) || name.starts_with("proxy-")
        || nominated.contains(name)
}

/// Headers that tell a provider who is behind the gateway, or that would let a client forge it.
fn tells_who(name: &str) -> bool {
    matches!(name, "forwarded" | "x-real-ip" | "via" | "cookie" | "cookie2")
        || name.starts_with("x-forwarded-")
        || name.starts_with("x-ace-")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::route::{Route, route};

    fn call(path: &str) -> Call {
        match route(&Method::POST, path.as_bytes(), &HeaderMap::new()) {
            Ok(Route::DataPlane(call)) => call,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn nominated(value: &str) -> Nominated {
        Nominated::by([value.as_bytes()])
    }

    #[test]
    fn trap_16_everything_goes_on_but_the_published_list() {
        let call = call("/v1/messages");
        let kept = [
            "accept",
            "anthropic-beta",
            "anthropic-version",
            "content-encoding",
            "content-type",
            "openai-beta",
            "origin",
            "traceparent",
            "user-agent",
            "x-app",
            "x-claude-code-session-id",
            "x-goog-upload-command",
            "x-goog-user-project",
            "x-http-method-override",
            "x-stainless-retry-count",
            "x-unheard-of",
        ];
        for name in kept {
            assert!(request_header(name, &Nominated::default(), &call), "{name}");
        }
        let removed = [
            "accept-encoding",
            "api-key",
            "authorization",
            "connection",
            "content-length",
            "cookie",
            "expect",
            "forwarded",
            "host",
            "http2-settings",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "via",
            "x-ace-client",
            "x-api-key",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-goog-api-key",
            "x-real-ip",
        ];
        for name in removed {
            assert!(!request_header(name, &Nominated::default(), &call), "{name}");
        }
    }

    #[test]
    fn an_upgrade_goes_on_without_extensions_and_without_a_credential_among_its_protocols() {
        let Ok(Route::DataPlane(call)) = route(&Method::GET, b"/v1/realtime?model=m", &HeaderMap::new()) else {
            panic!("no call");
        };
        let goes_on = |name: &str, value: &'static str| {
            let value = upgrade_header(name, value.as_bytes(), &nominated("upgrade, x-foo"), &call)?;
            Some(String::from_utf8(value.into_owned()).unwrap())
        };
        for name in [
            "sec-websocket-key",
            "sec-websocket-version",
            "openai-beta",
            "origin",
            "user-agent",
        ] {
            assert_eq!(goes_on(name, "13").as_deref(), Some("13"), "{name}");
        }
        for name in [
            "accept-encoding",
            "authorization",
            "connection",
            "cookie",
            "host",
            "sec-websocket-extensions",
            "upgrade",
            "x-foo",
            "x-forwarded-for",
        ] {
            assert_eq!(goes_on(name, "permessage-deflate"), None, "{name}");
        }
        let protocols = |value| goes_on("sec-websocket-protocol", value);
        assert_eq!(protocols("realtime").as_deref(), Some("realtime"));
        assert_eq!(protocols("a,b ,  c").as_deref(), Some("a,b ,  c"), "as it came");
        assert_eq!(
            protocols("realtime, openai-insecure-api-key.T, openai-beta.realtime-v1").as_deref(),
            Some("realtime, openai-beta.realtime-v1")
        );
        assert_eq!(
            protocols("OpenAI-Insecure-API-Key.T ,realtime").as_deref(),
            Some("realtime")
        );
        assert_eq!(protocols("openai-insecure-api-key.T"), None);
        assert_eq!(protocols(""), None);
    }

    #[test]
    fn trap_16_retry_after_rate_limits_and_request_ids_reach_the_client() {
        let kept = [
            "anthropic-ratelimit-requests-remaining",
            "content-encoding",
            "content-length",
            "content-type",
            "request-id",
            "retry-after",
            "server-timing",
            "x-ratelimit-remaining-tokens",
            "x-request-id",
            "x-should-retry",
        ];
        for name in kept {
            assert!(answer_header(name, &Nominated::default()), "{name}");
        }
        for name in [
            "connection",
            "keep-alive",
            "proxy-authenticate",
            "set-cookie",
            "transfer-encoding",
            "x-ace-request-id",
        ] {
            assert!(!answer_header(name, &Nominated::default()), "{name}");
        }
    }

    #[test]
    fn what_connection_nominates_is_the_connections_own() {
        let call = call("/v1/messages");
        let nominated = nominated("close, X-Foo ,keep-alive,");
        assert!(!request_header("x-foo", &nominated, &call));
        assert!(!answer_header("x-foo", &nominated));
        assert!(request_header("x-bar", &nominated, &call));
    }

    #[test]
    fn what_describes_the_body_cannot_be_nominated_away() {
        let call = call("/v1/messages");
        let nominated = nominated("content-encoding, Content-Type, content-length");
        assert!(request_header("content-encoding", &nominated, &call));
        assert!(request_header("content-type", &nominated, &call));
        assert!(answer_header("content-length", &nominated));
    }

    #[test]
    fn trap_08_an_answer_that_is_metered_is_asked_for_in_clear() {
        assert_eq!(accept_encoding(&call("/v1/messages")), Some("identity"));
        assert_eq!(accept_encoding(&call("/v1/chat/completions")), Some("identity"));
        let free = call("/v1/messages/count_tokens");
        assert_eq!(accept_encoding(&free), None);
        assert!(request_header("accept-encoding", &Nominated::default(), &free));
    }
}
