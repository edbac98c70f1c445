//! What the gateway tells the control API about a client, in `x-ace-*` headers under an HMAC.
//!
//! The gateway strips headers of these names from every client's request. The control API believes them only with a
//! signature, which binds them to this one request, or on its own trusted socket.

use std::net::IpAddr;

use crate::vault::Subkey;

/// Carries the client's address.
pub const CLIENT: &str = "x-ace-client";
/// Carries the scheme that the client used, `http` or `https`.
pub const SCHEME: &str = "x-ace-scheme";
/// Carries the host that the client asked for.
pub const HOST: &str = "x-ace-host";
/// Carries the request's id.
pub const REQUEST_ID: &str = "x-ace-request-id";
/// Carries the time of signing, in UTC seconds.
pub const TIME: &str = "x-ace-time";
/// Carries the HMAC over all of the above, the method and the target.
pub const SIGNATURE: &str = "x-ace-signature";

/// Every header of ours: what is stripped from a client's request.
pub const NAMES: [&str; 6] = [CLIENT, SCHEME, HOST, REQUEST_ID, TIME, SIGNATURE];

/// How old a signature may be, in seconds; as far may the signer's clock be ahead.
pub const MAX_AGE_S: i64 = 60;

/// What the gateway knows about the client of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EdgeHeaders {
    /// The client's address.
    pub client: IpAddr,
    /// `http` or `https`.
    pub scheme: String,
    /// The host, with the port if one was given.
    pub host: String,
    /// The request's id.
    pub request_id: String,
    /// When the headers were signed, in UTC seconds.
    pub time: i64,
}

impl EdgeHeaders {
    /// The headers to send, but for the signature.
    pub fn to_headers(&self) -> [(&'static str, String); 5] {
        [
            (CLIENT, self.client.to_string()),
            (SCHEME, self.scheme.clone()),
            (HOST, self.host.clone()),
            (REQUEST_ID, self.request_id.clone()),
            (TIME, self.time.to_string()),
        ]
    }

    /// Reads the headers back; `get` gives a header's value by its name.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, EdgeError> {
        let text = |name| get(name).ok_or(EdgeError::Missing(name));
        Ok(Self {
            client: text(CLIENT)?.parse().map_err(|_| EdgeError::Malformed(CLIENT))?,
            scheme: text(SCHEME)?.to_owned(),
            host: text(HOST)?.to_owned(),
            request_id: text(REQUEST_ID)?.to_owned(),
            time: text(TIME)?.parse().map_err(|_| EdgeError::Malformed(TIME))?,
        })
    }

    /// Signs the headers for one request, in hexadecimal.
    pub fn sign(&self, key: &Subkey, method: &str, path_and_query: &str) -> String {
        hex::encode(self.with_fields(method, path_and_query, |fields| key.mac(fields)))
    }

    /// Checks the signature, then that it was made within `max_age_s` of `now`.
    pub fn verify(
        &self,
        key: &Subkey,
        method: &str,
        path_and_query: &str,
        signature: &str,
        now: i64,
        max_age_s: i64,
    ) -> Result<(), EdgeError> {
        let mac = hex::decode(signature).map_err(|_| EdgeError::Malformed(SIGNATURE))?;
        if !self.with_fields(method, path_and_query, |fields| key.verify(fields, &mac)) {
            return Err(EdgeError::BadSignature);
        }
        if now.abs_diff(self.time) > max_age_s.unsigned_abs() {
            return Err(EdgeError::Stale);
        }
        Ok(())
    }

    fn with_fields<T>(&self, method: &str, path_and_query: &str, use_fields: impl FnOnce(&[&[u8]]) -> T) -> T {
        let headers = self.to_headers();
        let [client, scheme, host, request_id, time] = headers.each_ref().map(|(_, value)| value.as_bytes());
        use_fields(&[
            b"edge-v1",
            method.as_bytes(),
            path_and_query.as_bytes(),
            client,
            scheme,
            host,
            request_id,
            time,
        ])
    }
}

