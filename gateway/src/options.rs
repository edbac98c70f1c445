//! The part of the configuration that requests are served with, in the types that serving needs.

use std::collections::HashMap;
use std::time::Duration;

use ace_policies::Provider;
use ace_policies::config::Config;

use crate::engine::downstream::Limits;
use crate::engine::h1::head::HeadLimits;
use crate::hangup::Hangups;

/// Settings of the data plane.
pub struct Options {
    /// Limits and deadlines towards clients.
    pub limits: Limits,
    /// Bytes of a request body.
    pub max_body: usize,
    /// Bytes of a decoded copy of a compressed request body.
    pub max_decoded_body: usize,
    /// Bytes kept of an event that arrives in pieces.
    pub max_event: usize,
    /// To read a whole request body.
    pub body_total: Duration,
    /// For a provider to begin its answer.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub chunk: Duration,
    /// For a whole request, if there is a limit.
    pub total: Option<Duration>,
    /// How old the view of users and keys may be.
    pub max_staleness: Duration,
    /// After how much silence a stream of OpenAI's gets a comment, and one of Anthropic's a ping; `None` is never.
    keep_alive: [Option<Duration>; 2],
    /// Model names that stand for others.
    pub aliases: HashMap<String, String>,
    /// Whether streamed OpenAI chat calls are made to tell their usage.
    pub include_usage: bool,
    /// What becomes of answers whose client has hung up.
    pub hangups: Hangups,
}

impl Options {
    /// Reads the settings from the configuration.
    pub fn of(config: &Config) -> Self {
        let (limits, timeouts) = (&config.limits, &config.timeouts);
        let heads = HeadLimits {
            bytes: limits.max_head_bytes,
            fields: limits.max_headers,
            target: limits.max_target_bytes,
        };
        let limits_down = Limits {
            heads,
            head: ms(timeouts.head),
            keepalive: ms(timeouts.keepalive),
            write: ms(timeouts.write),
            body_idle: ms(timeouts.body_idle),
        };
        Self {
            limits: limits_down,
            max_body: limits.max_body_bytes,
            max_decoded_body: limits.max_decoded_body_bytes,
            max_event: limits.sse_event_bytes,
            body_total: ms(timeouts.body),
            first_byte: ms(timeouts.first_byte),
            chunk: ms(timeouts.chunk),
            total: (timeouts.total > 0).then(|| ms(timeouts.total)),
            max_staleness: Duration::from_secs(config.auth.max_staleness_s),
            keep_alive: [config.keepalive.openai_ms, config.keepalive.anthropic_ms]
                .map(|silence| (silence > 0).then(|| ms(silence))),
            aliases: config.models.alias.clone().into_iter().collect(),
            include_usage: config.meter.include_usage,
            hangups: Hangups::of(config),
        }
    }
}

impl Options {
    /// After how much silence a stream of this dialect gets a keep-alive. Google's clients fail on any.
    pub fn keep_alive(&self, dialect: Provider) -> Option<Duration> {
        match dialect {
            Provider::OpenAi => self.keep_alive[0],
            Provider::Anthropic => self.keep_alive[1],
            Provider::Google => None,
        }
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
