//! Message heads as they came: names in their case, values in their bytes, order and duplicates kept.

use http::{HeaderMap, Method, Version};

/// An ordered list of header fields over one buffer. It has no `Debug`: values may be credentials.
#[derive(Default, Clone)]
pub struct Headers {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

#[derive(Clone, Copy)]
struct Field {
    start: u32,
    name_len: u16,
    value_len: u32,
}

impl Headers {
    /// An empty list with room for `fields` fields of about 40 bytes.
    pub fn with_capacity(fields: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(fields * 40),
            fields: Vec::with_capacity(fields),
        }
    }

    /// Adds a field at the end. A name longer than 64 KiB is cut off by the head limits long before it gets here.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(value);
        self.fields.push(Field {
            start,
            name_len: name.len() as u16,
            value_len: value.len() as u32,
        });
    }

    /// All fields in order, names in the case in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| self.field(field))
    }

    fn field(&self, field: &Field) -> (&str, &[u8]) {
        let value = field.start as usize + field.name_len as usize;
        let name = &self.bytes[field.start as usize..value];
        // Names are pushed as `&str` only, so this never takes the fallback.
        (
            std::str::from_utf8(name).unwrap_or(""),
            &self.bytes[value..value + field.value_len as usize],
        )
    }

    /// The first value of `name`, compared without regard to case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// The first value of `name`, where it is text.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All values of `name`, in order.
    pub fn get_all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.fields
            .iter()
            .filter(move |field| field.name_len as usize == name.len())
            .map(|field| self.field(field))
            .filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Whether there is a field of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// How many fields there are, duplicates counted.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field at all.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether a comma-separated list in the fields called `name` holds `token`, without regard to case.
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.get_all(name).any(|value| holds(value, token))
    }
}

/// Whether a comma-separated list in the fields called `name` holds `token`, without regard to case.
pub fn lists(headers: &HeaderMap, name: &str, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| holds(value.as_bytes(), token))
}

fn holds(list: &[u8], token: &str) -> bool {
    list.split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The head of a request, validated: origin-form target, one unambiguous framing, at most one `Host`.
pub struct RequestHead {
    /// Any method, known or not.
    pub method: Method,
    /// The request target as it came: path and query, visible ASCII only.
    pub target: String,
    /// 1.0, 1.1 or 2.
    pub version: Version,
    /// All fields, names in lower case; for HTTP/2 without pseudo-headers, with `host` from `:authority`.
    pub headers: HeaderMap,
}

impl RequestHead {
    /// The target up to the first `?`.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }

    /// The target after the first `?`, if there is one.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// Whether the client asks to leave HTTP (a WebSocket, for instance).
    pub fn wants_upgrade(&self) -> bool {
        self.version == Version::HTTP_11
            && self.headers.contains_key("upgrade")
            && lists(&self.headers, "connection", "upgrade")
    }
}

/// The head of a provider's answer.
pub struct ResponseHead {
    /// Status code, 101 or 200 to 599.
    pub status: u16,
    /// Reason phrase as it came, empty over HTTP/2.
    pub reason: String,
    /// All fields as they came.
    pub headers: Headers,
    /// Length of the body where the head tells it.
    pub length: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_case_and_duplicates_are_kept() {
        let mut headers = Headers::default();
        headers.push("X-B", b"1");
        headers.push("x-a", b"\xff");
        headers.push("x-b", b"2");
        let all: Vec<_> = headers.iter().collect();
        assert_eq!(all, [("X-B", &b"1"[..]), ("x-a", b"\xff"), ("x-b", b"2")]);
        assert_eq!(headers.get_all("X-b").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(headers.get("x-c"), None);
    }

    #[test]
    fn lists_are_read_across_fields() {
        let mut headers = Headers::default();
        headers.push("Connection", b"keep-alive");
        headers.push("connection", b"x , Upgrade");
        assert!(headers.lists("Connection", "upgrade"));
        assert!(!headers.lists("connection", "up"));
    }
}
