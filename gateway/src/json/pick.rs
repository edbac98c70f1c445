//! Members of an answer of any size, picked as it flows by: nothing is kept but the few values that are wanted.

use memchr::memchr2;

use super::Nest;

/// Values above this are not kept; a usage object has a few hundred bytes.
const MAX_VALUE: usize = 64 * 1024;

/// No key that is wanted is longer.
const MAX_KEY: usize = 64;

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
                self.value = wanted.map(|key| (*key, Vec::new()));
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
        let means = |byte: &u8| matches!(byte, b'"' | b':' | b',' | b'{' | b'}' | b'[' | b']');
        let end = chunk[at + 1..]
            .iter()
            .position(means)
            .map_or(chunk.len(), |long| at + 1 + long);
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
