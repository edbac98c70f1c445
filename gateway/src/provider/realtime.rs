//! OpenAI's Realtime: a WebSocket over which many responses come, each with its own figures. Audio comes as text too, in
//! Base64, so most messages are told by how they begin and not read any further.

use ace_policies::usage::Usage;

use super::meter::Metered;
use super::openai;
use super::tally::{Tally, tokens_in_at_most};
use crate::json;
use crate::websocket::Frames;

/// Events whose `delta` is text. Audio is not: its bytes say nothing of its tokens.
const TEXT_DELTAS: [&str; 6] = [
    "response.output_text.delta",
    "response.text.delta",
    "response.output_audio_transcript.delta",
    "response.audio_transcript.delta",
    "response.function_call_arguments.delta",
    "response.mcp_call_arguments.delta",
];

/// Responses that are told apart while they run; the protocol runs one at a time, and a few beside the conversation.
const MOST_OPEN: usize = 16;

/// No response's id is longer.
const MAX_ID: usize = 64;

/// Counts what a connection uses, from the server's side of it.
#[derive(Debug)]
pub struct RealtimeMeter {
    frames: Frames,
    count: Count,
}

#[derive(Debug, Default)]
struct Count {
    tally: Tally,
    /// Responses that have begun and not ended.
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    id: Box<[u8]>,
    text_bytes: u64,
}

impl RealtimeMeter {
    /// Starts behind the head of the 101. `max_message_bytes` bounds what is kept of a message that comes in pieces.
    pub fn new(max_message_bytes: usize) -> Self {
        Self {
            frames: Frames::new(max_message_bytes),
            count: Count::default(),
        }
    }

    /// Reads a piece of what the server sends.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { frames, count } = self;
        frames.feed(bytes, |message| count.message(message));
    }

    /// What has been used so far, with an estimate for responses that still run: for budgets that end a connection.
    pub fn so_far(&self) -> Usage {
        self.count.settled().so_far()
    }

    /// The same with another measure for the text, and never less; cheap enough for every piece.
    pub fn so_far_at_most(&self, bytes_per_token: u64) -> Usage {
        let text_bytes = self.count.open.iter().map(|open| open.text_bytes).sum();
        let mut usage = self.count.tally.usage;
        usage.output = usage
            .output
            .saturating_add(tokens_in_at_most(text_bytes, bytes_per_token));
        usage
    }

    /// Whether what the server sends stands between two frames, so that one of ours can be put in.
    pub fn is_between_frames(&self) -> bool {
        self.frames.is_between_frames()
    }

    /// Whether the server has said that it closes. A connection that ends before that is broken.
    pub fn has_ended(&self) -> bool {
        self.frames.has_closed()
    }

    /// Ends the count: the connection is over.
    ///
    /// With a response still open the figures are partial, even where it was the first one: an estimate of the input by
    /// the bytes of the connection would take audio for text.
    pub fn finish(self) -> Metered {
        let tally = self.count.settled();
        let (usage, source) = tally.settle(false);
        Metered {
            usage,
            source,
            model_served: tally.model,
            service_tier: None,
            error_kind: tally.error,
            skipped_events: self.frames.skipped(),
        }
    }
}

impl Count {
    fn message(&mut self, message: &[u8]) {
        match kind(message) {
            "session.created" => {
                if let Some(model) = at(message, &["session", "model"]) {
                    self.tally.learn_model(model);
                }
            }
            "response.created" => {
                self.response(at(message, &["response", "id"]));
            }
            "response.done" => self.done(json::find(message, "response").unwrap_or_default()),
            "conversation.item.input_audio_transcription.completed" => self.transcribed(message),
            "error" => self.failed(json::find(message, "error")),
            kind if TEXT_DELTAS.contains(&kind) => {
                let delta = json::find(message, "delta").unwrap_or_default();
                // Without its quotes.
                self.response(json::find(message, "response_id")).text_bytes += delta.len().saturating_sub(2) as u64;
            }
            _ => {}
        }
    }

