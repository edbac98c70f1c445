//! Request bodies: read where they lie, and changed in two places at most, by splicing. A body is never written anew,
//! because nobody gets numbers, key order and duplicates back the way the client wrote them.

use std::borrow::Cow;
use std::ops::Range;

use crate::json::{self, Fault, Members};
use crate::route::Api;

mod decode;

/// A request body and what was found in it.
#[derive(Debug)]
pub struct Body<'b> {
    /// What was read: the body, or the decoded copy of a compressed one.
    text: Cow<'b, [u8]>,
    /// `None` where the body was not read: it is empty, no JSON, or in an encoding that is not known here.
    fields: Option<Fields>,
    /// A compressed body goes on as it came.
    editable: bool,
}

#[derive(Debug, Default)]
struct Fields {
    /// The member that JSON parsers take: the last.
    model: Option<Range<usize>>,
    /// What a parser that takes the first, or that ignores case, would take instead.
    other_models: Vec<Range<usize>>,
    stream: Option<Range<usize>>,
    stream_options: Option<Range<usize>>,
    service_tier: Option<Range<usize>>,
    /// Anthropic's fast mode is asked for.
    is_fast: bool,
    max_output: Option<u64>,
    answers: u64,
}

/// One change: the bytes of `range` give way to `with`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub range: Range<usize>,
    pub with: Vec<u8>,
}

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// 400: the content type says JSON, the bytes say otherwise.
    NotJson(Fault),
    /// 400: the bytes are not in the encoding that the header names.
    NotEncoded(&'static str),
    /// 413: decoded, the body is above the limit.
    DecodedTooLarge { max_bytes: usize },
}

impl<'b> Body<'b> {
    /// Reads a whole body. What is no JSON by its content type stays unread, if it does not look like an object anyway;
    /// a compressed body is read from a copy of at most `max_decoded` bytes.
    pub fn read(
        bytes: &'b [u8],
        content_type: Option<&str>,
        content_encoding: Option<&str>,
        max_decoded: usize,
    ) -> Result<Self, BodyError> {
        let says = content_type.map_or(Says::Nothing, says);
        let unread = |text| Self {
            text,
            fields: None,
            editable: false,
        };
        if bytes.is_empty() || says == Says::Opaque {
            return Ok(unread(Cow::Borrowed(bytes)));
        }
        let Some(text) = decode::decoded(bytes, content_encoding, max_decoded)? else {
            return Ok(unread(Cow::Borrowed(bytes)));
        };
        let editable = matches!(text, Cow::Borrowed(_));
        match scan(&text) {
            Ok(fields) => Ok(Self {
                text,
                fields: Some(fields),
                editable,
            }),
            Err(fault) if says == Says::Json => Err(BodyError::NotJson(fault)),
            Err(_) => Ok(unread(text)),
        }
    }

    /// Whether the body was read as JSON.
    pub fn is_read(&self) -> bool {
        self.fields.is_some()
    }

