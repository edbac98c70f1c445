//! Parsing and validating HTTP/1 heads. Strict on purpose: what two parsers could read differently is refused.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use memchr::memmem;

use super::Malformed;
use super::body::Decoder;
use crate::engine::headers::{Headers, RequestHead, ResponseHead};

/// The most fields a head may have; the configured limit may be lower.
const MAX_FIELDS: usize = 256;

/// Limits on a head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes of the whole head.
    pub bytes: usize,
    /// Number of fields, at most 256.
    pub fields: usize,
    /// Bytes of the request target.
    pub target: usize,
}

/// Why a head was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// Not HTTP, or ambiguous.
    Malformed(&'static str),
    /// Over [`HeadLimits::bytes`] or [`HeadLimits::fields`].
    TooLarge,
    /// Over [`HeadLimits::target`].
    TargetTooLong,
}

impl From<Malformed> for HeadError {
    fn from(Malformed(why): Malformed) -> Self {
        Self::Malformed(why)
    }
}

/// Where the head in `buffer` ends, if it is complete. `seen` is how many bytes were looked at before.
///
/// A line feed without its carriage return is refused here: parsers differ on what it ends.
pub fn find_end(buffer: &[u8], seen: usize, limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
    let from = seen.saturating_sub(3);
    let end = memmem::find(&buffer[from..], b"\r\n\r\n").map(|at| from + at + 4);
    let looked_at = end.unwrap_or(buffer.len());
    for feed in memchr::memchr_iter(b'\n', &buffer[from..looked_at]) {
        let feed = from + feed;
        if feed == 0 || buffer[feed - 1] != b'\r' {
            return Err(HeadError::Malformed("a line of the head ends in LF without CR"));
        }
    }
    if looked_at > limits.bytes {
        return Err(HeadError::TooLarge);
    }
    Ok(end)
}

/// Parses a complete request head, as found by [`find_end`], and how its body is framed.
pub fn parse_request(head: &Bytes, limits: &HeadLimits) -> Result<(RequestHead, Decoder), HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, head, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(HeadError::Malformed("the head is cut off")),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(_) => return Err(HeadError::Malformed("not an HTTP/1 request head")),
    }
    let method = request
        .method
        .and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    let (Some(method), Some(target)) = (method, request.path) else {
        return Err(HeadError::Malformed("not an HTTP/1 request line"));
    };
    if request.headers.len() > limits.fields {
        return Err(HeadError::TooLarge);
    }
    let version = if request.version == Some(0) {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let headers = map_fields(head, request.headers)?;
    check_target(target, limits)?;
    check_host(&headers, version)?;
    let decoder = request_framing(&headers, version)?;
    Ok((
        RequestHead {
            method,
            target: target.to_owned(),
            version,
            headers,
        },
        decoder,
    ))
}

/// Values are slices of the head, not copies.
fn map_fields(head: &Bytes, parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        match (name, value) {
            (Ok(name), Ok(value)) => headers.append(name, value),
            _ => return Err(Malformed("a header field holds a control character")),
        };
    }
    Ok(headers)
}

fn copy_fields(parsed: &[httparse::Header<'_>]) -> Headers {
    let mut headers = Headers::with_capacity(parsed.len());
    for field in parsed {
        headers.push(field.name, field.value);
    }
    headers
}

/// Only origin-form is served: absolute-form and authority-form are for proxies that we are not.
fn check_target(target: &str, limits: &HeadLimits) -> Result<(), HeadError> {
    if target.len() > limits.target {
        return Err(HeadError::TargetTooLong);
    }
    if !target.starts_with('/') {
        return Err(HeadError::Malformed("the request target is not a path"));
    }
    if !target.bytes().all(|byte| matches!(byte, 0x21..=0x7e)) {
        return Err(HeadError::Malformed(
            "the request target holds a character that must be percent-encoded",
        ));
    }
    Ok(())
}

fn check_host(headers: &HeaderMap, version: Version) -> Result<(), HeadError> {
    let mut hosts = headers.get_all("host").iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeadError::Malformed("more than one Host"));
    }
    match host {
        None if version == Version::HTTP_11 => Err(HeadError::Malformed("Host is missing")),
        Some(host) if !is_authority(host.as_bytes()) => Err(HeadError::Malformed("Host is not a host and port")),
        _ => Ok(()),
    }
}

