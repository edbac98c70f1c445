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

/// A budget without a ledger.
#[cfg(test)]
pub mod testing {
    use ace_policies::UserId;
    use ace_policies::quota::{Account, LimitName};
    use http::{HeaderMap, Method};

    use super::*;
    use crate::provider::Head;
    use crate::refusal::Spent;
    use crate::route::{Route, route};

    /// The meter of a call's successful answer of that kind.
    pub fn meter(path: &str, content_type: &str) -> Meter {
        let Ok(Route::DataPlane(call)) = route(&Method::POST, path.as_bytes(), &HeaderMap::new()) else {
            panic!("{path} is no call");
        };
        let head = Head {
            status: 200,
            content_type: Some(content_type),
            content_encoding: None,
        };
        Meter::new(&call.with_provider(None).unwrap(), &head, 1 << 20)
    }

    /// So many tokens, and no more.
    pub struct Purse {
        meter: Meter,
        budget: u64,
        /// What may be added, once each.
        pub reserve: Vec<u64>,
        /// Whether asking for more gets no answer.
        pub hangs: bool,
        /// Bytes that went to the client.
        pub sent: usize,
    }

    impl Purse {
        pub fn new(meter: Meter, budget: u64) -> Self {
            Self {
                meter,
                budget,
                reserve: Vec::new(),
                hangs: false,
                sent: 0,
            }
        }
    }

    impl Budget for Purse {
        fn meter(&mut self, data: &[u8]) {
            self.sent += data.len();
            self.meter.feed(data);
        }

        fn meter_unsent(&mut self, data: &[u8]) {
            self.meter.feed(data);
        }

        fn is_short(&self) -> bool {
            self.meter.so_far_at_most(3, 0).total() > self.budget
        }

        async fn extend(&mut self) -> Result<(), Refusal> {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            let more = self.reserve.pop().ok_or_else(|| spent(self.budget))?;
            self.budget += more;
            Ok(())
        }

        fn answer(&self) -> Option<&Meter> {
            Some(&self.meter)
        }

        fn is_between_frames(&self) -> bool {
            false
        }
    }