    /// The model asked for, as parsers take it; `None` where it is missing, `null` or no text.
    pub fn model(&self) -> Option<Cow<'_, str>> {
        json::text(self.value(self.fields.as_ref()?.model.as_ref()?))
    }

    /// Every model that some parser could take from this body.
    pub(crate) fn all_models(&self) -> impl Iterator<Item = Option<Cow<'_, str>>> {
        let ranges = self
            .fields
            .iter()
            .flat_map(|fields| fields.model.iter().chain(&fields.other_models));
        ranges.map(|range| json::text(self.value(range)))
    }

    /// Whether a stream is asked for in the body.
    pub fn streams(&self) -> bool {
        let stream = self.fields.as_ref().and_then(|fields| fields.stream.as_ref());
        stream.is_some_and(|range| self.value(range) == b"true")
    }

    /// The most output tokens that the request allows for one answer, where it says so.
    pub fn max_output(&self) -> Option<u64> {
        self.fields.as_ref()?.max_output
    }

    /// How many answers are asked for at once.
    pub fn answers(&self) -> u64 {
        self.fields.as_ref().map_or(1, |fields| fields.answers.max(1))
    }

    /// Bytes of it, decoded.
    pub fn bytes(&self) -> u64 {
        self.text.len() as u64
    }

    /// Bytes of it that a model reads as text: all of them, but for files, of which a model makes far fewer tokens than they have bytes.
    pub fn readable_bytes(&self) -> u64 {
        let all = self.text.len() as u64;
        match self.is_read() {
            true if all > LONG as u64 => all - self.packed_bytes(),
            true => all,
            false => all / PACKED,
        }
    }

    /// What is not counted of the files in a JSON text, which stand there in base64.
    fn packed_bytes(&self) -> u64 {
        let mut packed = 0;
        json::strings(&self.text, |_, text| {
            if text.len() > LONG && is_packed(text) {
                packed += text.len() as u64 / PACKED * (PACKED - 1);
            }
        });
        packed
    }

    /// The service tier that is asked for; `fast` for Anthropic's fast mode, which goes by another name but has prices of its own.
    pub fn service_tier(&self) -> Option<Cow<'_, str>> {
        let fields = self.fields.as_ref()?;
        if fields.is_fast {
            return Some(Cow::Borrowed("fast"));
        }
        json::text(self.value(fields.service_tier.as_ref()?))
    }

    /// Asks for usage in a streamed OpenAI chat call that lacks it. `None`: it has it, or the dialect has no such thing.
    ///
    /// Where this returned an edit, the chunk that it brings is the gateway's to take out again (`UsageChunkFilter`).
    pub fn include_usage(&self, api: Api) -> Option<Edit> {
        let fields = self
            .fields
            .as_ref()
            .filter(|_| self.editable && api == Api::OpenAiChat && self.streams())?;
        let Some(options) = &fields.stream_options else {
            let at = fields.stream.as_ref()?.end;
            return Some(Edit {
                range: at..at,
                with: br#","stream_options":{"include_usage":true}"#.to_vec(),
            });
        };
        match self.value(options) {
            b"null" => Some(Edit {
                range: options.clone(),
                with: br#"{"include_usage":true}"#.to_vec(),
            }),
            [b'{', ..] => self.include_usage_within(options.start),
            _ => None,
        }
    }

    /// Puts another model in the place of the one asked for, where an alias says so.
    pub fn with_model(&self, model: &str) -> Option<Edit> {
        let range = self.fields.as_ref().filter(|_| self.editable)?.model.clone()?;
        Some(Edit {
            range,
            with: serde_json::Value::from(model).to_string().into_bytes(),
        })
    }

    fn include_usage_within(&self, options: usize) -> Option<Edit> {
        let mut members = 0;
        let mut asked = None;
        for member in Members::at(&self.text, options)?.map_while(Result::ok) {
            members += 1;
            if json::key_text(&self.text[member.key]) == "include_usage" {
                asked = Some(member.value);
            }
        }
        match asked {
            Some(value) if self.value(&value) == b"true" => None,
            Some(value) => Some(Edit {
                range: value,
                with: b"true".to_vec(),
            }),
            None => {
                let comma: &[u8] = if members == 0 { b"" } else { b"," };
                let with = [br#""include_usage":true"#, comma].concat();
                Some(Edit {
                    range: options + 1..options + 1,
                    with,
                })
            }
        }
    }

    fn value(&self, range: &Range<usize>) -> &[u8] {
        &self.text[range.clone()]
    }
}

/// The body with the edits made; all other bytes are as they were. Edits do not overlap.
pub fn apply(bytes: &[u8], mut edits: Vec<Edit>) -> Vec<u8> {
    edits.sort_by_key(|edit| edit.range.start);
    let grown = edits.iter().map(|edit| edit.with.len()).sum::<usize>();
    let mut out = Vec::with_capacity(bytes.len() + grown);
    let mut done = 0;
    for edit in &edits {
        out.extend_from_slice(&bytes[done..edit.range.start]);
        out.extend_from_slice(&edit.with);
        done = edit.range.end;
    }
    out.extend_from_slice(&bytes[done..]);
    out
}

/// Strings longer than this may be files.
const LONG: usize = 4096;
/// Bytes of a file that are counted as one: a picture of a megabyte is some thousand tokens, a minute of speech some hundred.
const PACKED: u64 = 64;

/// Whether a string holds no text but base64, judged by its middle.
fn is_packed(text: &[u8]) -> bool {
    let middle = &text[text.len() / 2..][..LONG / 4];
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=' | b'\\');
    middle.iter().all(is_digit)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Json,
    Opaque,
    Nothing,
}

/// What a content type claims. A form or plain text is what `curl -d` sends its JSON as: it is looked at.
fn says(content_type: &str) -> Says {
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let kind = essence.split('/').next().unwrap_or_default();
    match essence.as_str() {
        "application/json" | "text/json" => Says::Json,
        _ if essence.ends_with("+json") => Says::Json,
        "application/octet-stream" => Says::Opaque,
        _ if matches!(kind, "multipart" | "audio" | "image" | "video") => Says::Opaque,
        _ => Says::Nothing,
    }
}