/// Whether these bytes can be host and port: nothing that starts a path, a query or user information.
pub fn is_authority(host: &[u8]) -> bool {
    host.len() <= 255
        && host
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(byte))
}

fn request_framing(headers: &HeaderMap, version: Version) -> Result<Decoder, HeadError> {
    let length = content_length(headers.get_all("content-length").iter().map(HeaderValue::as_bytes))?;
    let mut codings = headers.get_all("transfer-encoding").iter();
    let Some(coding) = codings.next() else {
        return Ok(Decoder::length(length.unwrap_or(0)));
    };
    if version == Version::HTTP_10 {
        return Err(HeadError::Malformed("Transfer-Encoding in an HTTP/1.0 request"));
    }
    if length.is_some() {
        return Err(HeadError::Malformed("both Content-Length and Transfer-Encoding"));
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(HeadError::Malformed("Transfer-Encoding is not exactly `chunked`"));
    }
    Ok(Decoder::chunked())
}

/// The one `Content-Length`. Several are refused even where they agree: a hop before us may have looked at another one.
pub fn content_length<'v>(mut lengths: impl Iterator<Item = &'v [u8]>) -> Result<Option<u64>, Malformed> {
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    if lengths.next().is_some() {
        return Err(Malformed("more than one Content-Length"));
    }
    if length.is_empty() || length.len() > 19 || !length.iter().all(u8::is_ascii_digit) {
        return Err(Malformed("Content-Length is not a number"));
    }
    let length = length
        .iter()
        .fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(Some(length))
}

/// Parses a complete response head and how its body is framed; `to_head` is whether it answers a HEAD request.
pub fn parse_response(head: &[u8], to_head: bool) -> Result<(ResponseHead, Decoder, bool), Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, head, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(Malformed("not an HTTP/1 response head")),
    }
    let Some(status) = response.code.filter(|code| (100..=599).contains(code)) else {
        return Err(Malformed("not an HTTP status"));
    };
    let headers = copy_fields(response.headers);
    let reason = response.reason.unwrap_or("").to_owned();
    let length = content_length(headers.get_all("content-length"))?;
    let persistent = is_persistent(&headers, response.version);
    let decoder = response_framing(&headers, status, length, to_head)?;
    Ok((
        ResponseHead {
            status,
            reason,
            headers,
            length,
        },
        decoder,
        persistent,
    ))
}

fn is_persistent(headers: &Headers, version: Option<u8>) -> bool {
    match version {
        Some(1) => !headers.lists("connection", "close"),
        _ => headers.lists("connection", "keep-alive") && !headers.contains("transfer-encoding"),
    }
}

