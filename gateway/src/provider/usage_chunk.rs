//! Takes the usage-only chunk out of a stream again where the gateway asked for it and the client did not: clients that
//! never asked crash on its empty `choices`.

use memchr::memchr2;

use crate::json;
use crate::sse::{Boundaries, Event};

/// A usage-only chunk has a few hundred bytes; an event that is longer and undecided is none.
const MAX_HELD: usize = 16 * 1024;

/// Passes an OpenAI chat stream on without its usage-only chunk, every other byte as it came.
///
/// It holds back only bytes of an event that may still turn out to be that chunk, which the first choice decides.
#[derive(Debug, Default)]
pub struct UsageChunkFilter {
    boundaries: Boundaries,
    held: Vec<u8>,
    scratch: Vec<u8>,
    /// The event that is passing is decided: it goes on.
    passing: bool,
    /// The last event ended with the chunk, with a carriage return; its line feed may come, and shares its fate.
    open_end: Option<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
}

impl UsageChunkFilter {
    /// Reads a piece of the stream and appends to `out` what goes on.
    pub fn push(&mut self, mut chunk: &[u8], out: &mut Vec<u8>) {
        while !chunk.is_empty() {
            let line_feed = self.line_feed(chunk, out);
            match self.boundaries.next_end(chunk) {
                Some(end) => {
                    let fate = self.end(&chunk[line_feed..end], out);
                    self.open_end = (end == chunk.len() && chunk[end - 1] == b'\r').then_some(fate);
                    chunk = &chunk[end..];
                }
                None => {
                    self.part(&chunk[line_feed..], out);
                    return;
                }
            }
        }
    }

