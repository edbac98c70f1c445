//! What a request path may look like. Two programs that read one path differently are how a request gets past a check,
//! so whatever could be read in two ways is refused, not repaired.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::PathRefusal::{self, Bad};

/// The target as text, when it is in origin form and has no byte that a URL cannot hold.
pub(super) fn checked(target: &[u8]) -> Result<&str, PathRefusal> {
    if target.first() != Some(&b'/') {
        return Err(Bad("the request target must begin with a slash"));
    }
    // Everything outside printable ASCII, and the fragment, which no client may send.
    if target.iter().any(|byte| !byte.is_ascii_graphic() || *byte == b'#') {
        return Err(Bad("the request target holds a byte that a URL cannot hold"));
    }
    std::str::from_utf8(target).map_err(|_| Bad("the request target is not text"))
}

/// Refuses dot segments, empty segments, and slashes, backslashes or control bytes in any spelling.
pub(super) fn check_segments(path: &str) -> Result<(), PathRefusal> {
    if path.bytes().zip(path.bytes().skip(1)).any(|pair| pair == (b'/', b'/')) {
        return Err(Bad("the path has an empty segment"));
    }
    if path.bytes().any(|byte| byte == b'\\') {
        return Err(Bad("the path has a backslash"));
    }
    if path.bytes().any(|byte| byte == b'%') {
        check_escapes(path)?;
    }
    if path.split('/').any(is_dots) {
        return Err(Bad("the path has a dot segment"));
    }
    Ok(())
}

/// With parameters behind them, some servers still take dots for a dot segment.
fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..") || segment.starts_with("..;") || segment.starts_with(".;")
}

fn check_escapes(path: &str) -> Result<(), PathRefusal> {
    let once = decode_all(path)?;
    // A second layer of escapes is refused with the first: a provider may decode twice.
    let twice = percent_decode_str(&once).collect::<Vec<u8>>();
    let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| matches!(byte, b'/' | b'\\')).count();
    if slashes(&twice) != slashes(path.as_bytes()) {
        return Err(Bad("the path has an encoded slash"));
    }
    if twice.iter().any(u8::is_ascii_control) {
        return Err(Bad("the path has an encoded control byte"));
    }
    if twice
        .split(|byte| *byte == b'/')
        .any(|segment| matches!(segment, b"." | b".."))
    {
        return Err(Bad("the path has a dot segment"));
    }
    Ok(())
}

fn decode_all(path: &str) -> Result<Cow<'_, str>, PathRefusal> {
    let hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = path.as_bytes();
    let broken = memchr::memchr_iter(b'%', bytes).any(|at| !hex(bytes.get(at + 1)) || !hex(bytes.get(at + 2)));
    if broken {
        return Err(Bad("the path has a broken percent escape"));
    }
    percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| Bad("the path is not UTF-8"))
}

/// The path as its provider will read it.
pub(super) fn decoded(path: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    percent_decode_str(path).decode_utf8_lossy()
}

/// How many bytes to skip so that `/v1/v1/…` becomes `/v1/…`: base URLs with and without `/v1` are both common, and
/// clients add their own.
pub(super) fn doubled_version(path: &str) -> usize {
    let mut skip = 0;
    while path[skip..].starts_with("/v1/v1/") || &path[skip..] == "/v1/v1" {
        skip += "/v1".len();
    }
    skip
}

/// Whether a segment is an API version: `v1`, `v1beta`, `v4`.
pub(super) fn is_version(segment: &str) -> bool {
    let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
    segment.starts_with('v') && digit(segment.as_bytes().get(1)) && segment.bytes().all(|b| b.is_ascii_alphanumeric())
}