    pub fn spent(maximum: u64) -> Refusal {
        let spent = Spent {
            account: Account::User(UserId(5)),
            limit: LimitName::TokensPerDay,
            used: maximum,
            reserved: 0,
            maximum,
            resets_at_ms: Some(86_400_000),
        };
        spent.refusal(0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::watch::Sender;
    use tokio::time::Instant;

    use super::testing::{Purse, meter};
    use super::*;
    use crate::engine::AnswerHead;
    use crate::engine::stop::Phase;
    use crate::engine::testing::{downstream, stop, upstream};

    const SSE: &str = "text/event-stream";
    const JSON: &str = "application/json";

    /// An answer on its way, from a provider that has said all of it to a client that reads what comes.
    struct Way {
        from: Upstream,
        to: Downstream,
        client: DuplexStream,
    }

    impl Way {
        /// What is not whole has no end.
        async fn open(body: &[u8], piece: usize, is_whole: bool) -> Self {
            // So that what is there at once is not much more than a piece.
            let (mut server, from) = duplex(piece.max(64));
            let (mut client, to) = duplex(1 << 20);
            let mut wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for piece in body.chunks(piece) {
                wire.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                wire.extend([piece, b"\r\n"].concat());
            }
            wire.extend(if is_whole { &b"0\r\n\r\n"[..] } else { b"" });
            tokio::spawn(async move {
                let _ = server.write_all(&wire).await;
                std::future::pending::<()>().await;
            });
            client.write_all(b"GET / HTTP/1.0\r\nhost: a\r\n\r\n").await.unwrap();
            let (from, mut to) = (upstream(Box::new(from)).await, downstream(Box::new(to)).await);
            to.start(&AnswerHead::new(200, None)).unwrap();
            Self { from, to, client }
        }

        /// Copies with this budget; gives how it ended and what the client has got.
        async fn go(mut self, metering: &mut Metering<Purse>) -> (Flown, String) {
            let (_process, mut stop) = stop();
            let limit = Limit::silence(Duration::from_secs(9));
            let flown = metering.copy(&mut self.from, &mut self.to, limit, &mut stop).await;
            match &flown {
                Flown::Over(_) => metering.finish(&mut self.to),
                Flown::Spent(_, Halt::End(ending)) => self.to.push(ending),
                Flown::Spent(..) => {}
            }
            self.to.finish().await.unwrap();
            drop(self.to);
            let mut got = String::new();
            self.client.read_to_string(&mut got).await.unwrap();
            let (_, body) = got.split_once("\r\n\r\n").unwrap();
            (flown, body.to_owned())
        }
    }

    fn metering(path: &str, kind: &str, budget: u64) -> Metering<Purse> {
        Metering::new(Box::new(Purse::new(meter(path, kind), budget)), None)
    }

    const STREAMS: [(&str, &str, &str, &str); 5] = [
        (
            "/v1/chat/completions",
            SSE,
            include_str!("../fixtures/openai_chat_tool_calls.sse"),
            "data: [DONE]\n\n",
        ),
        (
            "/v1/responses",
            SSE,
            include_str!("../fixtures/openai_responses_stream.sse"),
            "\n\n",
        ),
        (
            "/v1/messages",
            SSE,
            include_str!("../fixtures/anthropic_messages_stream.sse"),
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        ),
        (
            "/v1beta/models/g:streamGenerateContent",
            SSE,
            include_str!("../fixtures/google_stream.sse"),
            "}\n\n",
        ),
        (
            "/v1beta/models/g:streamGenerateContent",
            JSON,
            include_str!("../fixtures/google_stream_array.json"),
            "}]",
        ),
    ];

    #[tokio::test]
    async fn a_stream_that_outgrows_its_budget_is_stopped_between_events_whatever_the_pieces() {
        for (path, kind, body, last) in STREAMS {
            let mut stopped = 0;
            for piece in [1, 7, 64, 333, body.len()] {
                for budget in [0, 1, 10, 30, 70, 150] {
                    let way = Way::open(body.as_bytes(), piece, true).await;
                    let mut metering = metering(path, kind, budget);
                    let (flown, got) = way.go(&mut metering).await;
                    let what = format!("{path} with {budget} in pieces of {piece}: {got}");
                    match flown {
                        Flown::Over(Ending::Complete) => assert_eq!(got, body, "{what}"),
                        Flown::Spent(_, Halt::End(ending)) => {
                            stopped += 1;
                            let begin = got.strip_suffix(std::str::from_utf8(&ending).unwrap()).unwrap();
                            assert!(body.starts_with(begin) && got.ends_with(last), "{what}");
                            let at = begin.trim_end_matches('\r');
                            let between = at.ends_with("\n\n") || at.ends_with("\r\n\r\n") || kind == JSON;
                            assert!(between, "{what}");
                            assert_eq!(
                                metering.reservation.sent,
                                begin.len(),
                                "what went to the client is counted"
                            );
                        }
                        _ => panic!("{what}"),
                    }
                    if kind == JSON {
                        assert!(serde_json::from_str::<serde_json::Value>(&got).is_ok(), "{what}");
                    }
                }
            }
            assert!(stopped >= 5, "{path} {kind}: {stopped}");
        }
    }

    #[tokio::test]
    async fn a_stream_goes_on_while_its_budget_grows() {
        let (path, kind, body, _) = STREAMS[2];
        let mut metering = metering(path, kind, 0);
        metering.reservation.reserve = vec![1_000_000, 10];
        let (flown, got) = Way::open(body.as_bytes(), 50, true).await.go(&mut metering).await;
        assert!(matches!(flown, Flown::Over(Ending::Complete)) && got == body);
        assert!(metering.reservation.reserve.is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_is_no_stream_is_not_stopped() {
        let body = include_str!("../fixtures/openai_chat.json");
        let mut metering = metering("/v1/chat/completions", JSON, 0);
        let (flown, got) = Way::open(body.as_bytes(), 20, true).await.go(&mut metering).await;
        assert!(matches!(flown, Flown::Over(Ending::Complete)) && got == body);
    }

    #[tokio::test]
    async fn the_usage_chunk_that_only_we_asked_for_stays_out_of_a_stopped_stream_too() {
        let (path, kind, body, _) = STREAMS[0];
        let mut metering = metering(path, kind, 5);
        metering.filter = Some(Box::default());
        let (flown, got) = Way::open(body.as_bytes(), 7, true).await.go(&mut metering).await;
        assert!(
            matches!(flown, Flown::Spent(..)) && got.ends_with("data: [DONE]\n\n"),
            "{got}"
        );
        assert!(!got.contains("\"choices\":[],\"usage\":{"), "{got}");
    }

    /// How a stream ends that waits for an answer about its budget.
    async fn waiting(act: impl AsyncFnOnce(DuplexStream, Sender<Phase>), deadline: bool) -> Ending {
        let (path, kind, body, _) = STREAMS[2];
        let mut way = Way::open(body.as_bytes(), 50, false).await;
        let mut metering = metering(path, kind, 0);
        metering.reservation.hangs = true;
        let (process, mut stop) = stop();
        let limit = Limit {
            deadline: deadline.then(|| Instant::now() + Duration::from_secs(1)),
            ..Limit::silence(Duration::from_secs(9))
        };
        let copied = metering.copy(&mut way.from, &mut way.to, limit, &mut stop);
        match tokio::join!(copied, act(way.client, process)).0 {
            Flown::Over(ending) => ending,
            Flown::Spent(..) => panic!("it was not refused"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_budget_notices_when_nobody_needs_it_any_more() {
        let wait = Duration::from_millis(10);
        let leave = async |client: DuplexStream, process| {
            tokio::time::sleep(wait).await;
            drop(client);
            tokio::time::sleep(wait).await;
            drop::<Sender<Phase>>(process);
        };
        assert!(matches!(waiting(leave, false).await, Ending::ClientGone));
        let end = async |_client, process: Sender<Phase>| {
            tokio::time::sleep(wait).await;
            process.send_replace(Phase::Ending);
            tokio::time::sleep(wait).await;
        };
        assert!(matches!(waiting(end, false).await, Ending::Stopped));
        let hold = async |_client, _process| tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(matches!(waiting(hold, true).await, Ending::Timeout));
    }
}
