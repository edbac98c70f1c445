//! What becomes of an answer whose client has hung up: it is broken off, or read on for a while, so that the provider's own
//! figures are seen.

use std::time::Duration;

use ace_policies::Provider;
use ace_policies::config::{Config, HangUp};
use tokio::time::{Instant, timeout_at};

use crate::engine::{Stop, Upstream};
use crate::metering::Budget;
use crate::provider::Meter;
use crate::proxy::Gateway;

/// When answers are read on, and for how long.
pub struct Hangups {
    drained: Vec<Provider>,
    /// Output tokens that are read at most.
    max_tokens: u64,
    max_time: Duration,
    min_percent: u64,
    /// What stands for the allowed output of a request that does not limit it.
    default_output: u64,
}

/// How long an answer is read on.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// At most so many output tokens, those counted that were there before.
    pub tokens: u64,
    /// Until then.
    pub until: Instant,
}

/// What became of an answer that was read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// It is complete, and its figures are the provider's.
    Complete,
    /// It took more tokens or time than it was given, or outgrew its budget, or the process ends.
    Limit,
    /// The provider broke off.
    Broken,
}

impl Drained {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Complete, Self::Limit, Self::Broken];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Limit => "limit",
            Self::Broken => "broken",
        }
    }
}

impl Hangups {
    /// Reads the settings from the configuration.
    pub fn of(config: &Config) -> Self {
        let hangup = &config.hangup;
        let drains = |provider: &Provider| {
            let what = match provider {
                Provider::OpenAi => hangup.openai,
                Provider::Anthropic => hangup.anthropic,
                Provider::Google => hangup.google,
            };
            what == HangUp::Drain
        };
        Self {
            drained: Provider::ALL.into_iter().filter(drains).collect(),
            max_tokens: match hangup.max_tokens {
                0 => u64::MAX,
                most => most,
            },
            max_time: Duration::from_secs(hangup.max_seconds),
            min_percent: hangup.min_percent,
            default_output: config.quota.default_output_tokens,
        }
    }

    /// How long an answer is read on whose client has left it at `output` tokens of the `asked` most; `None` where it is
    /// broken off.
    pub fn patience(&self, provider: Provider, output: u64, asked: Option<u64>) -> Option<Patience> {
        let allowed = asked.unwrap_or(self.default_output);
        let is_there = u128::from(output) * 100 >= u128::from(allowed) * u128::from(self.min_percent);
        (is_there && self.drained.contains(&provider)).then(|| Patience {
            tokens: output.saturating_add(self.max_tokens),
            until: Instant::now() + self.max_time,
        })
    }
}

/// Reads an answer to its end, as far as patience goes. Its connection is used again where it came to its end.
pub async fn drain(
    gateway: &Gateway,
    mut upstream: Upstream,
    reservation: &mut impl Budget,
    patience: Patience,
    stop: &mut Stop,
) {
    let drained = read_on(&mut upstream, reservation, patience, stop).await;
    gateway.metrics.drained(drained);
    if drained == Drained::Complete {
        gateway.upstreams.release(upstream);
    }
}

async fn read_on(
    upstream: &mut Upstream,
    reservation: &mut impl Budget,
    patience: Patience,
    stop: &mut Stop,
) -> Drained {
    tokio::select! {
        drained = timeout_at(patience.until, read(upstream, reservation, patience.tokens)) => drained.unwrap_or(Drained::Limit),
        () = stop.ending() => Drained::Limit,
    }
}

async fn read(upstream: &mut Upstream, reservation: &mut impl Budget, most: u64) -> Drained {
    let output = |meter: &Meter| meter.so_far().output;
    loop {
        match upstream.decode(&mut |data| reservation.meter_unsent(data)) {
            Ok(true) => return Drained::Complete,
            Ok(false) => {}
            Err(_) => return Drained::Broken,
        }
        if reservation.answer().map_or(0, output) > most {
            return Drained::Limit;
        }
        if reservation.is_short() && reservation.extend().await.is_err() {
            return Drained::Limit;
        }
        match upstream.fill().await {
            Ok(true) => {}
            Ok(false) if reservation.answer().is_some_and(Meter::is_cut) => return Drained::Broken,
            Ok(false) => return Drained::Complete,
            Err(_) => return Drained::Broken,
        }
    }
}
