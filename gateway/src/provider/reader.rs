//! An answer's framing: events, one JSON text, or something that cannot be read. Told by the content type, or by the first
//! byte where that says otherwise.

use std::io;

use ace_policies::provider::Provider::{self, Anthropic, Google, OpenAi};

use super::tally::Tally;
use super::{anthropic, google, openai};
use crate::json::Picker;
use crate::route::Api;
use crate::sse::{Event, Splitter};

/// What the meter must know of an answer's head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'h> {
    pub status: u16,
    pub content_type: Option<&'h str>,
    pub content_encoding: Option<&'h str>,
}

/// Reads a decoded body in pieces.
#[derive(Debug)]
pub(super) struct Reader {
    dialect: Provider,
    framing: Framing,
    tally: Tally,
    says_events: bool,
    max_event_bytes: usize,
}

#[derive(Debug)]
enum Framing {
    /// Nothing but white space yet.
    Unknown,
    Events(Splitter, Vec<u8>),
    Json(Picker),
    /// Neither; its length is all that is known.
    Opaque,
}

impl Reader {
    pub fn new(dialect: Provider, head: &Head<'_>, max_event_bytes: usize) -> Self {
        let says_events = head.content_type.is_some_and(|kind| {
            kind.trim_start()
                .get(..17)
                .is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream"))
        });
        Self {
            dialect,
            framing: Framing::Unknown,
            tally: Tally::default(),
            says_events,
            max_event_bytes,
        }
    }

    pub fn feed(&mut self, chunk: &[u8]) {
        if matches!(self.framing, Framing::Unknown) {
            self.framing = self.recognise(chunk);
        }
        let Self {
            dialect,
            framing,
            tally,
            ..
        } = self;
        match framing {
            Framing::Unknown => {}
            Framing::Events(splitter, scratch) => splitter.feed(chunk, |raw| read_event(*dialect, tally, raw, scratch)),
            Framing::Json(picker) => {
                picker.feed(chunk, |key, value| {
                    member_of_answer(*dialect, tally, key.as_bytes(), value)
                });
                tally.text_bytes += picker.take_text_bytes();
            }
            Framing::Opaque => tally.text_bytes += chunk.len() as u64,
        }
    }

