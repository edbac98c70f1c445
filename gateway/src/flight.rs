//! Streaming: the provider's bytes go to the client as they come, and a copy to the meter.

use crate::copy::{Ending, Limit};
use crate::engine::h1::client::AnswerError;
use crate::engine::{Downstream, Served, Stop, Upstream};
use crate::hangup::drain;
use crate::metering::{Flown, Metering, stopped};
use crate::provider::{Halt, Meter};
use crate::proxy::Gateway;
use crate::refusal::Refusal;

/// An answer whose head was sent, on its way to the client.
pub struct Flight {
    /// Where it comes from.
    pub upstream: Upstream,
    /// Where it goes.
    pub downstream: Downstream,
    /// Who reads along.
    pub meter: Metering,
    /// How long it may take.
    pub limit: Limit,
    /// Whether its length was announced.
    pub is_measured: bool,
    /// The most output tokens that the request allows, where it says so.
    pub max_output: Option<u64>,
}

impl Flight {
    /// Takes the answer to its end, whatever that is.
    pub async fn run(mut self, gateway: &Gateway, mut stop: Stop) -> Served {
        let flown = self
            .meter
            .copy(&mut self.upstream, &mut self.downstream, self.limit, &mut stop)
            .await;
        let ending = match flown {
            Flown::Over(ending) => ending,
            Flown::Spent(refusal, halt) => return Box::pin(self.halt(gateway, &refusal, halt)).await,
        };
        self.meter.reservation.entry().error_kind = error_kind(&ending);
        match ending {
            Ending::Complete => self.land(gateway).await,
            Ending::ClientGone => {
                gateway.metrics.client_gone.inc();
                Box::pin(self.leave(gateway, stop)).await
            }
            _ => self.break_off(gateway, &ending).await,
        }
    }

    async fn land(mut self, gateway: &Gateway) -> Served {
        self.meter.finish(&mut self.downstream);
        let finished = self.downstream.finish().await;
        gateway.upstreams.release(self.upstream);
        if finished.is_err() {
            self.meter.reservation.entry().error_kind = Some("client_gone");
            return Served::Broken;
        }
        Served::Answered(self.downstream)
    }

    /// Nobody takes the answer any more. It is read on where the configuration says so, and else broken off.
    async fn leave(self, gateway: &Gateway, mut stop: Stop) -> Served {
        let Self {
            upstream,
            downstream,
            mut meter,
            max_output,
            ..
        } = self;
        drop(downstream);
        let provider = meter.reservation.entry().provider;
        let answer = meter.reservation.answer().filter(|meter| meter.uses_tokens());
        let output = answer.map(|meter| meter.so_far().output);
        let patience = output.and_then(|output| gateway.options.hangups.patience(provider, output, max_output));
        if let Some(patience) = patience {
            drain(gateway, upstream, &mut *meter.reservation, patience, &mut stop).await;
        }
        Served::Broken
    }

    /// Ends a stream whose budget is used up, as its protocol ends one at a model's limit. The provider is left at once.
    async fn halt(self, gateway: &Gateway, refusal: &Refusal, halt: Halt) -> Served {
        let Self {
            upstream,
            mut downstream,
            mut meter,
            is_measured,
            ..
        } = self;
        drop(upstream);
        let entry = meter.reservation.entry();
        entry.error_kind = Some(stopped(gateway, refusal));
        tracing::info!(request_id = %entry.request_id, provider = %entry.provider, why = refusal.message(), "a stream was stopped");
        match halt {
            // Into an announced length, nothing can be put.
            Halt::End(ending) if !is_measured => {
                downstream.push(&ending);
                match downstream.finish().await {
                    Ok(()) => Served::Answered(downstream),
                    Err(_) => Served::Broken,
                }
            }
            _ => cut_off(downstream).await,
        }
    }

    /// A broken stream stays broken: no last chunk, no end of stream. Where the dialect has words for it they go first.
    async fn break_off(mut self, gateway: &Gateway, ending: &Ending) -> Served {
        let kind = error_kind(ending).unwrap_or("stopped");
        let entry = self.meter.reservation.entry();
        gateway.metrics.upstream_error(entry.provider, kind);
        tracing::warn!(request_id = %entry.request_id, provider = %entry.provider, kind, "an answer broke off");
        // One that filled the announced length would make the answer a whole one.
        let fits = |event: &Vec<u8>| {
            self.downstream
                .missing()
                .is_none_or(|missing| (event.len() as u64) < missing)
        };
        let broken = self.meter.reservation.answer().and_then(Meter::broken);
        if let Some(event) = broken.filter(fits) {
            self.downstream.push(&event);
        }
        cut_off(self.downstream).await
    }
}

/// Ends an answer so that its client knows that it is not whole.
async fn cut_off(mut downstream: Downstream) -> Served {
    let _ = downstream.flush().await;
    if let Downstream::H2(session) = &mut downstream {
        session.reset();
    }
    Served::Broken
}

/// The ledger's word for an ending; `None` for a complete answer.
fn error_kind(ending: &Ending) -> Option<&'static str> {
    match ending {
        Ending::Complete | Ending::Short => None,
        Ending::ClientGone => Some("client_gone"),
        Ending::Broken(AnswerError::Malformed(_)) => Some("upstream_malformed"),
        Ending::Broken(_) => Some("upstream_reset"),
        Ending::Timeout => Some("upstream_timeout"),
        Ending::Stopped => Some("stopped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<'g, F: Future>(_: impl FnOnce(Flight, &'g Gateway, Stop) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_stream_that_may_take_hours_takes_little_memory() {
        let bytes = size(Flight::run);
        assert!(bytes < 2048, "{bytes} bytes");
    }
}
