//! JSON read where it lies: finding a member's bytes without building a tree and without changing one of them.
//!
//! Strict about structure, so that no two parsers can see different members in a text that passed here; lenient about
//! what cannot hide anything: invalid UTF-8, big or odd numbers, control bytes in strings.

use std::ops::Range;

pub use pick::Picker;
pub use scan::skip;
use scan::{byte, key, space, string_end};
pub use value::{MOST, count, key_text, text};

mod pick;
mod scan;
mod value;

/// Deeper nesting is refused; JSON Schemas of real tools stay below forty.
pub const MAX_DEPTH: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The text ends too early.
    Truncated,
    /// A byte that cannot stand there, by its offset.
    Syntax(usize),
    TooDeep,
}

/// A member of an object, by the offsets of its key (without quotes) and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub key: Range<usize>,
    pub value: Range<usize>,
}

/// Walks the members of the object at `at`, in order, duplicates included.
#[derive(Clone, Debug)]
pub struct Members<'t> {
    text: &'t [u8],
    at: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opened,
    Between,
    Done,
}

impl<'t> Members<'t> {
    /// The object that begins at `at`; `None` where something else does.
    pub fn at(text: &'t [u8], at: usize) -> Option<Self> {
        (text.get(at) == Some(&b'{')).then_some(Self {
            text,
            at: at + 1,
            state: State::Opened,
        })
    }

    /// The object that a text is, after a byte order mark and white space.
    pub fn of(text: &'t [u8]) -> Option<Self> {
        Self::at(text, start(text))
    }

    /// Where the walk stands: after the last `Ok`, behind that member's value; at the end, behind the closing brace.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Reads up to the next value: its key, and where the value begins.
    fn next_key(&mut self) -> Result<Option<(Range<usize>, usize)>, Fault> {
        let mut at = space(self.text, self.at);
        match (self.state, byte(self.text, at)?) {
            (State::Done, _) => return Ok(None),
            (_, b'}') => {
                (self.at, self.state) = (at + 1, State::Done);
                return Ok(None);
            }
            (State::Between, b',') => at = space(self.text, at + 1),
            (State::Between, _) => return Err(Fault::Syntax(at)),
            (State::Opened, _) => {}
        }
        let (key, value) = key(self.text, at)?;
        Ok(Some((key, value)))
    }

    fn step(&mut self) -> Result<Option<Member>, Fault> {
        if self.state == State::Done {
            return Ok(None);
        }
        let Some((key, value)) = self.next_key()? else {
            return Ok(None);
        };
        let end = skip(self.text, value)?;
        (self.at, self.state) = (end, State::Between);
        Ok(Some(Member { key, value: value..end }))
    }
}

impl Iterator for Members<'_> {
    type Item = Result<Member, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.state = State::Done;
        }
        step.transpose()
    }
}

/// Finds a member's value in an object, the last of several, as parsers do. A text that breaks off has what came before.
pub fn find<'t>(object: &'t [u8], key: &str) -> Option<&'t [u8]> {
    let members = Members::of(object)?.map_while(Result::ok);
    members
        .filter(|member| &object[member.key.clone()] == key.as_bytes())
        .last()
        .map(|member| &object[member.value])
}

/// The elements of an array, as far as they can be read.
pub fn elements(array: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = (array.first() == Some(&b'[')).then(|| space(array, 1));
    std::iter::from_fn(move || {
        let begin = at?;
        let end = skip(array, begin).ok()?;
        let comma = space(array, end);
        at = (array.get(comma) == Some(&b',')).then(|| space(array, comma + 1));
        Some(&array[begin..end])
    })
}

/// What an array that may break off begins with: the first byte of its first element, or `]`.
pub fn first_of(array: &[u8]) -> Option<u8> {
    array.strip_prefix(b"[")?.trim_ascii_start().first().copied()
}