    /// Takes bytes that cannot be read.
    pub fn count_only(&mut self, chunk: &[u8]) {
        self.tally.text_bytes += chunk.len() as u64;
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    pub fn is_events(&self) -> bool {
        matches!(self.framing, Framing::Events(..))
    }

    pub fn between_events(&self) -> bool {
        matches!(&self.framing, Framing::Events(splitter, _) if splitter.between_events())
    }

    pub fn is_cut(&self) -> bool {
        match &self.framing {
            Framing::Events(..) => !self.tally.ended,
            Framing::Json(picker) => !picker.ended(),
            Framing::Unknown | Framing::Opaque => false,
        }
    }

    /// Whether the answer is a stream, as far as the head or the begin tells.
    pub fn is_stream(&self) -> bool {
        match &self.framing {
            Framing::Events(..) => true,
            Framing::Json(picker) => picker.root_is_array() && self.dialect == Google,
            Framing::Unknown | Framing::Opaque => self.says_events,
        }
    }

    /// Whether the stream can be ended here in its protocol's own way.
    pub fn may_end(&self) -> bool {
        match &self.framing {
            Framing::Events(splitter, _) => splitter.is_at_boundary() && self.is_open(),
            Framing::Json(picker) => self.is_stream() && picker.between_elements(),
            Framing::Unknown | Framing::Opaque => false,
        }
    }

    /// Whether the stream will come to where it can be ended, unless it breaks off.
    pub fn will_end(&self) -> bool {
        match &self.framing {
            Framing::Events(splitter, _) => !self.has_ended() && !splitter.is_skipping(),
            Framing::Json(picker) => !picker.ended() && !picker.is_lost(),
            Framing::Unknown => true,
            Framing::Opaque => false,
        }
    }

    /// Whether the stream is over, but perhaps for a last word that costs nothing.
    pub fn has_ended(&self) -> bool {
        match &self.framing {
            Framing::Json(picker) => picker.ended(),
            _ => self.tally.ended || (self.dialect == Anthropic && self.tally.is_final),
        }
    }

    fn is_open(&self) -> bool {
        !self.has_ended() && (self.dialect != Anthropic || self.tally.begun)
    }

    /// What ends the stream where [`Self::may_end`]; `why` is told in a comment by those whose clients skip comments.
    pub fn ending(&self, api: Api, why: Option<&str>) -> Vec<u8> {
        let comment = |why: &str| format!(": {}\n\n", why.replace(['\r', '\n'], " ")).into_bytes();
        let mut out = why.filter(|_| self.dialect != Google).map(comment).unwrap_or_default();
        match (&self.framing, self.dialect) {
            (Framing::Json(picker), _) => {
                let comma = if picker.expects_element() { "" } else { "," };
                out.extend(format!("{comma}{}]", google::ending(&self.tally)).into_bytes());
            }
            (_, OpenAi) => out.extend(openai::ending(&self.tally, api)),
            (_, Anthropic) => out.extend(anthropic::ending(&self.tally)),
            (_, Google) => out.extend(format!("data: {}\n\n", google::ending(&self.tally)).into_bytes()),
        }
        out
    }

    /// What was counted, and how many events were too large to be read.
    pub fn finish(&mut self) -> (Tally, u64) {
        let mut tally = std::mem::take(&mut self.tally);
        match std::mem::replace(&mut self.framing, Framing::Unknown) {
            Framing::Events(splitter, mut scratch) => {
                let skipped = splitter.skipped();
                splitter.finish(|raw| read_event(self.dialect, &mut tally, raw, &mut scratch));
                (tally, skipped)
            }
            Framing::Json(picker) => {
                // A streamed array has final figures once it is closed; an object has them once they are told.
                tally.is_final = tally.told && (picker.ended() || !picker.root_is_array());
                (tally, 0)
            }
            Framing::Unknown | Framing::Opaque => (tally, 0),
        }
    }

    fn recognise(&self, chunk: &[u8]) -> Framing {
        // White space and a byte order mark say nothing yet.
        let silent = |byte: &&u8| !(byte.is_ascii_whitespace() || matches!(byte, 0xef | 0xbb | 0xbf));
        let Some(first) = chunk.iter().find(silent) else {
            return Framing::Unknown;
        };
        match first {
            b'{' | b'[' => Framing::Json(match self.dialect {
                OpenAi => Picker::new(openai::WANTED, openai::is_text),
                Anthropic => Picker::new(anthropic::WANTED, anthropic::is_text),
                Google => Picker::new(google::WANTED, google::is_text),
            }),
            // `data`, `event`, `id`, `retry`, or a comment.
            b'd' | b'e' | b'i' | b'r' | b':' => Framing::Events(Splitter::new(self.max_event_bytes), Vec::new()),
            _ if self.says_events => Framing::Events(Splitter::new(self.max_event_bytes), Vec::new()),
            _ => Framing::Opaque,
        }
    }
}

/// Takes what a decoder writes.
impl io::Write for Reader {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        self.feed(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_event(dialect: Provider, tally: &mut Tally, raw: &[u8], scratch: &mut Vec<u8>) {
    let event = Event::read(raw, scratch);
    match dialect {
        OpenAi => openai::event(tally, event),
        Anthropic => anthropic::event(tally, event),
        Google => google::event(tally, event),
    }
}

fn member_of_answer(dialect: Provider, tally: &mut Tally, key: &[u8], value: &[u8]) {
    match dialect {
        OpenAi => openai::member_of_answer(tally, key, value),
        Anthropic => anthropic::member_of_answer(tally, key, value),
        Google => google::member_of_answer(tally, key, value),
    }
}
