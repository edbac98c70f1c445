//! Stepping over values: where one ends, and whether its structure holds.

use std::ops::Range;

use super::{Fault, MAX_DEPTH};

/// Steps over the value at `at`, checking its structure, and returns where it ends.
pub fn skip(text: &[u8], at: usize) -> Result<usize, Fault> {
    match byte(text, at)? {
        b'{' | b'[' => skip_container(text, at),
        b'"' => Ok(string_end(text, at + 1)? + 1),
        _ => scalar_end(text, at),
    }
}

fn skip_container(text: &[u8], mut at: usize) -> Result<usize, Fault> {
    let mut nest = Nest::default();
    loop {
        match byte(text, at)? {
            b'{' => {
                nest.enter(true)?;
                at = space(text, at + 1);
                if byte(text, at)? != b'}' {
                    at = key(text, at)?.1;
                    continue;
                }
            }
            b'[' => {
                nest.enter(false)?;
                at = space(text, at + 1);
                if byte(text, at)? != b']' {
                    continue;
                }
            }
            b'"' => at = string_end(text, at + 1)? + 1,
            _ => at = scalar_end(text, at)?,
        }
        // Behind a value, or at the bracket that closes an empty container.
        loop {
            let Some(in_object) = nest.innermost() else {
                return Ok(at);
            };
            at = space(text, at);
            match (in_object, byte(text, at)?) {
                (true, b',') => {
                    at = key(text, space(text, at + 1))?.1;
                    break;
                }
                (false, b',') => {
                    at = space(text, at + 1);
                    break;
                }
                (true, b'}') | (false, b']') => {
                    nest.leave();
                    at += 1;
                }
                _ => return Err(Fault::Syntax(at)),
            }
        }
    }
}

/// The open containers, outermost first: a set bit is an object.
#[derive(Debug, Default)]
pub(super) struct Nest {
    objects: [u64; MAX_DEPTH / 64],
    pub depth: usize,
}

impl Nest {
    pub fn enter(&mut self, object: bool) -> Result<(), Fault> {
        let word = self.objects.get_mut(self.depth / 64).ok_or(Fault::TooDeep)?;
        let bit = 1 << (self.depth % 64);
        if object {
            *word |= bit
        } else {
            *word &= !bit
        }
        self.depth += 1;
        Ok(())
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    pub fn innermost(&self) -> Option<bool> {
        let at = self.depth.checked_sub(1)?;
        Some(self.objects[at / 64] >> (at % 64) & 1 == 1)
    }
}

pub(super) fn byte(text: &[u8], at: usize) -> Result<u8, Fault> {
    text.get(at).copied().ok_or(Fault::Truncated)
}

pub(super) fn space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The key at `at` without its quotes, and where its value begins.
pub(super) fn key(text: &[u8], at: usize) -> Result<(Range<usize>, usize), Fault> {
    if byte(text, at)? != b'"' {
        return Err(Fault::Syntax(at));
    }
    let end = string_end(text, at + 1)?;
    let colon = space(text, end + 1);
    if byte(text, colon)? != b':' {
        return Err(Fault::Syntax(colon));
    }
    Ok((at + 1..end, space(text, colon + 1)))
}

/// The closing quote of the string whose text begins at `at`.
pub(super) fn string_end(text: &[u8], mut at: usize) -> Result<usize, Fault> {
    loop {
        at += special(text.get(at..).ok_or(Fault::Truncated)?).ok_or(Fault::Truncated)?;
        if text[at] == b'"' {
            return Ok(at);
        }
        at += 2;
    }
}

/// The first quote or backslash. Most strings, and most stretches between two escapes, are shorter than a vector search
/// takes to begin: the first words are looked at one by one.
fn special(text: &[u8]) -> Option<usize> {
    const WORDS: usize = 4;
    let mut at = 0;
    for word in text.as_chunks().0.iter().take(WORDS) {
        let word = u64::from_le_bytes(*word);
        let found = has(word, b'"') | has(word, b'\\');
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr::memchr2(b'"', b'\\', &text[at..]).map(|long| at + long)
}

/// Marks the bytes of a word that are `byte`; the lowest mark is exact, and only that is used.
fn has(word: u64, byte: u8) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let zeroed = word ^ (ONES * u64::from(byte));
    zeroed.wrapping_sub(ONES) & !zeroed & (ONES << 7)
}

/// Numbers, `true`, `false`, `null`, and the `NaN` and `Infinity` that Python writes.
fn scalar_end(text: &[u8], at: usize) -> Result<usize, Fault> {
    let rest = &text[at..];
    let number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
    let word: &[u8] = match rest {
        [b't', ..] => b"true",
        [b'f', ..] => b"false",
        [b'n', ..] => b"null",
        [b'N', ..] => b"NaN",
        [b'I', ..] => b"Infinity",
        [b'-', b'I', ..] => b"-Infinity",
        [b'0'..=b'9' | b'-', ..] => &rest[..rest.iter().take_while(|byte| number(byte)).count()],
        _ => return Err(Fault::Syntax(at)),
    };
    if !rest.starts_with(word) {
        return Err(if word.starts_with(rest) {
            Fault::Truncated
        } else {
            Fault::Syntax(at)
        });
    }
    let end = at + word.len();
    match text.get(end) {
        None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t') => Ok(end),
        Some(_) => Err(Fault::Syntax(end)),
    }
}
