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