fn scan(text: &[u8]) -> Result<Fields, Fault> {
    let mut fields = Fields::default();
    let start = json::start(text);
    let Some(mut members) = Members::at(text, start) else {
        // JSON of another shape: it names nothing.
        json::ends(text, json::skip(text, start)?)?;
        return Ok(fields);
    };
    for member in members.by_ref() {
        let member = member?;
        fields.note(text, &text[member.key], member.value);
    }
    json::ends(text, members.position())?;
    Ok(fields)
}

impl Fields {
    fn note(&mut self, text: &[u8], key: &[u8], value: Range<usize>) {
        let key = json::key_text(key);
        match key.as_ref() {
            "model" => self.other_models.extend(self.model.replace(value)),
            "stream" => self.stream = Some(value),
            "stream_options" => self.stream_options = Some(value),
            // Google takes both spellings.
            "service_tier" | "serviceTier" => self.service_tier = Some(value),
            "speed" => self.is_fast = &text[value] == br#""fast""#,
            "max_tokens" | "max_completion_tokens" | "max_output_tokens" => self.allow_output(&text[value]),
            "n" | "best_of" => self.ask_for(&text[value]),
            "generationConfig" | "generation_config" => {
                let config = &text[value];
                for name in ["maxOutputTokens", "max_output_tokens"] {
                    json::find(config, name)
                        .into_iter()
                        .for_each(|most| self.allow_output(most));
                }
                for name in ["candidateCount", "candidate_count"] {
                    json::find(config, name)
                        .into_iter()
                        .for_each(|count| self.ask_for(count));
                }
            }
            other if other.eq_ignore_ascii_case("model") => self.other_models.push(value),
            _ => {}
        }
    }

    fn ask_for(&mut self, count: &[u8]) {
        self.answers = self.answers.max(json::count(count).unwrap_or(0));
    }

