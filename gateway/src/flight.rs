//! Streaming: the provider's bytes go to the client as they come, and a copy to the meter.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::engine::h1::client::AnswerError;
use crate::engine::server::{Served, Stop};
use crate::engine::{Downstream, Upstream};
use crate::ledger::Reservation;
use crate::provider::UsageChunkFilter;
use crate::proxy::Gateway;

/// An answer whose head was sent, on its way to the client.
pub struct Flight {
    /// Where it comes from.
    pub upstream: Upstream,
    /// Where it goes.
    pub downstream: Downstream,
    /// The request's row, with the meter.
    pub reservation: Box<Reservation>,
    /// Takes the usage chunk out again that only we asked for.
    pub filter: Option<Box<UsageChunkFilter>>,
    /// The longest silence of the provider.
    pub chunk_timeout: Duration,
    /// The end of the whole request, if there is one.
    pub deadline: Option<Instant>,
}

/// How copying an answer ended.
#[derive(Debug)]
pub enum Ending {
    /// The answer is complete.
    Complete,
    /// The client went away, or does not take what is written to it.
    ClientGone,
    /// The provider broke off, or sent what is no HTTP.
    Broken(AnswerError),
    /// The provider was silent for too long, or the request took too long.
    Timeout,
    /// The process ends.
    Stopped,
}

impl Ending {
    /// The word for it in the ledger; `None` for a complete answer.
    fn error_kind(&self) -> Option<&'static str> {
        match self {
            Self::Complete => None,
            Self::ClientGone => Some("client_gone"),
            Self::Broken(AnswerError::Malformed(_)) => Some("upstream_malformed"),
            Self::Broken(_) => Some("upstream_reset"),
            Self::Timeout => Some("upstream_timeout"),
            Self::Stopped => Some("stopped"),
        }
    }
}

impl Flight {
    /// Copies the answer to its end, whatever that is.
    pub async fn run(mut self, gateway: &Gateway, stop: Stop) -> Served {
        let limit = Limit {
            silence: self.chunk_timeout,
            deadline: self.deadline,
        };
        let (reservation, filter) = (&mut self.reservation, &mut self.filter);
        let mut kept = Vec::new();
        let pass = |data: &[u8], downstream: &mut Downstream| {
            reservation.meter(data);
            match filter {
                None => downstream.push(data),
                Some(filter) => {
                    filter.push(data, &mut kept);
                    downstream.push(&kept);
                    kept.clear();
                }
            }
        };
        let ending = copy_within(&mut self.upstream, &mut self.downstream, limit, stop, pass).await;
        self.reservation.entry().error_kind = ending.error_kind();
        self.end(gateway, ending).await
    }

    async fn end(mut self, gateway: &Gateway, ending: Ending) -> Served {
        match ending {
            Ending::Complete => {
                if let Some(filter) = self.filter.take() {
                    let mut kept = Vec::new();
                    filter.finish(&mut kept);
                    self.downstream.push(&kept);
                }
                if self.downstream.finish().await.is_err() {
                    self.reservation.entry().error_kind = Some("client_gone");
                    return Served::Broken;
                }
                gateway.upstreams.release(self.upstream);
                Served::Answered(self.downstream)
            }
            Ending::ClientGone => {
                gateway.metrics.client_gone.inc();
                Served::Broken
            }
            Ending::Broken(_) | Ending::Timeout | Ending::Stopped => {
                let kind = ending.error_kind().unwrap_or("stopped");
                let entry = self.reservation.entry();
                gateway.metrics.upstream_error(entry.provider, kind);
                tracing::warn!(request_id = %entry.request_id, provider = %entry.provider, kind, "an answer broke off");
                self.break_off().await
            }
        }
    }

    /// A broken stream stays broken: no last chunk, no end of stream. Where the dialect has words for it they go first.
    async fn break_off(mut self) -> Served {
        if let Some(event) = self.reservation.broken() {
            self.downstream.push(&event);
        }
        let _ = self.downstream.flush().await;
        if let Downstream::H2(session) = &mut self.downstream {
            session.reset();
        }
        Served::Broken
    }
}

/// How long copying may take.
#[derive(Debug, Clone, Copy)]
struct Limit {
    silence: Duration,
    deadline: Option<Instant>,
}

impl Limit {
    fn ends_at(&self, last: Instant) -> Instant {
        let silent = last + self.silence;
        self.deadline.map_or(silent, |deadline| deadline.min(silent))
    }
}

/// Copies an answer's body; `pass` decides what of it the client gets.
pub async fn copy(
    upstream: &mut Upstream,
    downstream: &mut Downstream,
    silence: Duration,
    stop: Stop,
    pass: impl FnMut(&[u8], &mut Downstream),
) -> Ending {
    copy_within(
        upstream,
        downstream,
        Limit {
            silence,
            deadline: None,
        },
        stop,
        pass,
    )
    .await
}

async fn copy_within(
    upstream: &mut Upstream,
    downstream: &mut Downstream,
    limit: Limit,
    mut stop: Stop,
    mut pass: impl FnMut(&[u8], &mut Downstream),
) -> Ending {
    let mut last = Instant::now();
    let mut timer = pin!(sleep_until(limit.ends_at(last)));
    let mut stopped = pin!(stop.ending());
    loop {
        match upstream.decode(&mut |data| pass(data, downstream)) {
            Ok(true) => return Ending::Complete,
            Ok(false) => {}
            Err(error) => return Ending::Broken(error),
        }
        if downstream.pending() > 0 && downstream.flush().await.is_err() {
            return Ending::ClientGone;
        }
        loop {
            tokio::select! {
                biased;
                filled = upstream.fill() => match filled {
                    Ok(true) => { last = Instant::now(); break }
                    Ok(false) => return Ending::Complete,
                    Err(error) => return Ending::Broken(error),
                },
                () = downstream.gone() => return Ending::ClientGone,
                () = &mut stopped => return Ending::Stopped,
                // Set anew only when it fires: most streams never let it.
                () = &mut timer => {
                    let ends_at = limit.ends_at(last);
                    if ends_at <= Instant::now() {
                        return Ending::Timeout;
                    }
                    timer.as_mut().reset(ends_at);
                }
            }
        }
    }
}