/// Hands every string in a text, at whatever depth, to `each`, with the key that it stands behind.
pub fn strings<'t>(text: &'t [u8], mut each: impl FnMut(&'t [u8], &'t [u8])) {
    let mut key: &[u8] = b"";
    let mut at = 0;
    while let Some(quote) = memchr::memchr(b'"', &text[at..]) {
        let begin = at + quote + 1;
        let Ok(end) = string_end(text, begin) else { break };
        at = end + 1;
        if text.get(space(text, at)) == Some(&b':') {
            key = &text[begin..end];
        } else {
            each(key, &text[begin..end]);
        }
    }
}

/// The number of bytes in the strings of a text that stand behind the keys that `is_text`.
pub fn text_bytes(text: &[u8], is_text: fn(&[u8]) -> bool) -> u64 {
    let mut sum = 0;
    strings(text, |key, value| {
        sum += if is_text(key) { value.len() as u64 } else { 0 }
    });
    sum
}

/// How the member `key` of a text that may break off begins: what is there of its value, or `None` where the text does
/// not reach it.
pub fn begins<'t>(object: &'t [u8], wanted: &str) -> Option<&'t [u8]> {
    let mut members = Members::of(object)?;
    loop {
        let (key, value) = members.next_key().ok()??;
        if &object[key] == wanted.as_bytes() {
            return object.get(value..);
        }
        (members.at, members.state) = (skip(object, value).ok()?, State::Between);
    }
}

/// Where a text's one value begins: after a byte order mark and white space.
pub fn start(text: &[u8]) -> usize {
    let mark = if text.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    space(text, mark)
}