    /// The response of that id. One that is not known has begun unseen.
    fn response(&mut self, id: Option<&[u8]>) -> &mut Open {
        let id = known(id);
        let found = self.open.iter().position(|open| *open.id == *id);
        let index = match found {
            Some(index) => index,
            None if self.open.len() < MOST_OPEN => {
                self.open.push(Open {
                    id: id.into(),
                    text_bytes: 0,
                });
                self.open.len() - 1
            }
            None => MOST_OPEN - 1,
        };
        &mut self.open[index]
    }

    fn done(&mut self, response: &[u8]) {
        let id = known(json::find(response, "id"));
        self.open.retain(|open| *open.id != *id);
        if let Some(usage) = json::find(response, "usage").filter(|usage| usage.starts_with(b"{")) {
            self.add(usage);
        }
        match at(response, &["status_details", "error"]) {
            Some(error) if error.starts_with(b"{") => self.failed(Some(error)),
            // A session that goes on has got over what went wrong before.
            _ => self.tally.error = None,
        }
    }

    /// Another model has written down what the user said. By the minute it costs no tokens.
    fn transcribed(&mut self, message: &[u8]) {
        let usage = json::find(message, "usage").unwrap_or_default();
        if json::find(usage, "type") == Some(br#""tokens""#) {
            self.add(usage);
        }
    }

    fn add(&mut self, usage: &[u8]) {
        self.tally.usage += openai::read(usage);
        self.tally.told = true;
    }

    fn failed(&mut self, error: Option<&[u8]>) {
        let error = error.unwrap_or_default();
        let name = |key| json::find(error, key).filter(|name| name.starts_with(b"\""));
        self.tally.error = None;
        self.tally.learn_error(name("type").or(name("code")));
    }

    /// The tally as if the connection ended here.
    fn settled(&self) -> Tally {
        Tally {
            usage: self.tally.usage,
            told: self.tally.told || !self.open.is_empty(),
            is_final: self.open.is_empty(),
            text_bytes: self.open.iter().map(|open| open.text_bytes).sum(),
            model: self.tally.model.clone(),
            error: self.tally.error.clone(),
            ..Tally::default()
        }
    }
}

/// A message's type: its first `type`, which stands at its beginning.
fn kind(message: &[u8]) -> &str {
    let kind = json::begins(message, "type").and_then(|rest| rest.strip_prefix(b"\""));
    let end = kind.and_then(|kind| memchr::memchr(b'"', kind));
    kind.zip(end)
        .and_then(|(kind, end)| std::str::from_utf8(&kind[..end]).ok())
        .unwrap_or_default()
}

fn at<'m>(object: &'m [u8], path: &[&str]) -> Option<&'m [u8]> {
    path.iter().try_fold(object, |object, key| json::find(object, key))
}

fn known(id: Option<&[u8]>) -> &[u8] {
    let id = id.unwrap_or_default();
    &id[..id.len().min(MAX_ID)]
}

#[cfg(test)]
mod tests {
    use ace_policies::usage::Source;
    use proptest::prelude::*;

    use super::*;
    use crate::websocket::testing::*;

    /// A spoken turn with a call of a function, a turn that the user interrupts, a failure, a text turn; one message a
    /// line.
    const SESSION: &str = include_str!("../../fixtures/openai_realtime_session.jsonl");
    const MODEL: &str = "gpt-realtime-2025-08-28";

    /// Of the session: all responses and the transcription that is billed in tokens.
    const USED: Usage = Usage {
        input: 68 + 61 + 82 + 45 + 38,
        cache_read: 64 + 192 + 320 + 384,
        cache_write_5m: 0,
        cache_write_1h: 0,
        output: 51 + 121 + 40 + 12 + 10,
        reasoning: 0,
        audio_input: 13 + 20 + 16 + 28,
        audio_output: 91 + 30,
    };

    fn wire_of(messages: &[&str]) -> Vec<u8> {
        let frames = messages.iter().map(|message| frame(FINAL | TEXT, message.as_bytes()));
        frames.collect::<Vec<_>>().concat()
    }

