//! Members of an answer of any size, picked as it flows by: nothing is kept but the few values that are wanted.

use memchr::memchr2;

use super::scan::Nest;

/// Values above this are not kept; a usage object has a few hundred bytes.
const MAX_VALUE: usize = 64 * 1024;

/// What a usage object usually takes: room for it at once saves growing by doublings.
const USUAL_VALUE: usize = 256;

/// No key that is wanted is longer.
const MAX_KEY: usize = 64;

/// Bytes that mean something outside strings; between the elements of an inner array commas mean nothing.
const MEANS: [bool; 256] = marked(b"\":,{}[]");
const MEANS_IN_ARRAY: [bool; 256] = marked(b"\":{}[]");

const fn marked(bytes: &[u8]) -> [bool; 256] {
    let mut marked = [false; 256];
    let mut at = 0;
    while at < bytes.len() {
        marked[bytes[at] as usize] = true;
        at += 1;
    }
    marked
}

/// Reads one JSON text in pieces, and picks members of the object that it is, or of the objects in the array that it is.
#[derive(Debug)]
pub struct Picker {
    wanted: &'static [&'static str],
    is_text: fn(&[u8]) -> bool,
    nest: Nest,
    root_is_array: bool,
    ended: bool,
    lost: bool,
    expects_key: bool,
    within: Within,
    key: Vec<u8>,
    /// The wanted member whose value is passing, and what has passed of it.
    value: Option<(&'static str, Vec<u8>)>,
    text_bytes: u64,
    /// The last structural byte.
    last: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    Structure,
    Key,
    Value,
    KeyEscape,
    ValueEscape,
}