    fn allow_output(&mut self, value: &[u8]) {
        self.max_output = self.max_output.max(json::count(value));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const JSON: Option<&str> = Some("application/json; charset=utf-8");

    #[track_caller]
    fn read(text: &str) -> Body<'_> {
        Body::read(text.as_bytes(), JSON, None, 1 << 20).unwrap()
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    /// The body with usage asked for, where that takes an edit.
    fn asking(text: &str) -> Option<String> {
        let edit = read(text).include_usage(Api::OpenAiChat)?;
        Some(String::from_utf8(apply(text.as_bytes(), vec![edit])).unwrap())
    }

    #[test]
    fn the_members_that_matter() {
        let body = read(r#"{"messages":[{"model":"no"}],"model":"gpt-4.1","stream":true,"max_completion_tokens":500}"#);
        assert_eq!(
            (body.model().unwrap().as_ref(), body.streams(), body.max_output()),
            ("gpt-4.1", true, Some(500))
        );
        let body = read(r#"{"model":"m","stream":"true","max_tokens":"many","max_output_tokens":7}"#);
        assert_eq!((body.streams(), body.max_output()), (false, Some(7)));
        let body = read(r#"{"contents":[],"generationConfig":{"maxOutputTokens":64}}"#);
        assert_eq!((body.model(), body.max_output()), (None, Some(64)));
    }

    #[test]
    fn the_service_tier_that_is_asked_for() {
        for (text, tier) in [
            (r#"{"service_tier":"flex"}"#, Some("flex")),
            (r#"{"service_tier":"flex","service_tier":"priority"}"#, Some("priority")),
            (r#"{"serviceTier":"SERVICE_TIER_FLEX"}"#, Some("SERVICE_TIER_FLEX")),
            (r#"{"speed":"fast","service_tier":"auto"}"#, Some("fast")),
            (r#"{"speed":1.5}"#, None),
            (r#"{"service_tier":null}"#, None),
            (r#"{"metadata":{"service_tier":"flex"}}"#, None),
        ] {
            assert_eq!(read(text).service_tier().as_deref(), tier, "{text}");
        }
    }

    #[test]
    fn parsers_take_the_last_of_several_and_read_escapes_in_keys() {
        assert_eq!(read(r#"{"model":"a","model":"b"}"#).model().unwrap(), "b");
        assert_eq!(read(r#"{"mod\u0065l":"a"}"#).model().unwrap(), "a");
        assert_eq!(read(r#"{"model":"\u0061\"b"}"#).model().unwrap(), "a\"b");
        assert_eq!(read("\u{feff} {\"model\":\"a\"}").model().unwrap(), "a");
    }

    #[test]
    fn trap_13_every_model_that_some_parser_could_take_is_seen() {
        let body = read(r#"{"Model":"x","model":"a","model":null,"model":["b"],"model":"c"}"#);
        let all = body
            .all_models()
            .map(|model| model.map(Cow::into_owned))
            .collect::<Vec<_>>();
        let text = |model: &str| Some(model.to_owned());
        assert_eq!(all, [text("c"), text("x"), text("a"), None, None]);
    }

    #[test]
    fn a_body_that_is_not_what_it_says_is_refused() {
        for text in ["{\"model\":", "not json", "{}{}", "{\"a\":1}}", "\u{0}"] {
            let read = Body::read(text.as_bytes(), JSON, None, 1 << 20);
            assert!(matches!(read, Err(BodyError::NotJson(_))), "{text}");
        }
        let nested = "[".repeat(100_000);
        assert!(matches!(
            Body::read(nested.as_bytes(), JSON, None, 1),
            Err(BodyError::NotJson(Fault::TooDeep))
        ));
    }

    #[test]
    fn what_is_no_json_is_left_alone() {
        let unread = |bytes: &[u8], content_type| {
            let body = Body::read(bytes, content_type, None, 1 << 20).unwrap();
            assert!(!body.is_read());
            assert_eq!(body.include_usage(Api::OpenAiChat), None);
        };
        unread(b"", JSON);
        unread(b"--x\r\n{\"model\":\"a\"}", Some("multipart/form-data; boundary=x"));
        unread(b"{\"model\":\"a\"}", Some("application/octet-stream"));
        unread(b"{\"model\":\"a\"}", Some("audio/wav"));
        unread(b"a=b", Some("application/x-www-form-urlencoded"));
        unread(b"\x00\x01", None);
    }

    #[test]
    fn json_that_does_not_say_so_is_read_nevertheless() {
        for content_type in [
            None,
            Some("application/x-www-form-urlencoded"),
            Some("text/plain"),
            Some("text/json"),
        ] {
            let body = Body::read(br#"{"model":"a"}"#, content_type, None, 1 << 20).unwrap();
            assert_eq!(body.model().unwrap(), "a", "{content_type:?}");
        }
        assert!(
            Body::read(b"[1,2]", JSON, None, 1 << 20).unwrap().is_read(),
            "JSON of another shape"
        );
    }

    #[test]
    fn trap_05_usage_is_asked_for_where_a_streamed_chat_call_lacks_it() {
        let table = [
            (
                r#"{"stream":true}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream": true , "n":1}"#,
                r#"{"stream": true,"stream_options":{"include_usage":true} , "n":1}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{}}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{ "a":1}}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true, "a":1}}"#,
            ),
            (
                r#"{"stream_options":null,"stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"stream":true}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage": false}}"#,
                r#"{"stream":true,"stream_options":{"include_usage": true}}"#,
            ),
        ];
        for (before, after) in table {
            assert_eq!(asking(before).as_deref(), Some(after));
        }
    }

    #[test]
    fn usage_that_is_asked_for_or_not_streamed_is_left_alone() {
        for text in [
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":false,"include_us\u0061ge":true}}"#,
            r#"{"stream":true,"stream_options":"odd"}"#,
            r#"{"stream":false}"#,
            r#"{"stream":true,"stream":false}"#,
            r#"{"stream":null}"#,
            r#"{}"#,
        ] {
            assert_eq!(asking(text), None, "{text}");
        }
    }

    #[test]
    fn trap_07_stream_options_go_into_no_other_dialect() {
        let body = read(r#"{"stream":true}"#);
        for api in [
            Api::AnthropicMessages,
            Api::OpenAiResponses,
            Api::GoogleStreamGenerate,
            Api::OpenAiCompletions,
        ] {
            assert_eq!(body.include_usage(api), None, "{api:?}");
        }
    }

    #[test]
    fn trap_18_an_edit_leaves_every_other_byte_as_it_was() {
        let text = "{\"seed\":12345678901234567890,\"t\":1.0,\"stream\":true,\"b\":2,\"b\":1e2,\n\t\"model\" : \"old\",\"x\":\"\\u00e9\"}";
        let body = read(text);
        let edits = vec![
            body.with_model("n\"ew").unwrap(),
            body.include_usage(Api::OpenAiChat).unwrap(),
        ];
        let expected = "{\"seed\":12345678901234567890,\"t\":1.0,\"stream\":true,\"stream_options\":{\"include_usage\":true},\
            \"b\":2,\"b\":1e2,\n\t\"model\" : \"n\\\"ew\",\"x\":\"\\u00e9\"}";
        assert_eq!(String::from_utf8(apply(text.as_bytes(), edits)).unwrap(), expected);
    }

    #[test]
    fn trap_21_a_compressed_body_is_read_from_a_copy_and_never_edited() {
        let text = br#"{"model":"gpt-5","stream":true}"#;
        let gzip = || {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let zlib = || {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let raw = || {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = zstd::encode_all(&text[..], 3).unwrap();
        for (encoding, bytes) in [
            ("gzip", gzip()),
            ("X-Gzip", gzip()),
            ("deflate", zlib()),
            ("deflate", raw()),
            ("zstd", zstd),
        ] {
            let body = Body::read(&bytes, JSON, Some(encoding), 1 << 20).unwrap();
            assert_eq!(body.model().unwrap(), "gpt-5", "{encoding}");
            assert_eq!(
                (body.include_usage(Api::OpenAiChat), body.with_model("x")),
                (None, None)
            );
        }
    }

    #[test]
    fn trap_21_bombs_broken_and_unknown_encodings() {
        let bomb = zstd::encode_all(&vec![b' '; 1 << 20][..], 3).unwrap();
        assert!(bomb.len() < 1000);
        let read = |bytes: &[u8], encoding| Body::read(bytes, JSON, Some(encoding), 1000).map(|body| body.is_read());
        assert_eq!(read(&bomb, "zstd"), Err(BodyError::DecodedTooLarge { max_bytes: 1000 }));
        assert_eq!(read(b"{}", "gzip"), Err(BodyError::NotEncoded("gzip")));
        assert_eq!(read(b"{}", "zstd"), Err(BodyError::NotEncoded("zstd")));
        assert_eq!(read(b"{}", "br"), Ok(false));
        assert_eq!(read(b"{}", "identity"), Ok(true));
    }

    fn any_body() -> impl Strategy<Value = Value> {
        let options = prop_oneof![
            Just(json!(null)),
            Just(json!({})),
            Just(json!({"include_usage": false})),
            Just(json!({"include_usage": true, "x": [1]})),
            Just(json!({"x": {"include_usage": 1}})),
        ];
        let other = proptest::collection::btree_map("[a-z\"\\\\é]{1,4}", any::<i64>().prop_map(Value::from), 0..4);
        (other, proptest::option::of(options), any::<String>(), any::<bool>()).prop_map(
            |(other, options, model, first)| {
                let mut map: serde_json::Map<String, Value> = other.into_iter().collect();
                if first {
                    map.insert("model".to_owned(), model.clone().into());
                }
                map.insert("stream".to_owned(), true.into());
                options
                    .into_iter()
                    .for_each(|options| drop(map.insert("stream_options".to_owned(), options)));
                map.insert("model".to_owned(), model.into());
                Value::Object(map)
            },
        )
    }

    proptest! {
        /// Editing, then parsing, is parsing, then editing; and what was not edited is there byte for byte.
        #[test]
        fn trap_18_edits_are_what_they_claim(value in any_body(), model in any::<String>(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let body = Body::read(text.as_bytes(), JSON, None, 1 << 20).unwrap();
            let edits = [body.with_model(&model), body.include_usage(Api::OpenAiChat)].into_iter().flatten().collect::<Vec<_>>();
            let edited = apply(text.as_bytes(), edits.clone());

            let mut expected = value;
            expected["model"] = model.into();
            if expected.get("stream_options").is_none_or(Value::is_null) {
                expected["stream_options"] = json!({});
            }
            expected["stream_options"]["include_usage"] = true.into();
            prop_assert_eq!(parsed(&edited), expected);

            // Taking the replacements out again leaves the bytes around them.
            let mut rest = edited.as_slice();
            let mut done = 0;
            let mut sorted = edits;
            sorted.sort_by_key(|edit| edit.range.start);
            for edit in sorted {
                let kept = &text.as_bytes()[done..edit.range.start];
                rest = rest.strip_prefix(kept).unwrap().strip_prefix(edit.with.as_slice()).unwrap();
                done = edit.range.end;
            }
            prop_assert_eq!(rest, &text.as_bytes()[done..]);
        }

        #[test]
        fn no_body_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), encoding in "gzip|deflate|zstd|") {
            if let Ok(body) = Body::read(&bytes, JSON, Some(&encoding), 1000) {
                let _ = (body.model(), body.streams(), body.include_usage(Api::OpenAiChat), body.with_model("x"));
            }
        }
    }
}