    /// Ends the stream: what is held back goes on, unless it is the chunk without its blank line.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if !is_usage_only(&self.held, &mut self.scratch) {
            out.append(&mut self.held);
        }
    }

    /// How many bytes at the chunk's begin belong to the event before it: 1 or 0.
    fn line_feed(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> usize {
        match self.open_end.take() {
            Some(fate) if chunk[0] == b'\n' => {
                if fate == Fate::Pass {
                    out.push(b'\n');
                }
                1
            }
            _ => 0,
        }
    }

    /// Takes the rest of an event.
    fn end(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Fate {
        if std::mem::take(&mut self.passing) {
            out.extend_from_slice(rest);
            return Fate::Pass;
        }
        if self.held.is_empty() {
            return settle(rest, &mut self.scratch, out);
        }
        self.held.extend_from_slice(rest);
        let fate = settle(&self.held, &mut self.scratch, out);
        self.held.clear();
        fate
    }

    /// Takes a part of an event that is to go on in the next chunk.
    fn part(&mut self, part: &[u8], out: &mut Vec<u8>) {
        if self.passing {
            out.extend_from_slice(part);
            return;
        }
        self.held.extend_from_slice(part);
        let comments = comments(&self.held);
        out.extend(self.held.drain(..comments));
        if self.held.len() > MAX_HELD || !may_be_usage_only(&self.held, &mut self.scratch) {
            out.append(&mut self.held);
            self.passing = true;
        }
    }
}

/// Passes or drops a whole event. Comments before it are no part of it.
fn settle(event: &[u8], scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> Fate {
    if is_usage_only(event, scratch) {
        out.extend_from_slice(&event[..comments(event)]);
        return Fate::Drop;
    }
    out.extend_from_slice(event);
    Fate::Pass
}

fn is_usage_only(event: &[u8], scratch: &mut Vec<u8>) -> bool {
    if !begins_like_an_event(&event[comments(event)..]) {
        return false;
    }
    let data = Event::read(event, scratch).data;
    // An ordinary chunk is decided by its first choice; the rest of it need not be read.
    first_choice(data) == Some(b']') && json::find(data, "usage").is_some_and(|usage| usage.starts_with(b"{"))
}

/// Whether an event that begins like this may still be the chunk: nothing in it contradicts.
fn may_be_usage_only(begin: &[u8], scratch: &mut Vec<u8>) -> bool {
    if !begins_like_an_event(begin) {
        return false;
    }
    let data = Event::read(begin, scratch).data;
    matches!(data[json::start(data)..].first(), None | Some(b'{')) && matches!(first_choice(data), None | Some(b']'))
}

/// No field begins with another byte: the stream is none of events, or compressed, and nothing of it is to be held.
fn begins_like_an_event(begin: &[u8]) -> bool {
    matches!(
        begin.first(),
        None | Some(b'd' | b'e' | b'i' | b'r' | b':' | b'\n' | b'\r' | 0xef)
    )
}

/// What the list of choices begins with; `]` where it is empty, `None` where the data does not reach that far.
fn first_choice(data: &[u8]) -> Option<u8> {
    let choices = json::begins(data, "choices")?;
    if choices.starts_with(b"[") {
        json::first_of(choices)
    } else {
        choices.first().copied()
    }
}

/// How many bytes of whole comment lines an event begins with.
fn comments(event: &[u8]) -> usize {
    let mut at = 0;
    while event.get(at) == Some(&b':') {
        let Some(long) = memchr2(b'\n', b'\r', &event[at..]) else {
            break;
        };
        let line_end = at + long + 1;
        // Without its line feed, which may be the next byte, a carriage return is not the line's end for sure.
        at = match (event[line_end - 1], event.get(line_end)) {
            (b'\r', None) => break,
            (b'\r', Some(b'\n')) => line_end + 1,
            _ => line_end,
        };
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = include_str!("../../fixtures/openai_chat_stream.sse");
    const CRLF: &str = include_str!("../../fixtures/openai_chat_crlf.sse");
    const TOOL_CALLS: &str = include_str!("../../fixtures/openai_chat_tool_calls.sse");
    const IN_EVERY_CHUNK: &str = include_str!("../../fixtures/openai_chat_usage_in_every_chunk.sse");

    fn filtered<'c>(pieces: impl IntoIterator<Item = &'c [u8]>) -> String {
        let mut filter = UsageChunkFilter::default();
        let mut out = Vec::new();
        pieces.into_iter().for_each(|piece| filter.push(piece, &mut out));
        filter.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn filters(stream: &str, expected: &str) {
        let bytes = stream.as_bytes();
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(filtered([head, tail]), expected, "cut at {cut}");
        }
        for long in 1..40 {
            assert_eq!(filtered(bytes.chunks(long)), expected, "in pieces of {long}");
        }
    }

    /// A stream without the event in which a text stands.
    fn without(stream: &str, text: &str, blank: &str) -> String {
        let at = stream.find(text).unwrap();
        let begin = stream[..at].rfind(blank).map_or(0, |begin| begin + blank.len());
        let end = at + stream[at..].find(blank).unwrap() + blank.len();
        format!("{}{}", &stream[..begin], &stream[end..])
    }

    #[test]
    fn trap_06_the_usage_only_chunk_is_taken_out_and_every_other_byte_stays() {
        filters(
            STREAM,
            &without(STREAM, r#""choices":[],"usage":{"prompt_tokens":2006"#, "\n\n"),
        );
        filters(CRLF, &without(CRLF, "9007199254740993", "\r\n\r\n"));
        filters(IN_EVERY_CHUNK, &without(IN_EVERY_CHUNK, r#""choices":[]"#, "\n\n"));
        let cr = STREAM.replace('\n', "\r");
        filters(
            &cr,
            &without(&cr, r#""choices":[],"usage":{"prompt_tokens":2006"#, "\r\r"),
        );
    }

    #[test]
    fn what_only_looks_like_it_stays() {
        for stream in [
            TOOL_CALLS,
            // Azure's first chunk, with filter results and no usage.
            "data: {\"choices\":[],\"prompt_filter_results\":[{\"usage\":1}]}\n\n",
            "data: {\"choices\":[],\"usage\":null}\n\n",
            "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":1}}\n\n",
            "data: {\"usage\":{\"prompt_tokens\":1}}\n\n",
            "data: {\"error\":{\"message\":\"\\\"choices\\\":[],\\\"usage\\\":{}\"}}\n\n",
            "data: {\"x\":{\"choices\":[],\"usage\":{}},\"choices\":[1]}\n\n",
            ": {\"choices\":[],\"usage\":{}}\n\n",
            "event: x\r\nid: 1\r\n\r\n",
            "data: {\"choices\":[],\"usage\":{\"a\"",
            "",
        ] {
            filters(stream, stream);
        }
    }

    #[test]
    fn the_chunk_is_known_in_any_order_and_without_its_blank_line() {
        filters(
            "data: {\"usage\":{\"a\":1},\"choices\":[ ]}\n\ndata: [DONE]\n\n",
            "data: [DONE]\n\n",
        );
        filters("data: {\"choices\" : [\t] , \"usage\" : {}}\n\n", "");
        filters("data: {\"choices\":[],\"usage\":{}}", "");
        filters("id: 7\ndata: {\"choices\":[],\"usage\":{}}\n\n", "");
    }

    #[test]
    fn comments_before_the_chunk_stay() {
        filters(
            ": a\r\n: b\r\ndata: {\"choices\":[],\"usage\":{}}\r\n\r\n: c\n\n",
            ": a\r\n: b\r\n: c\n\n",
        );
        filters(": a\r: b\rdata: {\"choices\":[],\"usage\":{}}\r\r", ": a\r: b\r");
    }

    #[test]
    fn trap_24_an_ordinary_event_is_held_no_longer_than_to_its_first_choice() {
        let event = r#"data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"hello"}}],"usage":null}"#;
        let decided = event.find("{\"index\"").unwrap() + 1;
        let mut filter = UsageChunkFilter::default();
        let mut out = Vec::new();
        for (at, byte) in event.bytes().enumerate() {
            filter.push(&[byte], &mut out);
            let expected = if at + 1 < decided { 0 } else { at + 1 };
            assert_eq!(out.len(), expected, "after {} bytes", at + 1);
        }
        for done in ["data: [", "data: x", "data: \"", ": comment\n", "\u{1f}\u{8}"] {
            let (mut filter, mut out) = (UsageChunkFilter::default(), Vec::new());
            filter.push(done.as_bytes(), &mut out);
            assert_eq!(out, done.as_bytes());
        }
    }

    #[test]
    fn what_grows_beyond_the_chunk_flows() {
        let stream = format!("data: {{\"x\":\"{}\"", "y".repeat(MAX_HELD));
        let (mut filter, mut out) = (UsageChunkFilter::default(), Vec::new());
        filter.push(stream.as_bytes(), &mut out);
        assert_eq!(out.len(), stream.len());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            stream in proptest::collection::vec(prop_oneof![
                Just("data: {\"choices\":[],\"usage\":{}}"), Just("data: {\"choices\":[1]}"), Just(": c"), Just("\n"),
                Just("\r"), Just("\r\n"), Just("\n\n"), Just("\r\n\r\n"), Just("data: [DONE]"), Just("data: {"), Just("}"),
            ], 0..20),
            pieces in proptest::collection::vec(1usize..20, 1..6),
        ) {
            let stream = stream.concat();
            let mut rest = stream.as_bytes();
            let mut cut = Vec::new();
            for piece in pieces.iter().cycle() {
                let (head, tail) = rest.split_at((*piece).min(rest.len()));
                cut.push(head);
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(filtered(cut), filtered([stream.as_bytes()]));
        }
    }
}