impl Picker {
    /// Picks the `wanted` members, and counts the bytes of all strings whose key `is_text`.
    pub fn new(wanted: &'static [&'static str], is_text: fn(&[u8]) -> bool) -> Self {
        Self {
            wanted,
            is_text,
            nest: Nest::default(),
            root_is_array: false,
            ended: false,
            lost: false,
            expects_key: false,
            within: Within::Structure,
            key: Vec::new(),
            value: None,
            text_bytes: 0,
            last: 0,
        }
    }

    /// Reads a piece and hands every wanted member that ends in it to `each`.
    pub fn feed(&mut self, chunk: &[u8], mut each: impl FnMut(&'static str, &[u8])) {
        let mut at = 0;
        while at < chunk.len() && !self.lost {
            at = match self.within {
                Within::Structure => self.structure(chunk, at, &mut each),
                Within::Key | Within::Value => self.string(chunk, at),
                Within::KeyEscape => self.escaped(chunk[at], Within::Key, at),
                Within::ValueEscape => self.escaped(chunk[at], Within::Value, at),
            };
        }
    }

    /// Whether the text came to its end.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether the text is no JSON that could be read on.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    pub fn root_is_array(&self) -> bool {
        self.root_is_array
    }

    /// Whether the text stands between two elements of the array that it is.
    pub fn between_elements(&self) -> bool {
        self.root_is_array && self.nest.depth == 1 && self.within == Within::Structure
    }

    /// Whether the array's next byte may begin an element, without a comma before it.
    pub fn expects_element(&self) -> bool {
        self.between_elements() && matches!(self.last, b'[' | b',')
    }

    /// How many bytes of text have passed since this was last asked for.
    pub fn take_text_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.text_bytes)
    }

    fn structure(&mut self, chunk: &[u8], at: usize, each: &mut impl FnMut(&'static str, &[u8])) -> usize {
        let byte = chunk[at];
        match byte {
            b'"' if self.expects_key => {
                self.key.clear();
                self.within = Within::Key;
            }
            b'"' => self.within = Within::Value,
            b':' if self.at_level() => {
                self.expects_key = false;
                let wanted = self.wanted.iter().find(|wanted| wanted.as_bytes() == self.key);
                self.value = wanted.map(|key| (*key, Vec::with_capacity(USUAL_VALUE)));
                return at + 1;
            }
            b':' => self.expects_key = false,
            b',' => {
                self.end_value(each);
                self.expects_key = self.nest.innermost() == Some(true);
            }
            b'{' | b'[' => self.enter(byte == b'{'),
            b'}' | b']' => {
                self.end_value(each);
                self.leave();
            }
            _ => return self.plain(chunk, at),
        }
        self.keep(&chunk[at..=at]);
        self.last = byte;
        at + 1
    }

    /// Numbers, literals and white space, up to the next byte that means something.
    fn plain(&mut self, chunk: &[u8], at: usize) -> usize {
        let in_array = self.nest.depth > 1 && self.nest.innermost() == Some(false);
        let means = if in_array { &MEANS_IN_ARRAY } else { &MEANS };
        let end = chunk[at + 1..].iter().position(|byte| means[usize::from(*byte)]);
        let end = end.map_or(chunk.len(), |long| at + 1 + long);
        self.keep(&chunk[at..end]);
        end
    }

    fn string(&mut self, chunk: &[u8], at: usize) -> usize {
        let end = memchr2(b'"', b'\\', &chunk[at..]).map_or(chunk.len(), |long| at + long);
        let part = &chunk[at..end];
        self.keep(part);
        let is_key = self.within == Within::Key;
        if is_key {
            let room = MAX_KEY.saturating_sub(self.key.len()).min(part.len());
            self.key.extend_from_slice(&part[..room]);
        } else if (self.is_text)(&self.key) {
            self.text_bytes += part.len() as u64;
        }
        let Some(stop) = chunk.get(end) else { return end };
        self.keep(&[*stop]);
        self.within = match (stop, is_key) {
            (b'"', _) => Within::Structure,
            (_, true) => Within::KeyEscape,
            (_, false) => Within::ValueEscape,
        };
        end + 1
    }

    fn escaped(&mut self, byte: u8, back: Within, at: usize) -> usize {
        self.keep(&[byte]);
        if back == Within::Value && (self.is_text)(&self.key) {
            self.text_bytes += 2;
        }
        self.within = back;
        at + 1
    }

    fn keep(&mut self, part: &[u8]) {
        if let Some((_, value)) = &mut self.value {
            if value.len() + part.len() > MAX_VALUE {
                self.value = None;
            } else {
                value.extend_from_slice(part);
            }
        }
    }

    fn end_value(&mut self, each: &mut impl FnMut(&'static str, &[u8])) {
        if self.at_level()
            && let Some((key, value)) = self.value.take()
        {
            each(key, value.trim_ascii());
        }
    }

    /// Whether members of the innermost container are the ones to pick from.
    fn at_level(&self) -> bool {
        self.nest.depth == 1 + usize::from(self.root_is_array) && self.nest.innermost() == Some(true)
    }

    fn enter(&mut self, object: bool) {
        self.root_is_array |= self.nest.depth == 0 && !object;
        self.lost = self.nest.enter(object).is_err();
        self.expects_key = object;
    }

    fn leave(&mut self) {
        if self.nest.depth == 0 {
            self.lost = true;
            return;
        }
        self.nest.leave();
        self.ended = self.nest.depth == 0;
        self.expects_key = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: &[&str] = &["usage", "model"];

    /// What is picked from a text that comes in pieces of these lengths, over and over.
    fn picked(text: &[u8], pieces: &[usize]) -> (Vec<String>, u64, bool) {
        let mut picker = Picker::new(WANTED, |key| key == b"text");
        let mut found = Vec::new();
        let mut rest = text;
        for piece in pieces.iter().cycle() {
            let (head, tail) = rest.split_at((*piece).min(rest.len()));
            picker.feed(head, |key, value| {
                found.push(format!("{key}={}", String::from_utf8_lossy(value)))
            });
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        let bytes = picker.take_text_bytes();
        (found, bytes, picker.ended())
    }

    #[track_caller]
    fn picks(text: &str, expected: &[&str], bytes: u64) {
        let found = expected.iter().map(|found| (*found).to_owned()).collect::<Vec<_>>();
        for piece in 1..=text.len().max(1) {
            assert_eq!(
                picked(text.as_bytes(), &[piece]),
                (found.clone(), bytes, true),
                "in pieces of {piece}: {text}"
            );
        }
    }

    #[test]
    fn members_of_the_object() {
        picks(
            r#"{"model":"m","x":[{"usage":1}],"usage":{"a":[1,{"b":"}\""}]}}"#,
            &["model=\"m\"", "usage={\"a\":[1,{\"b\":\"}\\\"\"}]}"],
            0,
        );
        picks("{ \"usage\" : 12 , \"model\" : null }", &["usage=12", "model=null"], 0);
        picks(r#"{"a":{"usage":1},"b":"usage","c":["usage",{"model":2}]}"#, &[], 0);
        picks(r#"{"a\":":"}","usage":1}"#, &["usage=1"], 0);
    }

    #[test]
    fn members_of_the_objects_in_an_array() {
        picks(
            "[{\"usage\":{\"n\":1}},\n{\"usage\":{\"n\":2},\"model\":\"m\"}]",
            &["usage={\"n\":1}", "usage={\"n\":2}", "model=\"m\""],
            0,
        );
        picks(r#"[[{"usage":1}]]"#, &[], 0);
    }

    #[test]
    fn text_is_counted() {
        picks(r#"{"text":"abcd","x":[{"text":"e\n"}],"y":"no"}"#, &[], 7);
    }

    #[test]
    fn a_value_that_is_too_large_is_let_go() {
        let text = format!(r#"{{"usage":"{}","model":1}}"#, "x".repeat(MAX_VALUE));
        assert_eq!(picked(text.as_bytes(), &[1000]).0, ["model=1"]);
    }

    #[test]
    fn where_an_array_may_be_continued() {
        let stands = |text: &str| {
            let mut picker = Picker::new(WANTED, |_| false);
            picker.feed(text.as_bytes(), |_, _| {});
            (picker.between_elements(), picker.expects_element())
        };
        assert_eq!(stands("["), (true, true));
        assert_eq!(stands("[{}"), (true, false));
        assert_eq!(stands("[{},\n"), (true, true));
        assert_eq!(stands("[{\"a\":"), (false, false));
        assert_eq!(stands("[{}]"), (false, false));
        assert_eq!(stands("{"), (false, false));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200), piece in 1usize..20) {
            picked(&text, &[piece]);
        }

        #[test]
        fn no_nest_makes_it_panic(text in "[\\[\\]{}:,\"\\\\a1 ]{0,60}", piece in 1usize..9) {
            picked(text.as_bytes(), &[piece]);
        }
    }
}
