//! Reading along: the meter sees every piece of an answer, the usage chunk that only we asked for is taken out again, and a
//! stream whose budget is used up is stopped where its protocol lets it end.

use memchr::memchr3;
use tokio::time::sleep_until;

use crate::copy::{Ending, Limit, Reader, copy};
use crate::engine::{Downstream, Stop, Upstream};
use crate::ledger::Reservation;
use crate::provider::{Halt, Meter, RealtimeMeter, UsageChunkFilter};
use crate::proxy::Gateway;
use crate::refusal::Refusal;

/// What an answer may use, and who counts what it has used.
pub trait Budget {
    /// Counts a piece that goes to the client.
    fn meter(&mut self, data: &[u8]);

    /// Counts a piece that nobody gets.
    fn meter_unsent(&mut self, data: &[u8]);

    /// Whether more is needed before much more can flow.
    fn is_short(&self) -> bool;

    /// Asks for more. It may be dropped before it is ready.
    fn extend(&mut self) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Who reads the answer, unless that is a realtime connection.
    fn answer(&self) -> Option<&Meter>;

    /// Whether a realtime connection stands between two frames of the server's.
    fn is_between_frames(&self) -> bool;
}

impl Budget for Reservation {
    fn meter(&mut self, data: &[u8]) {
        Self::meter(self, data);
    }

    fn meter_unsent(&mut self, data: &[u8]) {
        Self::meter_unsent(self, data);
    }

    fn is_short(&self) -> bool {
        Self::is_short(self)
    }

    fn extend(&mut self) -> impl Future<Output = Result<(), Refusal>> + Send {
        Self::extend(self)
    }

    fn answer(&self) -> Option<&Meter> {
        Self::answer(self)
    }

    fn is_between_frames(&self) -> bool {
        self.conversation().is_some_and(RealtimeMeter::is_between_frames)
    }
}

/// Reads the usage off a copy, and decides what goes on.
pub struct Metering<R = Reservation> {
    /// The request's row, with the meter.
    pub reservation: Box<R>,
    filter: Option<Box<UsageChunkFilter>>,
    phase: Phase,
    /// Why it is not within its budget any more.
    refusal: Option<Box<Refusal>>,
}

/// Where a stream stands to its budget.
enum Phase {
    /// Within it, as far as is known.
    Within,
    /// Beyond it: what comes goes on to where the stream can be ended.
    Beyond,
    /// Nothing goes on any more.
    Stopped(Halt),
    /// Beyond it, and no stream that could be stopped.
    Through,
}

/// How a flight ended.
pub enum Flown {
    /// As answers end.
    Over(Ending),
    /// A limit is spent. The stream is to be ended with this [`Halt::End`], or broken off.
    Spent(Box<Refusal>, Halt),
}

impl<R: Budget + Send> Metering<R> {
    /// `filter` is for streams with a usage chunk that only we asked for.
    pub fn new(reservation: Box<R>, filter: Option<Box<UsageChunkFilter>>) -> Self {
        Self {
            reservation,
            filter,
            phase: Phase::Within,
            refusal: None,
        }
    }

    /// Copies an answer to its end, or to where its budget stops it.
    pub async fn copy(
        &mut self,
        upstream: &mut Upstream,
        downstream: &mut Downstream,
        limit: Limit,
        stop: &mut Stop,
    ) -> Flown {
        loop {
            let mut ending = copy(upstream, downstream, limit, stop, self).await;
            if let (Ending::Short, Phase::Within) = (&ending, &self.phase) {
                // Boxed: it is rare, and a stream may take hours.
                ending = Box::pin(self.extend(downstream, limit, stop)).await;
            }
            if let Phase::Stopped(halt) = &mut self.phase
                && let Some(refusal) = self.refusal.take()
            {
                return Flown::Spent(refusal, std::mem::replace(halt, Halt::Pass));
            }
            if !matches!(ending, Ending::Short) {
                return Flown::Over(ending);
            }
        }
    }

