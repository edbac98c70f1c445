//! What becomes of an answer whose client has hung up: it is broken off, or read on for a while, so that the provider's own
//! figures are seen.

use std::time::Duration;

use ace_policies::Provider;
use ace_policies::config::{Config, HangUp};
use tokio::time::{Instant, timeout_at};

use crate::answer::{info, is_stream, upstream_request_id};
use crate::engine::upstream::UpstreamError;
use crate::engine::{Downstream, ResponseHead, Stop, Upstream};
use crate::ledger::Reservation;
use crate::metering::Budget;
use crate::provider::Meter;
use crate::proxy::Gateway;
use crate::route::Call;

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

/// A call whose client has left although the provider has the request.
pub struct Left<'c> {
    /// The call.
    pub call: &'c Call,
    /// Its row, the input estimated.
    pub reservation: &'c mut Reservation,
    /// The most output tokens that it allows, where it says so.
    pub max_output: Option<u64>,
}

impl Left<'_> {
    /// Waits for the answer all the same, where the configuration says so, and reads it.
    pub async fn unanswered(
        self,
        gateway: &Gateway,
        downstream: &mut Downstream,
        asking: impl Future<Output = Result<(Upstream, ResponseHead), UpstreamError>>,
        stop: &mut Stop,
    ) {
        let options = &gateway.options;
        let Some(patience) = options.hangups.patience(self.call.provider, 0, self.max_output) else {
            return;
        };
        downstream.hang_up().await;
        let answered = tokio::select! {
            answered = timeout_at(patience.until, asking) => answered,
            () = stop.ending() => return gateway.metrics.drained(Drained::Limit),
        };
        let (upstream, head) = match answered {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => return gateway.metrics.drained(Drained::Broken),
            Err(_) => return gateway.metrics.drained(Drained::Limit),
        };
        let info = info(&head);
        self.reservation
            .read_with(Meter::new(self.call, &info, options.max_event));
        let entry = self.reservation.entry();
        entry.streamed = is_stream(&info);
        entry.upstream_request_id = upstream_request_id(&head);
        drain(gateway, upstream, self.reservation, patience, stop).await;
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::engine::testing::{stop, upstream};
    use crate::metering::testing::{Purse, meter};

    fn hangups(settings: &str) -> Hangups {
        let toml = format!("[hangup]\nanthropic = \"drain\"\n{settings}");
        let config = Config::from_sources(Some(("gateway.toml", &toml)), std::iter::empty(), &[]).unwrap();
        Hangups::of(&config)
    }

    #[tokio::test]
    async fn an_answer_is_read_on_where_the_configuration_says_so_and_enough_is_there() {
        let reads_on = |settings: &str, output: u64, asked: Option<u64>| {
            let patience = hangups(settings).patience(Provider::Anthropic, output, asked);
            patience.map(|patience| patience.tokens)
        };
        assert_eq!(reads_on("", 0, None), Some(2_000));
        assert_eq!(reads_on("max_tokens = 0", 7, None), Some(u64::MAX));
        assert_eq!(reads_on("min_percent = 50\nmax_tokens = 10", 49, Some(100)), None);
        assert_eq!(reads_on("min_percent = 50\nmax_tokens = 10", 50, Some(100)), Some(60));
        assert_eq!(
            reads_on("min_percent = 50", 2_047, None),
            None,
            "of the 4096 that are reserved"
        );
        assert!(reads_on("min_percent = 50", 2_048, None).is_some());
        assert!(hangups("").patience(Provider::OpenAi, 0, None).is_none());
    }

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

    /// An answer of the provider's that goes on like this, and what became of it.
    async fn drained(tokens: u64, budget: u64, answer: impl AsyncFnOnce(&mut DuplexStream)) -> (Drained, Purse) {
        let (mut server, from) = duplex(64 * 1024);
        server.write_all(HEAD).await.unwrap();
        let mut from = upstream(Box::new(from)).await;
        answer(&mut server).await;
        let mut purse = Purse::new(meter("/v1/messages", "text/event-stream"), budget);
        let patience = Patience {
            tokens,
            until: Instant::now() + Duration::from_secs(30),
        };
        let (_process, mut stop) = stop();
        (read_on(&mut from, &mut purse, patience, &mut stop).await, purse)
    }

    async fn say(server: &mut DuplexStream, event: &str) {
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        server.write_all(chunk.as_bytes()).await.unwrap();
    }

    const STORY: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"once upon a time there was\"}}\n\n";

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_read_to_its_end_or_to_the_end_of_patience() {
        let (ended, purse) = drained(100, 1_000, async |server| {
            say(server, STORY).await;
            server.write_all(b"0\r\n\r\n").await.unwrap();
        })
        .await;
        assert_eq!((ended, purse.sent), (Drained::Complete, 0), "nobody got anything");
        let say_story = async |server: &mut DuplexStream| say(server, STORY).await;
        let began = Instant::now();
        assert_eq!(drained(100, 1_000, say_story).await.0, Drained::Limit, "silence");
        assert_eq!(began.elapsed().as_secs(), 30);
        assert_eq!(drained(5, 1_000, say_story).await.0, Drained::Limit, "tokens");
        assert_eq!(drained(100, 5, say_story).await.0, Drained::Limit, "budget");
        assert_eq!(began.elapsed().as_secs(), 30);
        let garbage = async |server: &mut DuplexStream| server.write_all(b"xyz\r\n").await.unwrap();
        assert_eq!(drained(100, 1_000, garbage).await.0, Drained::Broken);
    }
}
