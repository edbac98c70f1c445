//! What a single value says: a string's text, a count.

use std::borrow::Cow;

/// What a key says, as written between its quotes, escapes (`mod\u0065l`) resolved.
pub fn key_text(raw: &[u8]) -> Cow<'_, str> {
    if raw.contains(&b'\\') {
        Cow::Owned(unescape(raw))
    } else {
        String::from_utf8_lossy(raw)
    }
}

/// The text of a string value. Invalid UTF-8 and lone surrogates become U+FFFD.
pub fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let raw = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    Some(key_text(raw))
}

/// A count, whatever a provider writes one as: fractions are cut off, negatives are 0, what is too big is the most, text
/// is read as a number. `None` for what is no count, `null` above all.
pub fn count(value: &[u8]) -> Option<u64> {
    let digits = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value)
        .trim_ascii();
    let number = digits.first().is_some_and(u8::is_ascii_digit) || matches!(digits, [b'-', b'0'..=b'9', ..]);
    if !number {
        return None;
    }
    if digits.iter().all(u8::is_ascii_digit) {
        let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        return Some(digits.iter().fold(0, add).min(MOST));
    }
    // `as` saturates, and makes 0 of a negative and of what is not a number.
    let float = std::str::from_utf8(digits).ok()?.parse::<f64>().ok()?;
    Some((float as u64).min(MOST))
}

/// No count is above this, so that a few of them can be added in an `i64`, which is what databases hold.
pub const MOST: u64 = (i64::MAX / 8) as u64;

fn unescape(raw: &[u8]) -> String {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = escape(&rest[at + 1..], &mut out);
    }
    out.extend_from_slice(rest);
    String::from_utf8_lossy(&out).into_owned()
}

/// Writes what an escape stands for and returns what follows it.
fn escape<'t>(rest: &'t [u8], out: &mut Vec<u8>) -> &'t [u8] {
    let Some((letter, rest)) = rest.split_first() else {
        return rest;
    };
    let byte = match letter {
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => return unicode(rest, out),
        other => *other,
    };
    out.push(byte);
    rest
}

fn unicode<'t>(rest: &'t [u8], out: &mut Vec<u8>) -> &'t [u8] {
    let mut push = |c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    let Some(unit) = hex4(rest) else {
        push(char::REPLACEMENT_CHARACTER);
        return rest;
    };
    let rest = &rest[4..];
    let low = rest
        .strip_prefix(b"\\u")
        .and_then(hex4)
        .filter(|low| (0xdc00..0xe000).contains(low));
    match (unit, low) {
        (0xd800..0xdc00, Some(low)) => {
            let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
            push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            &rest[6..]
        }
        _ => {
            push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
            rest
        }
    }
}

fn hex4(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text.get(..4)?).ok()?;
    if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        u32::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}