    /// The session as servers may send it: long messages in fragments, with pings in between.
    fn wire() -> Vec<u8> {
        let mut wire = Vec::new();
        for message in SESSION.lines() {
            let (head, tail) = message.as_bytes().split_at(message.len() / 3);
            match message.len() {
                0..600 => wire.extend(frame(FINAL | TEXT, message.as_bytes())),
                _ => wire.extend([frame(TEXT, head), frame(PING, b"usage"), frame(FINAL, tail)].concat()),
            }
        }
        wire.extend(frame(CLOSE, b"\x03\xe8"));
        wire
    }

    fn metered(wire: &[u8], piece: usize) -> Metered {
        let mut meter = RealtimeMeter::new(1 << 20);
        wire.chunks(piece).for_each(|bytes| meter.feed(bytes));
        meter.finish()
    }

    fn metered_messages(messages: &[&str]) -> Metered {
        metered(&wire_of(messages), usize::MAX)
    }

    fn whole() -> Metered {
        Metered {
            usage: USED,
            source: Source::Provider,
            model_served: Some(MODEL.to_owned()),
            service_tier: None,
            error_kind: None,
            skipped_events: 0,
        }
    }

    #[test]
    fn every_responses_figures_are_added_up_whatever_the_cuts() {
        let wire = wire();
        for piece in [1, 2, 3, 7, 100, 1460, wire.len()] {
            assert_eq!(metered(&wire, piece), whole(), "in pieces of {piece}");
        }
        for cut in (0..wire.len()).step_by(19) {
            let mut meter = RealtimeMeter::new(1 << 20);
            meter.feed(&wire[..cut]);
            meter.feed(&wire[cut..]);
            assert!(meter.has_ended());
            assert_eq!(meter.finish(), whole(), "cut at {cut}");
        }
    }

    #[test]
    fn trap_04_a_connection_that_breaks_off_is_charged_for_what_has_flowed() {
        let mut meter = RealtimeMeter::new(1 << 20);
        let mut charged = 0;
        for byte in wire() {
            meter.feed(&[byte]);
            let flowed = meter.so_far().input_side();
            assert!(flowed >= charged, "{flowed} after {charged}");
            charged = flowed;
        }
        assert_eq!(charged, USED.input_side());
    }

    const CREATED: &str = r#"{"type":"response.created","event_id":"e","response":{"id":"r1","usage":null}}"#;
    const TRANSCRIPT: &str =
        r#"{"type":"response.output_audio_transcript.delta","response_id":"r1","delta":"eight by"}"#;
    const AUDIO: &str = r#"{"type":"response.output_audio.delta","response_id":"r1","delta":"AAAAAAAAAAAAAAAA"}"#;
    const DONE: &str =
        r#"{"type":"response.done","response":{"id":"r1","usage":{"input_tokens":9,"output_tokens":4}}}"#;

    #[track_caller]
    fn check(messages: &[&str], source: Source, input: u64, output: u64) {
        let metered = metered_messages(messages).with_estimated_input(1 << 20);
        let usage = Usage {
            input,
            output,
            ..Usage::default()
        };
        assert_eq!((metered.source, metered.usage), (source, usage));
    }

    #[test]
    fn a_response_that_has_not_ended_is_estimated_by_its_text() {
        check(&[], Source::None, 0, 0);
        check(&[CREATED], Source::Partial, 0, 0);
        check(&[CREATED, TRANSCRIPT, AUDIO], Source::Partial, 0, 2);
        check(&[TRANSCRIPT], Source::Partial, 0, 2);
        check(&[CREATED, TRANSCRIPT, DONE], Source::Provider, 9, 4);
        check(&[CREATED, TRANSCRIPT, DONE, CREATED, TRANSCRIPT], Source::Partial, 9, 6);
        check(&[DONE], Source::Provider, 9, 4);
    }

    #[test]
    fn responses_beside_each_other_are_told_apart() {
        let second = |message: &str| message.replace("r1", "r2");
        let both = [CREATED, &second(CREATED), TRANSCRIPT, &second(TRANSCRIPT), DONE];
        check(&both, Source::Partial, 9, 6);
        check(&[&both[..], &[&second(DONE)]].concat(), Source::Provider, 18, 8);
    }

