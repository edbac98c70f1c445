//! Streaming: the provider's bytes go to the client as they come, and a copy to the meter.

use crate::copy::{Ending, Limit, Reader, copy};
use crate::engine::h1::client::AnswerError;
use crate::engine::{Downstream, Served, Stop, Upstream};
use crate::ledger::Reservation;
use crate::provider::UsageChunkFilter;
use crate::proxy::Gateway;

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
}

/// Reads the usage off a copy, and takes the usage chunk out again that only we asked for.
pub struct Metering {
    /// The request's row, with the meter.
    pub reservation: Box<Reservation>,
    /// Knows the chunk, where there is one.
    pub filter: Option<Box<UsageChunkFilter>>,
}

impl Reader for Metering {
    fn take(&mut self, data: &[u8], downstream: &mut Downstream) {
        self.reservation.meter(data);
        match &mut self.filter {
            None => downstream.push(data),
            Some(filter) => {
                let mut kept = Vec::with_capacity(data.len());
                filter.push(data, &mut kept);
                downstream.push(&kept);
            }
        }
    }

    fn is_cut(&self) -> bool {
        self.reservation.is_cut()
    }

    fn may_ping(&self) -> bool {
        self.reservation.is_between_events()
    }
}

impl Flight {
    /// Copies the answer to its end, whatever that is.
    pub async fn run(mut self, gateway: &Gateway, stop: Stop) -> Served {
        let ending = copy(
            &mut self.upstream,
            &mut self.downstream,
            self.limit,
            stop,
            &mut self.meter,
        )
        .await;
        self.meter.reservation.entry().error_kind = error_kind(&ending);
        match ending {
            Ending::Complete => self.land(gateway).await,
            Ending::ClientGone => {
                gateway.metrics.client_gone.inc();
                Served::Broken
            }
            Ending::Broken(_) | Ending::Timeout | Ending::Stopped => self.break_off(gateway, &ending).await,
        }
    }

    async fn land(mut self, gateway: &Gateway) -> Served {
        if let Some(filter) = self.meter.filter.take() {
            let mut kept = Vec::new();
            filter.finish(&mut kept);
            self.downstream.push(&kept);
        }
        if self.downstream.finish().await.is_err() {
            self.meter.reservation.entry().error_kind = Some("client_gone");
            return Served::Broken;
        }
        gateway.upstreams.release(self.upstream);
        Served::Answered(self.downstream)
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
        if let Some(event) = self.meter.reservation.broken().filter(fits) {
            self.downstream.push(&event);
        }
        let _ = self.downstream.flush().await;
        if let Downstream::H2(session) = &mut self.downstream {
            session.reset();
        }
        Served::Broken
    }
}

/// The ledger's word for an ending; `None` for a complete answer.
fn error_kind(ending: &Ending) -> Option<&'static str> {
    match ending {
        Ending::Complete => None,
        Ending::ClientGone => Some("client_gone"),
        Ending::Broken(AnswerError::Malformed(_)) => Some("upstream_malformed"),
        Ending::Broken(_) => Some("upstream_reset"),
        Ending::Timeout => Some("upstream_timeout"),
        Ending::Stopped => Some("stopped"),
    }
}
