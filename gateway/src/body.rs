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
    max_output: Option<u64>,
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

    /// The most output tokens that the request allows, where it says so.
    pub fn max_output(&self) -> Option<u64> {
        self.fields.as_ref()?.max_output
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
            "max_tokens" | "max_completion_tokens" | "max_output_tokens" => self.allow_output(&text[value]),
            "generationConfig" | "generation_config" => {
                let config = &text[value];
                for name in ["maxOutputTokens", "max_output_tokens"] {
                    json::find(config, name)
                        .into_iter()
                        .for_each(|most| self.allow_output(most));
                }
            }
            other if other.eq_ignore_ascii_case("model") => self.other_models.push(value),
            _ => {}
        }
    }

    fn allow_output(&mut self, value: &[u8]) {
        self.max_output = self.max_output.max(json::count(value));
    }
}