/// Why the control API does not believe a request's `x-ace-*` headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EdgeError {
    /// A header is not there: the request did not come through a gateway.
    #[error("the header {0} is missing; reach the control API through a gateway")]
    Missing(&'static str),
    /// A header is there but unreadable.
    #[error("the header {0} is malformed")]
    Malformed(&'static str),
    /// The signature is not by a gateway of this installation, or for another request.
    #[error("the gateway's signature does not match; do gateway and control API have the same encryption key?")]
    BadSignature,
    /// The signature is too old, or from the future.
    #[error("the gateway's signature is stale; compare the clocks of gateway and control API")]
    Stale,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const TARGET: &str = "/api/users?limit=5";

    fn key() -> Subkey {
        Subkey::from_bytes([1; 32])
    }

    fn headers() -> EdgeHeaders {
        EdgeHeaders {
            client: [203, 0, 113, 9].into(),
            scheme: "https".to_owned(),
            host: "ace.example.com".to_owned(),
            request_id: "0198".to_owned(),
            time: NOW,
        }
    }

    #[track_caller]
    fn check(headers: &EdgeHeaders, method: &str, target: &str, now: i64, expected: Result<(), EdgeError>) {
        let signature = self::headers().sign(&key(), "GET", TARGET);
        let found = headers.verify(&key(), method, target, &signature, now, MAX_AGE_S);
        assert_eq!(found, expected, "{headers:?} {method} {target}");
    }

    #[test]
    fn a_signature_is_for_one_request_and_one_client() {
        check(&headers(), "GET", TARGET, NOW, Ok(()));
        check(&headers(), "POST", TARGET, NOW, Err(EdgeError::BadSignature));
        check(&headers(), "GET", "/api/users", NOW, Err(EdgeError::BadSignature));
        let local = EdgeHeaders {
            client: [127, 0, 0, 1].into(),
            ..headers()
        };
        let plain = EdgeHeaders {
            scheme: "http".to_owned(),
            ..headers()
        };
        let moved = EdgeHeaders {
            host: "ace.example.co".to_owned(),
            request_id: "m0198".to_owned(),
            ..headers()
        };
        let later = EdgeHeaders {
            time: NOW + 1,
            ..headers()
        };
        for changed in [local, plain, moved, later] {
            check(&changed, "GET", TARGET, NOW, Err(EdgeError::BadSignature));
        }
    }

    #[test]
    fn a_signature_lasts_a_minute_either_way() {
        check(&headers(), "GET", TARGET, NOW + 60, Ok(()));
        check(&headers(), "GET", TARGET, NOW - 60, Ok(()));
        check(&headers(), "GET", TARGET, NOW + 61, Err(EdgeError::Stale));
        check(&headers(), "GET", TARGET, NOW - 61, Err(EdgeError::Stale));
        check(&headers(), "GET", TARGET, i64::MIN, Err(EdgeError::Stale));
    }

    #[test]
    fn other_keys_and_broken_signatures_are_refused() {
        let verify = |key: &Subkey, signature: &str| headers().verify(key, "GET", TARGET, signature, NOW, MAX_AGE_S);
        let signature = headers().sign(&key(), "GET", TARGET);
        assert_eq!(
            verify(&Subkey::from_bytes([2; 32]), &signature),
            Err(EdgeError::BadSignature)
        );
        assert_eq!(verify(&key(), &signature[..62]), Err(EdgeError::BadSignature));
        assert_eq!(verify(&key(), ""), Err(EdgeError::BadSignature));
        assert_eq!(verify(&key(), "zz"), Err(EdgeError::Malformed(SIGNATURE)));
    }

    #[test]
    fn headers_read_back_what_was_sent() {
        let sent = headers().to_headers();
        let get = |name: &str| {
            sent.iter()
                .find(|(sent, _)| *sent == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(EdgeHeaders::read(get), Ok(headers()));
        assert_eq!(
            EdgeHeaders::read(|name| get(name).filter(|_| name != HOST)),
            Err(EdgeError::Missing(HOST))
        );
        let strange = |name: &str| if name == CLIENT { Some("example.com") } else { get(name) };
        assert_eq!(EdgeHeaders::read(strange), Err(EdgeError::Malformed(CLIENT)));
        assert!(NAMES.iter().all(|name| name.starts_with("x-ace-")));
    }

    proptest! {
        #[test]
        fn no_two_requests_share_a_signature(a in (".*", ".*", ".*"), b in (".*", ".*", ".*")) {
            let sign = |(host, id, target): &(String, String, String)| {
                EdgeHeaders { host: host.clone(), request_id: id.clone(), ..headers() }.sign(&key(), "GET", target)
            };
            prop_assert_eq!(a == b, sign(&a) == sign(&b));
        }

        #[test]
        fn any_signature_can_be_checked(signature in ".*") {
            prop_assert!(headers().verify(&key(), "GET", TARGET, &signature, NOW, MAX_AGE_S).is_err());
        }
    }
}
