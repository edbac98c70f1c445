//! The meter: reads the usage off a copy of an answer as it flows by, whatever its framing, its compression and its cuts.
//! It changes nothing and never fails; what it cannot read is estimated, and the record says so.

use ace_policies::provider::Provider;
use ace_policies::usage::{Source, Usage};

use super::anthropic;
use super::decoder::Decoder;
use super::reader::{Head, Reader};
use super::tally;
use crate::route::{Api, Call};

/// Counts one answer.
pub struct Meter {
    decoder: Decoder,
    api: Api,
    dialect: Provider,
    is_success: bool,
}

/// How an answer can be stopped, for a budget that is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// With these bytes, which end it here in its protocol's own way.
    End(Vec<u8>),
    /// Not here, in the middle of an event, but soon.
    Later,
    /// By breaking off: nothing can be put into a compressed stream, nor into one that nobody here can read.
    Break,
    /// Not any more: it is no stream, and its cost is spent, or it has come to its end.
    Pass,
}

/// What an answer used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metered {
    pub usage: Usage,
    pub source: Source,
    pub model_served: Option<String>,
    /// In which service tier it was served, in the provider's word; `fast` for Anthropic's fast mode.
    pub service_tier: Option<String>,
    /// The provider's own name for what went wrong.
    pub error_kind: Option<String>,
    /// Events that were too large to be read.
    pub skipped_events: u64,
}

impl Meter {
    /// Starts on an answer by its head. `max_event_bytes` bounds what is kept of an event that comes in pieces.
    pub fn new(call: &Call, head: &Head<'_>, max_event_bytes: usize) -> Self {
        let reader = Reader::new(call.dialect(), head, max_event_bytes);
        let is_success = (200..300).contains(&head.status);
        let decoder = Decoder::new(head.content_encoding, reader);
        Self {
            decoder,
            api: call.api,
            dialect: call.dialect(),
            is_success,
        }
    }

    /// Reads a piece of the body.
    pub fn feed(&mut self, chunk: &[u8]) {
        // What costs nothing is not read, except for the name of its error.
        if self.api.is_metered() || !self.is_success {
            self.decoder.feed(chunk);
        }
    }

    /// What has been used so far, with an estimate for what the provider has not told yet.
    pub fn so_far(&self) -> Usage {
        if self.api.is_metered() {
            self.decoder.reader().tally().so_far()
        } else {
            Usage::default()
        }
    }

    /// The same, counted safely high: with the input that the request's bytes make where the provider has told none, and not
    /// less than [`Self::finish`] would say here, but for an event that has come in part. Cheap enough for every piece.
    pub fn so_far_at_most(&self, bytes_per_token: u64, request_bytes: u64) -> Usage {
        let tally = self.decoder.reader().tally();
        let is_estimable = self.is_success && self.api.costs_tokens();
        if !self.api.is_metered() || !(tally.told || is_estimable) {
            return Usage::default();
        }
        let mut usage = tally.so_far_at_most(bytes_per_token);
        if is_estimable && usage.input_side() == 0 {
            usage.input = tally::tokens_in_at_most(request_bytes, bytes_per_token);
        }
        usage
    }

    /// Whether an answer that is text made by a model has not come to its protocol's own end: one that the connection's end
    /// has ended is broken then.
    pub fn is_cut(&self) -> bool {
        self.is_success && self.api.writes_text() && self.decoder.reader().is_cut()
    }

    /// Whether a keep-alive can be put in here: between two events of a stream that is not compressed.
    pub fn between_events(&self) -> bool {
        self.decoder.is_plain() && self.decoder.reader().between_events()
    }

    /// How the answer can be stopped where it stands. `why` goes along in a comment where the dialect's clients skip those.
    pub fn halt(&self, why: &str) -> Halt {
        let reader = self.decoder.reader();
        match self.decoder.is_plain() {
            _ if !reader.is_stream() || reader.has_ended() => Halt::Pass,
            true if reader.may_end() => Halt::End(reader.ending(self.api, Some(why))),
            true if reader.will_end() => Halt::Later,
            _ => Halt::Break,
        }
    }

    /// Whether [`Self::halt`] would find the end to put in here.
    pub fn may_end(&self) -> bool {
        self.decoder.is_plain() && self.decoder.reader().may_end()
    }