/// Checks that nothing but white space follows.
pub fn ends(text: &[u8], at: usize) -> Result<(), Fault> {
    match space(text, at) {
        at if at == text.len() => Ok(()),
        at => Err(Fault::Syntax(at)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn whole(text: &[u8]) -> Result<(), Fault> {
        ends(text, skip(text, start(text))?)
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn what_is_json_is_stepped_over() {
        for text in [
            "{}",
            "[]",
            " [ ] ",
            "{ }",
            "\"\"",
            "1",
            "-1.5e+3",
            "null",
            "[1,[2,[{}]],\"]\"]",
            "\u{feff}{\"a\":1}",
            "{\"a\" : { \"b\" :[ true , false ,null]} , \"a\":2}",
            "[NaN,Infinity,-Infinity]",
            "{\"\\\"\":\"\\\\\"}",
        ] {
            assert_eq!(whole(text.as_bytes()), Ok(()), "{text}");
        }
        assert_eq!(
            whole(b"{\"a\":\"\xff\n\"}"),
            Ok(()),
            "invalid UTF-8 and a raw line feed"
        );
    }

    #[test]
    fn what_is_not_json_is_told_with_its_place() {
        for text in [
            "", "{", "[1", "\"abc", "{\"a\"", "{\"a\":", "{\"a\":1", "[1,", "tru", "{\"a\\",
        ] {
            assert_eq!(whole(text.as_bytes()), Err(Fault::Truncated), "{text}");
        }
        for (text, at) in [
            ("{,}", 1),
            ("[1 2]", 3),
            ("{\"a\" 1}", 5),
            ("{a:1}", 1),
            ("[1}", 2),
            ("{\"a\":1]", 6),
            ("[1,]", 3),
            ("{\"a\":1,}", 7),
            ("{\"a\":1} x", 8),
            ("nope", 0),
            ("[truex]", 5),
            ("{\"a\":/**/1}", 5),
            ("'a'", 0),
        ] {
            assert_eq!(whole(text.as_bytes()), Err(Fault::Syntax(at)), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
        assert_eq!(whole(&nested(MAX_DEPTH)), Ok(()));
        assert_eq!(whole(&nested(MAX_DEPTH + 1)), Err(Fault::TooDeep));
        assert_eq!(whole(&b"[".repeat(1_000_000)), Err(Fault::TooDeep));
    }

    #[test]
    fn the_last_of_several_members_is_found_and_a_broken_text_has_what_came_before() {
        assert_eq!(find(br#"{"a":1,"b":2,"a":3}"#, "a"), Some(&b"3"[..]));
        assert_eq!(find(br#"{"a":1,"b":[2,"#, "a"), Some(&b"1"[..]));
        assert_eq!(find(br#"{"a":1,"b":[2,"#, "b"), None);
        assert_eq!(find(b"[1]", "a"), None);
        assert_eq!(begins(br#"{"a":1,"b":[2,"#, "b"), Some(&b"[2,"[..]));
        assert_eq!(begins(br#"{"a":1,"b":"#, "b"), Some(&b""[..]));
        assert_eq!(begins(br#"{"a":1,"b"#, "b"), None);
    }

    #[test]
    fn elements_of_an_array() {
        let read = |text: &'static str| {
            elements(text.as_bytes())
                .map(String::from_utf8_lossy)
                .collect::<Vec<_>>()
        };
        assert_eq!(read("[1, {\"a\":[2]} ,3]"), ["1", "{\"a\":[2]}", "3"]);
        assert_eq!(read("[1,{\"a\""), ["1"]);
        assert!(read("[ ]").is_empty());
        assert!(read("{}").is_empty());
    }

    #[test]
    fn trap_18_counts_keep_every_digit_and_never_fail() {
        let table = [
            ("0", Some(0)),
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("\"12\"", Some(12)),
            ("12.9", Some(12)),
            ("1e3", Some(1000)),
            ("-5", Some(0)),
            ("-0.0", Some(0)),
            ("1e400", Some(MOST)),
            ("1e18", Some(1_000_000_000_000_000_000)),
            ("99999999999999999999999", Some(MOST)),
            ("null", None),
            ("true", None),
            ("{}", None),
            ("\"many\"", None),
            ("", None),
            ("12abc", None),
            ("NaN", None),
        ];
        for (text, expected) in table {
            assert_eq!(count(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn text_is_unescaped() {
        let table: [(&[u8], &str); 6] = [
            (b"\"plain\"", "plain"),
            (br#""mod\u0065l""#, "model"),
            (br#""a\"b\\c\/d\n""#, "a\"b\\c/d\n"),
            (br#""\ud83d\ude00""#, "\u{1f600}"),
            (br#""\ud83d x""#, "\u{fffd} x"),
            (b"\"\xff\"", "\u{fffd}"),
        ];
        for (value, expected) in table {
            assert_eq!(text(value).unwrap(), expected);
        }
        assert_eq!(text(b"1"), None);
        assert_eq!(text(b"\""), None);
    }

    #[test]
    fn text_is_counted_by_its_key_at_any_depth() {
        let is_text: fn(&[u8]) -> bool = |key| key == b"text";
        let json = br#"{"text":"abcd","x":{"text" : "ef\n"},"other":"text","y":["text","no"],"text":7}"#;
        assert_eq!(text_bytes(json, is_text), 8);
        assert_eq!(text_bytes(br#"{"text":"abc"#, is_text), 0);
    }

    proptest! {
        /// We and a whole parser see the same members.
        #[test]
        fn members_are_a_parsers_members(value in any_json(), pretty in any::<bool>()) {
            let json = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            prop_assert_eq!(whole(json.as_bytes()), Ok(()));
            // Read again, because a parser may round a float.
            if let Value::Object(map) = &serde_json::from_str::<Value>(&json).unwrap() {
                let members = Members::of(json.as_bytes()).unwrap().map(Result::unwrap).collect::<Vec<_>>();
                prop_assert_eq!(members.len(), map.len());
                for (member, (key, value)) in members.iter().zip(map) {
                    prop_assert_eq!(key_text(&json.as_bytes()[member.key.clone()]), key.as_str());
                    prop_assert_eq!(&serde_json::from_str::<Value>(&json[member.value.clone()]).unwrap(), value);
                }
            }
        }

        /// No text that ends too early or has a byte changed makes the reader panic, and none that is cut passes.
        #[test]
        fn broken_texts_are_survived(value in any_json(), cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut json = serde_json::to_vec(&value).unwrap();
            let at = cut.index(json.len());
            if matches!(json[0], b'{' | b'[' | b'"') {
                prop_assert!(whole(&json[..at]).is_err());
            }
            json[at] = byte;
            let _ = (whole(&json), find(&json, "a"), begins(&json, "a"), elements(&json).count(), text(&json), count(&json));
            let _ = text_bytes(&json, |_| true);
        }
    }
}