fn response_framing(headers: &Headers, status: u16, length: Option<u64>, to_head: bool) -> Result<Decoder, Malformed> {
    let mut codings = headers.get_all("transfer-encoding");
    let framing = match codings.next() {
        None => length.map_or_else(Decoder::until_close, Decoder::length),
        Some(_) if length.is_some() => return Err(Malformed("both Content-Length and Transfer-Encoding")),
        Some(coding) if codings.next().is_none() && coding.eq_ignore_ascii_case(b"chunked") => Decoder::chunked(),
        Some(_) => return Err(Malformed("Transfer-Encoding is not exactly `chunked`")),
    };
    let is_bodiless = to_head || matches!(status, 100..=199 | 204 | 304);
    Ok(if is_bodiless { Decoder::length(0) } else { framing })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 4096,
        fields: 16,
        target: 100,
    };

    fn parse(wire: &[u8]) -> Result<(RequestHead, Decoder), HeadError> {
        match find_end(wire, 0, &LIMITS)? {
            Some(end) => parse_request(&Bytes::copy_from_slice(&wire[..end]), &LIMITS),
            None => Err(HeadError::Malformed("incomplete")),
        }
    }

    #[track_caller]
    fn check_refused(wire: &[u8], why: HeadError) {
        assert_eq!(parse(wire).err(), Some(why), "{}", String::from_utf8_lossy(wire));
    }

    #[test]
    fn an_ordinary_request_is_read_as_it_came() {
        let (head, body) =
            parse(b"POST /v1/x?a=b HTTP/1.1\r\nHost: h:1\r\nX-Y:  z \r\nContent-Length: 3\r\n\r\n").expect("valid");
        assert_eq!(
            (head.method.as_str(), head.path(), head.query()),
            ("POST", "/v1/x", Some("a=b"))
        );
        assert_eq!(head.headers["x-y"], "z");
        assert!(!body.is_done());
    }

    #[test]
    fn what_parsers_disagree_on_is_refused() {
        use HeadError::Malformed;
        for (wire, why) in [
            (
                &b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"[..],
                "more than one Content-Length",
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
                "Content-Length is not a number",
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
                "Content-Length is not a number",
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
                "Content-Length is not a number",
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                "both Content-Length and Transfer-Encoding",
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                "Transfer-Encoding is not exactly `chunked`",
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "Transfer-Encoding is not exactly `chunked`",
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
                "Transfer-Encoding is not exactly `chunked`",
            ),
            (
                b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                "Transfer-Encoding in an HTTP/1.0 request",
            ),
            (b"GET / HTTP/1.1\r\n\r\n", "Host is missing"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "more than one Host"),
            (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "Host is not a host and port"),
            (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "Host is not a host and port"),
            (
                b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
                "the request target is not a path",
            ),
            (
                b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
                "the request target is not a path",
            ),
            (
                b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
                "the request target is not a path",
            ),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "not an HTTP/1 request head"),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\n x: folded\r\n\r\n",
                "not an HTTP/1 request head",
            ),
            (
                b"GET / HTTP/1.1\nHost: a\r\n\r\n",
                "a line of the head ends in LF without CR",
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n",
                "a line of the head ends in LF without CR",
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
                "not an HTTP/1 request head",
            ),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "not an HTTP/1 request head"),
            (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "not an HTTP/1 request head"),
        ] {
            check_refused(wire, Malformed(why));
        }
    }

    #[test]
    fn heads_over_the_limits_are_refused() {
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100));
        check_refused(long.as_bytes(), HeadError::TargetTooLong);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(16));
        check_refused(many.as_bytes(), HeadError::TooLarge);
        let bombs = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(300));
        check_refused(bombs.as_bytes(), HeadError::TooLarge);
        let large = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(5000));
        check_refused(large.as_bytes(), HeadError::TooLarge);
    }

    #[test]
    fn answers_are_framed_by_rfc_9112() {
        let framed = |wire: &str, to_head| {
            parse_response(wire.as_bytes(), to_head)
                .map(|(head, body, persistent)| (head.status, body.is_done(), body.is_until_close(), persistent))
        };
        assert_eq!(
            framed("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false),
            Ok((200, false, false, true))
        );
        assert_eq!(
            framed("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true),
            Ok((200, true, false, true))
        );
        assert_eq!(
            framed("HTTP/1.1 200\r\nConnection: close\r\n\r\n", false),
            Ok((200, false, true, false))
        );
        assert_eq!(
            framed("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
            Ok((200, true, false, false))
        );
        assert_eq!(
            framed("HTTP/1.1 204 No Content\r\n\r\n", false),
            Ok((204, true, false, true))
        );
        assert!(
            framed(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                false
            )
            .is_err()
        );
        assert!(framed("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", false).is_err());
        assert!(framed("garbage\r\n\r\n", false).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_crash_the_parser(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut request = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
            request.extend_from_slice(&wire);
            request.extend_from_slice(b"\r\n\r\n");
            let _ = parse(&request);
            let _ = parse(&wire);
            let _ = parse_response(&wire, false);
        }
    }
}