    #[test]
    fn responses_without_an_end_are_not_kept_without_an_end() {
        let mut meter = RealtimeMeter::new(1 << 20);
        for id in 0..10_000 {
            meter.feed(&wire_of(&[
                &TRANSCRIPT.replace("r1", &format!("{id}{}", "x".repeat(200)))
            ]));
        }
        assert!(meter.count.open.len() <= MOST_OPEN);
        assert!(meter.count.open.iter().all(|open| open.id.len() <= MAX_ID));
        assert_eq!(meter.so_far().output, 20_000);
    }

    #[test]
    fn a_transcription_in_the_middle_of_a_response_takes_nothing_from_it() {
        let completed = |usage: &str| {
            format!(
                r#"{{"type":"conversation.item.input_audio_transcription.completed","transcript":"hi","usage":{usage}}}"#
            )
        };
        let tokens = completed(r#"{"type":"tokens","input_tokens":7,"output_tokens":3}"#);
        check(&[CREATED, TRANSCRIPT, &tokens], Source::Partial, 7, 5);
        check(&[&tokens], Source::Provider, 7, 3);
        check(&[&completed(r#"{"type":"duration","seconds":3}"#)], Source::None, 0, 0);
        check(&[&completed("null")], Source::None, 0, 0);
    }

    #[test]
    fn what_the_model_says_is_not_taken_for_figures() {
        let said = r#"{"type":"response.output_text.delta","response_id":"r1","delta":"{\"type\":\"response.done\",\"response\":{\"usage\":{\"input_tokens\":5}}}"}"#;
        let metered = metered_messages(&[said, DONE]);
        assert_eq!((metered.source, metered.usage.input), (Source::Provider, 9));
        let nested =
            r#"{"type":"response.output_item.done","item":{"type":"response.done","usage":{"input_tokens":5}}}"#;
        check(&[nested], Source::None, 0, 0);
        let binary = frame(FINAL | BINARY, DONE.as_bytes());
        assert_eq!(self::metered(&binary, usize::MAX), Metered::default());
    }

    #[test]
    fn a_failure_is_named_until_the_session_has_got_over_it() {
        let error = r#"{"type":"error","error":{"type":"invalid_request_error","code":"session_expired"}}"#;
        let failed = r#"{"type":"response.done","response":{"id":"r1","status":"failed","status_details":{"type":"failed","error":{"type":"server_error","code":null}},"usage":{"input_tokens":1}}}"#;
        let kind = |messages: &[&str]| metered_messages(messages).error_kind;
        assert_eq!(kind(&[DONE, error]).as_deref(), Some("invalid_request_error"));
        assert_eq!(kind(&[error, failed]).as_deref(), Some("server_error"));
        assert_eq!(kind(&[error, failed, DONE]), None);
        assert_eq!(kind(&[r#"{"type":"error"}"#]).as_deref(), Some("error"));
    }

    #[test]
    fn trap_18_odd_messages_are_survived() {
        for odd in [
            "",
            "[]",
            "null",
            "{",
            r#"{"type":5}"#,
            r#"{"type":"response.done"}"#,
            r#"{"type":"response.done""#,
        ] {
            let metered = metered_messages(&[odd, DONE]);
            assert_eq!((metered.source, metered.usage.output), (Source::Provider, 4), "{odd}");
        }
        let odd = DONE.replace('9', "1e999");
        let metered = metered_messages(&[&odd, &odd, &odd]);
        assert_eq!(metered.usage.input, 3 * json::MOST);
    }

    #[test]
    fn an_end_that_is_too_large_to_be_read_leaves_its_response_open() {
        let large = DONE.replace("\"id\"", &format!("\"output\":\"{}\",\"id\"", "x".repeat(5000)));
        let mut meter = RealtimeMeter::new(1000);
        meter.feed(&wire_of(&[CREATED, TRANSCRIPT, &large]));
        let metered = meter.finish();
        assert_eq!((metered.source, metered.skipped_events), (Source::Partial, 1));
        assert_eq!(metered.usage.output, 2);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            at in any::<prop::sample::Index>(),
            noise in proptest::collection::vec(any::<u8>(), 1..6),
            piece in 1usize..2000,
        ) {
            let mut wire = wire();
            let at = at.index(wire.len());
            wire.splice(at..at + 1, noise);
            let _ = metered(&wire, piece);
        }
    }
}
