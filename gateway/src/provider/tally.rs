//! What a stream has told so far: the provider's figures, the text since, and who it is that speaks.

use ace_policies::usage::{Source, Usage};

use crate::json;

/// Bytes of text that make a token where nobody says how many there were. Measured tokenizers need 3.5 to 4.5 for
/// English and code; other scripts have more bytes a token, so that the estimate does not charge less for them.
const BYTES_PER_TOKEN: u64 = 4;

/// Names that are kept from an answer are not longer than this.
const MAX_NAME: usize = 200;

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub usage: Usage,
    /// What a provider reports beside its totals and bills nevertheless.
    pub beside: Usage,
    /// Whether the provider told any figures.
    pub told: bool,
    /// Whether the figures told were its last.
    pub is_final: bool,
    /// Whether the stream came to its protocol's own end.
    pub ended: bool,
    /// Anthropic: whether the message has begun, without which nothing of it can end.
    pub begun: bool,
    /// Bytes of generated text that no figures cover yet.
    pub text_bytes: u64,
    pub model: Option<String>,
    pub id: Option<String>,
    pub created: u64,
    pub error: Option<String>,
    /// In which service tier the provider served.
    pub service_tier: Option<String>,
    /// Anthropic: the content block that is open.
    pub open_block: Option<u64>,
    /// OpenAI Responses: the number of the last event.
    pub sequence: u64,
}

impl Tally {
    /// Takes a provider's figures, which cover all text so far.
    pub fn tell(&mut self, usage: Usage) {
        self.usage = usage;
        self.told = true;
        self.text_bytes = 0;
    }

    pub fn learn_model(&mut self, value: &[u8]) {
        learn(&mut self.model, value);
    }

    pub fn learn_id(&mut self, value: &[u8]) {
        learn(&mut self.id, value);
    }

    /// Takes the service tier that was told last. `auto` is what was asked, and says nothing of what was served.
    pub fn learn_tier(&mut self, value: &[u8]) {
        let quoted = |tier: &String| value.get(1..value.len() - 1) == Some(tier.as_bytes());
        // Chat tells it with every chunk.
        if value.len() > 2 && value != br#""auto""# && !self.service_tier.as_ref().is_some_and(quoted) {
            let mut told = None;
            learn(&mut told, value);
            self.service_tier = told.or(self.service_tier.take());
        }
    }

    /// Notes what went wrong. After an error nothing follows.
    pub fn learn_error(&mut self, kind: Option<&[u8]>) {
        self.ended = true;
        learn(&mut self.error, kind.unwrap_or_default());
        self.error.get_or_insert_with(|| "error".to_owned());
    }

    /// What has been used so far: the provider's figures and an estimate for the text they do not cover.
    pub fn so_far(&self) -> Usage {
        self.so_far_at(BYTES_PER_TOKEN)
    }

    /// The same with another measure for the text, and never less.
    pub fn so_far_at_most(&self, bytes_per_token: u64) -> Usage {
        self.so_far_at(measure(bytes_per_token))
    }

    fn so_far_at(&self, bytes_per_token: u64) -> Usage {
        let mut usage = self.usage + self.beside;
        usage.output = usage.output.saturating_add(self.text_bytes.div_ceil(bytes_per_token));
        usage
    }

    /// The figures to account, and where they come from. `estimable` allows an estimate where nothing was told.
    pub fn settle(&self, estimable: bool) -> (Usage, Source) {
        match (self.told, self.is_final) {
            (true, true) => (self.usage + self.beside, Source::Provider),
            (true, false) => (self.so_far(), Source::Partial),
            // An error in the place of an answer.
            (false, _) if self.error.is_some() && self.text_bytes == 0 => (Usage::default(), Source::None),
            (false, _) if estimable => (self.so_far(), Source::Estimated),
            (false, _) => (Usage::default(), Source::None),
        }
    }
}

/// The estimate for a text of that many bytes: a quarter, rounded up.
pub fn tokens_in(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// The same with another measure, and never less.
pub(super) fn tokens_in_at_most(bytes: u64, bytes_per_token: u64) -> u64 {
    bytes.div_ceil(measure(bytes_per_token))
}

fn measure(bytes_per_token: u64) -> u64 {
    bytes_per_token.clamp(1, BYTES_PER_TOKEN)
}

fn learn(name: &mut Option<String>, value: &[u8]) {
    if name.is_none() {
        *name = json::text(value).map(|text| text.chars().take(MAX_NAME).collect());
    }
}