    /// Whether the answer is one that uses tokens, and tells how many at its end.
    pub fn uses_tokens(&self) -> bool {
        self.is_success && self.api.is_metered()
    }

    /// The bytes to send before the connection of a broken stream breaks: only Anthropic's protocol has an event for it,
    /// and some clients of the others take one for the end and wait on it.
    pub fn broken(&self) -> Option<Vec<u8>> {
        let reader = self.decoder.reader();
        if self.dialect != Provider::Anthropic || !self.decoder.is_plain() || !reader.is_events() {
            return None;
        }
        let cut: &[u8] = if reader.between_events() { b"" } else { b"\n\n" };
        Some([cut, anthropic::BROKEN].concat())
    }

    /// Ends the count: the stream is over, or whoever read it has gone.
    pub fn finish(mut self) -> Metered {
        let (tally, skipped_events) = self.decoder.reader_mut().finish();
        let (usage, source) = match self.api.is_metered() {
            true => tally.settle(self.is_success && self.api.costs_tokens()),
            false => (Usage::default(), Source::None),
        };
        Metered {
            usage,
            source,
            model_served: tally.model,
            service_tier: tally.service_tier,
            error_kind: tally.error,
            skipped_events,
        }
    }
}

impl Metered {
    /// Puts in what the request's body must have cost, where the provider told nothing: a quarter of its bytes.
    pub fn with_estimated_input(mut self, request_bytes: u64) -> Self {
        if self.source == Source::Estimated {
            self.usage.input = tally::tokens_in(request_bytes);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http::{HeaderMap, Method};
    use proptest::prelude::*;

    use super::*;
    use crate::route::{Route, route};

    const CHAT: &str = "/v1/chat/completions";
    const RESPONSES: &str = "/v1/responses";
    const EMBEDDINGS: &str = "/v1/embeddings";
    const MESSAGES: &str = "/v1/messages";
    const COUNT_TOKENS: &str = "/v1/messages/count_tokens";
    const GENERATE: &str = "/v1beta/models/g:generateContent";
    const STREAM: &str = "/v1beta/models/g:streamGenerateContent";

    struct Recorded {
        name: &'static str,
        path: &'static str,
        status: u16,
        body: &'static [u8],
        usage: Usage,
        source: Source,
        model: Option<&'static str>,
        tier: Option<&'static str>,
        error: Option<&'static str>,
    }

    macro_rules! recorded {
        ($name:literal, $path:expr, $usage:expr, $model:expr) => {
            Recorded {
                name: $name,
                path: $path,
                status: 200,
                body: include_bytes!(concat!("../../fixtures/", $name)),
                usage: $usage,
                source: Source::Provider,
                model: Some($model),
                tier: None,
                error: None,
            }
        };
    }

    const ZERO: Usage = Usage {
        input: 0,
        cache_read: 0,
        cache_write_5m: 0,
        cache_write_1h: 0,
        output: 0,
        reasoning: 0,
        audio_input: 0,
        audio_output: 0,
    };
    const IN_OUT: fn(u64, u64) -> Usage = |input, output| Usage { input, output, ..ZERO };

    fn openai() -> Vec<Recorded> {
        let responses = Usage {
            input: 1081,
            cache_read: 11264,
            output: 678,
            reasoning: 512,
            ..ZERO
        };
        vec![
            Recorded {
                tier: Some("default"),
                ..recorded!(
                    "openai_chat_stream.sse",
                    CHAT,
                    Usage {
                        input: 86,
                        cache_read: 1920,
                        output: 300,
                        reasoning: 128,
                        ..ZERO
                    },
                    "gpt-4.1-2025-04-14"
                )
            },
            recorded!(
                "openai_chat_tool_calls.sse",
                CHAT,
                Usage {
                    input: 77,
                    cache_read: 768,
                    output: 97,
                    reasoning: 60,
                    ..ZERO
                },
                "deepseek-reasoner"
            ),
            recorded!(
                "openai_chat_crlf.sse",
                CHAT,
                IN_OUT(9_007_199_254_740_993, 24),
                "qwen3-coder-plus"
            ),
            recorded!("openai_chat_usage_in_every_chunk.sse", CHAT, IN_OUT(20, 2), "llama-4"),
            Recorded {
                source: Source::Estimated,
                error: Some("server_error"),
                tier: Some("default"),
                ..recorded!("openai_chat_error.sse", CHAT, IN_OUT(0, 3), "gpt-4.1-2025-04-14")
            },
            Recorded {
                tier: Some("default"),
                ..recorded!(
                    "openai_chat.json",
                    CHAT,
                    Usage {
                        audio_input: 100,
                        audio_output: 180,
                        ..IN_OUT(119, 210)
                    },
                    "gpt-audio-2025-08-28"
                )
            },
            recorded!(
                "openai_embeddings.json",
                EMBEDDINGS,
                IN_OUT(24, 0),
                "text-embedding-3-small"
            ),
            Recorded {
                tier: Some("default"),
                ..recorded!("openai_responses_stream.sse", RESPONSES, responses, "gpt-5.1-codex")
            },
            Recorded {
                tier: Some("priority"),
                ..recorded!("openai_responses.json", RESPONSES, responses, "gpt-5.1-codex")
            },
            Recorded {
                error: Some("server_error"),
                ..recorded!("openai_responses_failed.sse", RESPONSES, IN_OUT(40, 0), "gpt-5.1-codex")
            },
        ]
    }

    fn anthropic() -> Vec<Recorded> {
        let cached = Usage {
            cache_read: 18432,
            cache_write_5m: 1024,
            cache_write_1h: 1024,
            ..IN_OUT(12, 189)
        };
        let whole = Usage {
            cache_read: 5,
            cache_write_5m: 100,
            cache_write_1h: 200,
            ..IN_OUT(2095, 503)
        };
        let beside = Usage {
            cache_read: 100,
            cache_write_5m: 500,
            ..IN_OUT(203_000, 4500)
        };
        vec![
            Recorded {
                tier: Some("standard"),
                ..recorded!(
                    "anthropic_messages_stream.sse",
                    MESSAGES,
                    cached,
                    "claude-opus-4-5-20251101"
                )
            },
            recorded!(
                "anthropic_messages_cumulative.sse",
                MESSAGES,
                IN_OUT(10682, 510),
                "claude-sonnet-4-5"
            ),
            recorded!(
                "anthropic_messages_compaction.sse",
                MESSAGES,
                beside,
                "claude-opus-4-5-20251101"
            ),
            Recorded {
                tier: Some("standard"),
                ..recorded!("anthropic_messages.json", MESSAGES, whole, "claude-haiku-4-5-20251001")
            },
            Recorded {
                source: Source::Partial,
                error: Some("overloaded_error"),
                ..recorded!(
                    "anthropic_messages_overloaded.sse",
                    MESSAGES,
                    IN_OUT(25, 5),
                    "claude-opus-4-5-20251101"
                )
            },
            Recorded {
                source: Source::None,
                model: None,
                ..recorded!("anthropic_count_tokens.json", COUNT_TOKENS, ZERO, "")
            },
            Recorded {
                status: 429,
                source: Source::None,
                model: None,
                error: Some("rate_limit_error"),
                ..recorded!("anthropic_error.json", MESSAGES, ZERO, "")
            },
        ]
    }

    fn google() -> Vec<Recorded> {
        let streamed = Usage {
            cache_read: 1024,
            reasoning: 212,
            ..IN_OUT(286, 243)
        };
        let audio = Usage {
            reasoning: 27,
            audio_input: 260,
            audio_output: 15,
            ..IN_OUT(363, 47)
        };
        vec![
            recorded!("google_stream.sse", STREAM, streamed, "gemini-2.5-pro"),
            recorded!("google_stream_array.json", STREAM, streamed, "gemini-2.5-pro"),
            recorded!("google_generate.json", GENERATE, audio, "gemini-2.5-pro"),
            recorded!("google_blocked.sse", STREAM, IN_OUT(8, 0), "gemini-2.5-flash"),
            Recorded {
                status: 429,
                source: Source::None,
                model: None,
                error: Some("RESOURCE_EXHAUSTED"),
                ..recorded!("google_error.json", STREAM, ZERO, "")
            },
        ]
    }

    fn all() -> impl Iterator<Item = Recorded> {
        openai().into_iter().chain(anthropic()).chain(google())
    }

    fn streams() -> impl Iterator<Item = Recorded> {
        all().filter(|answer| answer.name.ends_with(".sse"))
    }

    fn meter(path: &str, status: u16, content_type: &str, content_encoding: Option<&str>) -> Meter {
        let Ok(Route::DataPlane(call)) = route(&Method::POST, path.as_bytes(), &HeaderMap::new()) else {
            panic!("{path} is no call");
        };
        let head = Head {
            status,
            content_type: Some(content_type),
            content_encoding,
        };
        Meter::new(&call.with_provider(None).unwrap(), &head, 1 << 20)
    }

    impl Recorded {
        fn meter(&self, encoding: Option<&str>) -> Meter {
            let kind = if self.name.ends_with(".sse") {
                "text/event-stream; charset=utf-8"
            } else {
                "application/json"
            };
            meter(self.path, self.status, kind, encoding)
        }

        fn metered<'c>(&self, pieces: impl IntoIterator<Item = &'c [u8]>) -> Metered {
            let mut meter = self.meter(None);
            pieces.into_iter().for_each(|piece| meter.feed(piece));
            meter.finish()
        }

        #[track_caller]
        fn check(&self, metered: Metered, how: &str) {
            let expected = Metered {
                usage: self.usage,
                source: self.source,
                model_served: self.model.map(str::to_owned),
                service_tier: self.tier.map(str::to_owned),
                error_kind: self.error.map(str::to_owned),
                skipped_events: 0,
            };
            assert_eq!(metered, expected, "{} {how}", self.name);
        }
    }

    #[test]
    fn trap_03_cumulative_figures_replace_each_other_whatever_the_cuts() {
        for answer in all() {
            for cut in 0..=answer.body.len() {
                let (head, tail) = answer.body.split_at(cut);
                answer.check(answer.metered([head, tail]), &format!("cut at {cut}"));
            }
            for long in 1..40 {
                answer.check(
                    answer.metered(answer.body.chunks(long)),
                    &format!("in pieces of {long}"),
                );
            }
        }
    }

    #[test]
    fn trap_08_a_compressed_stream_is_metered_from_a_decoded_copy() {
        let gzip = |body: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        };
        let zlib = |body: &[u8]| {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        };
        for answer in all() {
            let zstd = zstd::encode_all(answer.body, 3).unwrap();
            for (encoding, body) in [
                ("gzip", gzip(answer.body)),
                ("deflate", zlib(answer.body)),
                ("zstd", zstd),
            ] {
                for long in [1, 7, 100, body.len()] {
                    let mut meter = answer.meter(Some(encoding));
                    body.chunks(long).for_each(|piece| meter.feed(piece));
                    assert!(
                        !meter.may_end() && !matches!(meter.halt(""), Halt::End(_)) && meter.broken().is_none(),
                        "nothing can be added to it"
                    );
                    answer.check(meter.finish(), &format!("as {encoding} in pieces of {long}"));
                }
            }
        }
    }