    /// What was held back of a complete answer goes on, where it is nothing of ours.
    pub fn finish(&mut self, downstream: &mut Downstream) {
        if let Some(filter) = self.filter.take() {
            let mut kept = Vec::new();
            filter.finish(&mut kept);
            downstream.push(&kept);
        }
    }

    /// Waits for more budget, and notices when nobody needs it any more.
    async fn extend(&mut self, downstream: &mut Downstream, limit: Limit, stop: &mut Stop) -> Ending {
        let deadline = async {
            match limit.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let extended = tokio::select! {
            biased;
            extended = self.reservation.extend() => extended,
            () = downstream.gone() => return Ending::ClientGone,
            () = stop.ending() => return Ending::Stopped,
            () = deadline => return Ending::Timeout,
        };
        if let Err(refusal) = extended {
            self.phase = self.beyond(&refusal);
            self.refusal = Some(Box::new(refusal));
        }
        Ending::Short
    }

    /// Where a stream stands whose budget was refused.
    fn beyond(&self, refusal: &Refusal) -> Phase {
        let why = format!("ace-stop-reason: {}: {}", refusal.reason(), refusal.message());
        match self.reservation.answer().map(|meter| meter.halt(&why)) {
            None | Some(Halt::Pass) => Phase::Through,
            // Only a limit is told as the end of an answer; without the ledger it is a failure of ours.
            Some(_) if !refusal.is_limit() => Phase::Stopped(Halt::Break),
            Some(Halt::Later) => Phase::Beyond,
            Some(halt) => Phase::Stopped(halt),
        }
    }

    /// Takes a piece of a stream that is to be stopped: it goes on up to the first place where it can be.
    #[cold]
    fn take_beyond(&mut self, mut data: &[u8], downstream: &mut Downstream) {
        while matches!(self.phase, Phase::Beyond) && !data.is_empty() {
            // An event ends with a line, an element of an array with a brace.
            let long = memchr3(b'\n', b'\r', b'}', data).map_or(data.len(), |at| at + 1);
            let (piece, rest) = data.split_at(long);
            self.reservation.meter(piece);
            pass_on(&mut self.filter, piece, downstream);
            data = rest;
            if (data.is_empty() || self.reservation.answer().is_some_and(Meter::may_end))
                && let Some(refusal) = &self.refusal
            {
                self.phase = self.beyond(refusal);
            }
        }
        // It has come, and is paid for.
        self.reservation.meter_unsent(data);
    }
}

impl<R: Budget + Send> Reader for Metering<R> {
    fn take(&mut self, data: &[u8], downstream: &mut Downstream) {
        if let Phase::Beyond | Phase::Stopped(_) = self.phase {
            return self.take_beyond(data, downstream);
        }
        self.reservation.meter(data);
        pass_on(&mut self.filter, data, downstream);
    }

    fn is_short(&self) -> bool {
        match self.phase {
            Phase::Within => self.reservation.is_short(),
            Phase::Stopped(_) => true,
            Phase::Beyond | Phase::Through => false,
        }
    }

    fn is_cut(&self) -> bool {
        self.reservation.answer().is_some_and(Meter::is_cut)
    }

    fn may_ping(&self) -> bool {
        self.reservation.answer().is_some_and(Meter::between_events)
    }
}

fn pass_on(filter: &mut Option<Box<UsageChunkFilter>>, data: &[u8], downstream: &mut Downstream) {
    match filter {
        None => downstream.push(data),
        Some(filter) => {
            let mut kept = Vec::with_capacity(data.len());
            filter.push(data, &mut kept);
            downstream.push(&kept);
        }
    }
}

/// Counts a stream that was stopped; gives the ledger's word for it.
pub fn stopped(gateway: &Gateway, refusal: &Refusal) -> &'static str {
    let (reason, kind) = match refusal.is_limit() {
        true => ("quota", "quota_stopped"),
        false => ("unavailable", "ledger_stopped"),
    };
    gateway.metrics.streams_stopped(reason);
    kind
}
