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

/// What an answer used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metered {
    pub usage: Usage,
    pub source: Source,
    pub model_served: Option<String>,
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

    /// What has been used so far, with an estimate for what the provider has not told yet: for budgets that end a stream.
    pub fn so_far(&self) -> Usage {
        if self.api.is_metered() {
            self.decoder.reader().tally().so_far()
        } else {
            Usage::default()
        }
    }

    /// Whether the stream has come to its protocol's own end. One that the connection ends before that is broken.
    pub fn has_ended(&self) -> bool {
        self.decoder.reader().has_ended()
    }

    /// The bytes that end a stream here in its protocol's own way, for a budget that is used up. `None` where that cannot
    /// be: in the middle of an event, in a compressed stream, in an answer that is no stream.
    pub fn ending(&self) -> Option<Vec<u8>> {
        if self.decoder.is_plain() {
            self.decoder.reader().ending(self.api)
        } else {
            None
        }
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