    #[test]
    fn trap_08_what_cannot_be_decoded_is_estimated_and_says_so() {
        for encoding in ["br", "gzip"] {
            let mut meter = meter(CHAT, 200, "text/event-stream", Some(encoding));
            meter.feed(&[0xff; 100]);
            meter.feed(&[0xff; 100]);
            let metered = meter.finish();
            assert_eq!(metered.source, Source::Estimated, "{encoding}");
            assert!(metered.usage.output >= 25, "{encoding}");
        }
    }

    #[test]
    fn trap_04_a_stream_that_breaks_off_is_charged_for_what_has_flowed() {
        for answer in streams() {
            let mut flowed = 0;
            for cut in 0..answer.body.len() {
                let metered = answer.metered([&answer.body[..cut]]);
                assert_ne!(metered.source, Source::None, "{} broken off at {cut}", answer.name);
                let output = metered.usage.output;
                if metered.source != Source::Provider {
                    assert!(
                        output >= flowed,
                        "{} broken off at {cut}: {output} after {flowed}",
                        answer.name
                    );
                    flowed = output;
                }
            }
            assert!(flowed > 0 || answer.usage.output == 0, "{}", answer.name);
        }
    }

    #[test]
    fn trap_04_a_hang_up_is_neither_free_nor_taken_for_the_whole() {
        let hang_up = |answer: &Recorded, before: &str| {
            let at = memchr::memmem::find(answer.body, before.as_bytes()).unwrap();
            answer.metered([&answer.body[..at]]).with_estimated_input(400)
        };
        let chat = &openai()[0];
        let metered = hang_up(chat, r#""choices":[],"usage":{"prompt_tokens":2006"#);
        assert_eq!((metered.source, metered.usage), (Source::Estimated, IN_OUT(100, 26)));

        let messages = &anthropic()[0];
        let metered = hang_up(messages, "event: message_delta");
        let cached = Usage {
            output: 1 + 26,
            ..messages.usage
        };
        assert_eq!(
            (metered.source, metered.usage),
            (Source::Partial, cached),
            "input from message_start"
        );

        let stream = &google()[0];
        let metered = hang_up(
            stream,
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"functionCall",
        );
        assert_eq!((metered.source, metered.usage.output), (Source::Partial, 17 + 212));

        let metered = meter(CHAT, 200, "application/json", None)
            .finish()
            .with_estimated_input(4001);
        assert_eq!(
            (metered.source, metered.usage),
            (Source::Estimated, IN_OUT(1001, 0)),
            "before the first byte"
        );
    }

    #[test]
    fn an_answer_without_figures_is_estimated_by_its_text() {
        let mut chat = meter(CHAT, 200, "application/json", None);
        chat.feed(br#"{"choices":[{"message":{"content":"eight by"}}]}"#);
        let metered = chat.finish();
        assert_eq!((metered.source, metered.usage.output), (Source::Estimated, 2));

        let mut speech = meter("/v1/audio/speech", 200, "audio/mpeg", None);
        speech.feed(&[0; 4000]);
        assert_eq!(speech.finish().source, Source::None, "its bytes are no text");

        let mut embed = meter("/v1beta/models/g:embedContent", 200, "application/json", None);
        embed.feed(br#"{"embedding":{"values":[0.1]}}"#);
        let metered = embed.finish().with_estimated_input(40);
        assert_eq!((metered.source, metered.usage), (Source::Estimated, IN_OUT(10, 0)));
    }

    #[test]
    fn trap_18_odd_figures_are_read_as_well_as_they_can_be() {
        let usage = |object: &str| {
            let mut chat = meter(CHAT, 200, "application/json", None);
            chat.feed(format!(r#"{{"usage":{object}}}"#).as_bytes());
            let metered = chat.finish();
            (metered.source, metered.usage)
        };
        let provider = |usage| (Source::Provider, usage);
        assert_eq!(
            usage(r#"{"prompt_tokens":"12","completion_tokens":3.9}"#),
            provider(IN_OUT(12, 3))
        );
        assert_eq!(
            usage(r#"{"prompt_tokens":-5,"completion_tokens":null}"#),
            provider(ZERO)
        );
        assert_eq!(
            usage(r#"{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":9}}"#)
                .1
                .input,
            0
        );
        assert_eq!(
            usage(r#"{"prompt_tokens":1e999,"completion_tokens":[1]}"#),
            provider(IN_OUT(crate::json::MOST, 0))
        );
        assert_eq!(usage("null").0, Source::Estimated);
        assert_eq!(usage("[]").0, Source::Estimated);
    }

    #[test]
    fn trap_02_what_openai_writes_to_its_cache_is_a_class_of_its_own() {
        for (path, input, details) in [
            (CHAT, "prompt_tokens", "prompt_tokens_details"),
            (RESPONSES, "input_tokens", "input_tokens_details"),
        ] {
            let mut answer = meter(path, 200, "application/json", None);
            let usage = format!(r#"{{"{input}":3438,"{details}":{{"cached_tokens":2000,"cache_write_tokens":1435}}}}"#);
            answer.feed(format!(r#"{{"usage":{usage}}}"#).as_bytes());
            let expected = Usage {
                cache_read: 2000,
                cache_write_5m: 1435,
                ..IN_OUT(3, 0)
            };
            assert_eq!(answer.finish().usage, expected, "{path}");
        }
    }

    #[test]
    fn the_service_tier_is_the_one_that_served() {
        let tier = |path, events: &[&str]| {
            let mut answer = meter(path, 200, "text/event-stream", None);
            let events = events.iter().map(|event| format!("data: {event}\n\n"));
            events.for_each(|event| answer.feed(event.as_bytes()));
            answer.finish().service_tier
        };
        let told = |tier: &str| Some(tier.to_owned());
        assert_eq!(tier(CHAT, &[r#"{"service_tier":null,"choices":[]}"#]), None);
        assert_eq!(
            tier(CHAT, &[r#"{"service_tier":"flex","choices":[]}"#; 3]),
            told("flex")
        );
        let downgraded = [
            r#"{"type":"response.created","response":{"service_tier":"priority"}}"#,
            r#"{"type":"response.completed","response":{"service_tier":"default","usage":{"input_tokens":1}}}"#,
        ];
        assert_eq!(tier(RESPONSES, &downgraded), told("default"));
        assert_eq!(
            tier(RESPONSES, &[r#"{"type":"x","response":{"service_tier":"auto"}}"#]),
            None
        );
        let fast = [
            r#"{"type":"message_start","message":{"usage":{"speed":"fast","service_tier":"standard"}}}"#,
            r#"{"type":"message_delta","usage":{"output_tokens":1,"service_tier":"standard"}}"#,
        ];
        assert_eq!(tier(MESSAGES, &fast), told("fast"));
        let not_fast = fast.map(|event| event.replace(r#""fast""#, r#""standard""#));
        assert_eq!(tier(MESSAGES, &[&not_fast[0], &not_fast[1]]), told("standard"));
        for odd in ["1", "\"\"", "{}", "[\"flex\"]"] {
            assert_eq!(
                tier(CHAT, &[&format!(r#"{{"service_tier":{odd},"choices":[]}}"#)]),
                None,
                "{odd}"
            );
        }
    }

    #[test]
    fn trap_13_a_call_of_an_unknown_path_is_metered_where_it_tells_its_usage() {
        let mut unknown = meter("/v1/brand/new", 200, "application/json", None);
        unknown.feed(br#"{"usage":{"input_tokens":3,"output_tokens":4}}"#);
        assert_eq!(unknown.finish().usage, IN_OUT(3, 4));
    }

    #[test]
    fn framing_is_told_by_the_first_byte_where_the_content_type_lies() {
        let mut chat = meter(CHAT, 200, "application/json", None);
        chat.feed(b"\n");
        chat.feed(openai()[0].body);
        assert_eq!(chat.finish().usage, openai()[0].usage);
        let mut chat = meter(CHAT, 200, "text/event-stream", None);
        chat.feed(b" \n{\"usage\":{\"prompt_tokens\":1}}");
        assert_eq!(chat.finish().usage, IN_OUT(1, 0));
    }

    #[test]
    fn an_error_event_of_responses_is_named_and_ends_the_stream() {
        let mut responses = meter(RESPONSES, 200, "text/event-stream", None);
        responses.feed(
            b"event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"x\",\"param\":null}\n\n",
        );
        assert!(!responses.is_cut());
        assert_eq!(responses.finish().error_kind.as_deref(), Some("server_error"));
    }

    #[test]
    fn an_event_that_is_too_large_is_told() {
        let Ok(Route::DataPlane(call)) = route(&Method::POST, CHAT.as_bytes(), &HeaderMap::new()) else {
            panic!()
        };
        let mut meter = Meter::new(
            &call,
            &Head {
                status: 200,
                ..Head::default()
            },
            100,
        );
        meter.feed(format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(200)).as_bytes());
        assert_eq!(meter.finish().skipped_events, 1);
    }

    #[test]
    fn trap_23_a_keep_alive_has_its_place_between_events() {
        let mut messages = meter(MESSAGES, 200, "text/event-stream", None);
        for (chunk, between) in [
            ("", false),
            ("event: ping\n", false),
            ("data: {}\n\n", true),
            ("data", false),
        ] {
            messages.feed(chunk.as_bytes());
            assert_eq!(messages.between_events(), between, "after {chunk:?}");
        }
        let mut json = meter(MESSAGES, 200, "application/json", None);
        json.feed(b"{}");
        assert!(!json.between_events());
    }

    #[test]
    fn trap_19_an_answer_knows_its_own_end() {
        for answer in all().filter(|answer| answer.meter(None).api.writes_text() && answer.status == 200) {
            let mut whole = answer.meter(None);
            whole.feed(answer.body);
            assert!(!whole.is_cut(), "{}", answer.name);
            let mut begun = answer.meter(None);
            begun.feed(&answer.body[..answer.body.len() / 3]);
            assert!(begun.is_cut(), "{}", answer.name);
        }
        let mut speech = meter("/v1/audio/speech", 200, "audio/mpeg", None);
        speech.feed(&[0; 4000]);
        assert!(!speech.is_cut(), "nobody here knows");
    }

    const SSE: &str = "text/event-stream";

    /// How an answer that has begun like this can be stopped.
    fn halted(path: &str, kind: &str, begin: &str) -> Halt {
        let mut meter = meter(path, 200, kind, None);
        meter.feed(begin.as_bytes());
        let halt = meter.halt("why\nindeed");
        assert_eq!(meter.may_end(), matches!(halt, Halt::End(_)), "{begin}");
        halt
    }

    #[track_caller]
    fn ended(path: &str, kind: &str, begin: &str) -> String {
        match halted(path, kind, begin) {
            Halt::End(ending) => String::from_utf8(ending).unwrap(),
            other => panic!("{other:?} after {begin}"),
        }
    }

    #[test]
    fn a_stopped_chat_ends_at_its_length_and_says_why() {
        let chat =
            "data: {\"id\":\"c1\",\"created\":7,\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"abcd\"}}]}\n\n";
        let ending = ended(CHAT, SSE, chat);
        assert!(ending.starts_with(": why indeed\n\ndata: {"), "{ending}");
        assert!(
            ending.contains(r#""finish_reason":"length""#) && ending.contains(r#""id":"c1""#),
            "{ending}"
        );
        assert!(ending.ends_with("\n\ndata: [DONE]\n\n"), "{ending}");
    }

    #[test]
    fn a_stopped_response_is_incomplete_and_numbered_on() {
        let responses = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\
            \"response\":{\"id\":\"r1\",\"model\":\"m\"}}\n\n\
            event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":41,\"delta\":\"a\"}\n\n";
        let ending = ended(RESPONSES, SSE, responses);
        assert!(
            ending.starts_with(": why indeed\n\nevent: response.incomplete\ndata: {"),
            "{ending}"
        );
        assert!(
            ending.contains(r#""sequence_number":42"#) && ending.contains(r#""id":"r1""#),
            "{ending}"
        );
    }

    const MESSAGE: &str =
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3}}}\n\n";

    #[test]
    fn a_stopped_message_ends_with_all_that_is_open() {
        let names = |begin: &str| {
            let text = ended(MESSAGES, SSE, begin);
            let names = text.lines().filter_map(|line| line.strip_prefix("event: "));
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        let block = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":2}\n\n";
        let close = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":2}\n\n";
        let all = ["content_block_stop", "message_delta", "message_stop"];
        assert_eq!(names(&format!("{MESSAGE}{block}")), all);
        assert_eq!(names(&format!("{MESSAGE}{block}{close}")), all[1..]);
        assert_eq!(names(MESSAGE), all[1..]);
        assert!(ended(MESSAGES, SSE, &format!("{MESSAGE}{block}")).contains(r#""index":2"#));
        assert_eq!(
            halted(MESSAGES, SSE, "event: ping\ndata: {}\n\n"),
            Halt::Later,
            "nothing has begun that could end"
        );
    }

    #[test]
    fn a_stopped_stream_of_googles_ends_without_a_comment() {
        let element = r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"modelVersion":"g"}"#;
        let ending = ended(STREAM, SSE, &format!("data: {element}\r\n\r\n"));
        assert!(ending.contains("MAX_TOKENS") && ending.ends_with("}\n\n"), "{ending}");
        assert!(ending.starts_with("data: {"), "{ending}");
        for begin in ["[", "[{},", "[{}"] {
            let whole = format!("{begin}{}", ended(STREAM, "application/json", begin));
            assert!(serde_json::from_str::<serde_json::Value>(&whole).is_ok(), "{whole}");
        }
    }

    #[test]
    fn a_stream_is_stopped_between_events_and_before_its_end_only() {
        let finish =
            "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n";
        let table = [
            (CHAT, SSE, "data: {}\n", Halt::Later),
            (CHAT, SSE, "", Halt::Later),
            (STREAM, SSE, "data: {}\r\n\r", Halt::Later),
            (STREAM, "application/json", "[{", Halt::Later),
            (STREAM, "application/json", "[{}]", Halt::Pass),
            (CHAT, "application/json", "{\"id\":", Halt::Pass),
            (GENERATE, "application/json", "{\"candidates\":", Halt::Pass),
            (CHAT, SSE, "data: [DONE]\n\n", Halt::Pass),
            (
                CHAT,
                SSE,
                "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n",
                Halt::Pass,
            ),
            (MESSAGES, SSE, &format!("{MESSAGE}{finish}"), Halt::Pass),
            ("/v1/audio/speech", "audio/mpeg", "\u{1}", Halt::Pass),
            (CHAT, SSE, &format!("data: {}", "x".repeat(2 << 20)), Halt::Break),
        ];
        for (path, kind, begin, halt) in table {
            assert_eq!(halted(path, kind, begin), halt, "{}", &begin[..begin.len().min(80)]);
        }
        for encoding in ["gzip", "br"] {
            assert_eq!(meter(CHAT, 200, SSE, Some(encoding)).halt(""), Halt::Break);
            let whole = meter(CHAT, 200, "application/json", Some(encoding));
            assert_eq!(whole.halt(""), Halt::Pass);
        }
    }

    #[test]
    fn what_has_flowed_is_never_counted_below_what_is_charged() {
        for answer in all() {
            let mut meter = answer.meter(None);
            for (at, byte) in answer.body.iter().enumerate() {
                meter.feed(std::slice::from_ref(byte));
                let [low, high] = [16, 3].map(|measure| meter.so_far_at_most(measure, 400).total());
                assert!(low <= high, "{} at {at}", answer.name);
                let is_whole = meter.between_events() || at + 1 == answer.body.len();
                if is_whole {
                    let charged = answer.metered([&answer.body[..=at]]).with_estimated_input(400);
                    assert!(
                        charged.usage.total() <= low,
                        "{} at {at}: {charged:?} and {low}",
                        answer.name
                    );
                }
            }
        }
    }

    #[test]
    fn trap_19_only_a_broken_anthropic_stream_is_told_of() {
        let broken = |path: &str, begin: &str| {
            let mut meter = meter(path, 200, "text/event-stream", None);
            meter.feed(begin.as_bytes());
            meter.broken().map(|event| String::from_utf8(event).unwrap())
        };
        assert!(
            broken(MESSAGES, "event: ping\ndata: {}\n\n")
                .unwrap()
                .starts_with("event: error\ndata: {\"type\":\"error\"")
        );
        assert!(
            broken(MESSAGES, "event: ping\nda")
                .unwrap()
                .starts_with("\n\nevent: error\n")
        );
        assert_eq!(broken(CHAT, "data: {}\n\n"), None);
        assert_eq!(broken(STREAM, "data: {}\n\n"), None);
        assert_eq!(broken(MESSAGES, "{\"type\":"), None, "no stream");
    }

    #[test]
    fn what_is_free_is_not_read() {
        let mut free = meter("/v1/responses/resp_1/cancel", 200, "application/json", None);
        free.feed(openai()[8].body);
        assert_eq!(free.finish(), Metered::default());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(which in 0usize..22, pieces in proptest::collection::vec(1usize..300, 1..12)) {
            let answer = all().nth(which).unwrap();
            let mut rest = answer.body;
            let mut cut = Vec::new();
            for piece in pieces.iter().cycle() {
                let (head, tail) = rest.split_at((*piece).min(rest.len()));
                cut.push(head);
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            answer.check(answer.metered(cut), &format!("in pieces of {pieces:?}"));
        }

        #[test]
        fn no_answer_makes_it_panic(
            which in 0usize..22,
            at in any::<prop::sample::Index>(),
            noise in proptest::collection::vec(any::<u8>(), 1..6),
        ) {
            let answer = all().nth(which).unwrap();
            let mut body = answer.body.to_vec();
            let at = at.index(body.len());
            body.splice(at..at + 1, noise);
            let mut meter = answer.meter(None);
            meter.feed(&body);
            let _ = (meter.so_far(), meter.halt(""), meter.broken(), meter.finish());
        }
    }
}
