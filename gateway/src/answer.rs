//! An answer from its head on: what of the head the client gets, and how the body goes on.

use std::borrow::Cow;

use ace_policies::Provider;
use tokio::time::Instant;

use crate::call::{Asked, Outbound};
use crate::copy::{KeepAlive, Limit};
use crate::engine::{AnswerHead, Downstream, ResponseHead, Served, Upstream};
use crate::flight::Flight;
use crate::forward::{self, Nominated};
use crate::ledger::{Reservation, millis};
use crate::metering::Metering;
use crate::provider::{self, Head, Meter, RealtimeMeter, UsageChunkFilter};
use crate::proxy::{Gateway, send};
use crate::ticket::Ticket;
use crate::tunnel::Tunnel;
use crate::upload::Begun;

/// The longest error body that is searched for an echo of our key.
const MAX_MASKED: usize = 64 * 1024;

/// Sends the answer's head and hands its body over to be streamed. Errors are read whole first, where they are short.
pub async fn answer(gateway: &Gateway, downstream: Downstream, asked: Asked, mut ticket: Ticket) -> Outbound {
    let Asked {
        call,
        mut reservation,
        secret,
        upstream,
        head,
        usage_chunk,
        max_output,
        upload,
    } = asked;
    if head.status == 101 {
        reservation.read_messages_with(RealtimeMeter::new(gateway.options.max_event));
        record_head(&mut reservation, &head, true, &ticket);
        let headers = answer_head(gateway, &head, None).headers;
        let tunnel = Tunnel::new(downstream, upstream, &head, headers, &ticket);
        return Outbound::Tunnel(tunnel, reservation);
    }
    let info = info(&head);
    let is_stream = is_stream(&info);
    reservation.read_with(Meter::new(&call, &info, gateway.options.max_event));
    record_head(&mut reservation, &head, is_stream, &ticket);
    let out = answer_head(gateway, &head, upload.as_ref());
    let mut takeoff = Takeoff {
        upstream,
        downstream,
        reservation,
        filter: None,
        out,
        first: Vec::new(),
        dialect: call.dialect(),
        max_output,
    };
    let is_plain = info
        .content_encoding
        .is_none_or(|encoding| encoding.trim().eq_ignore_ascii_case("identity"));
    if usage_chunk && is_stream && is_plain && head.status == 200 {
        takeoff.filter = Some(Box::default());
        takeoff.out.length = None;
    }
    let Some(secret) = secret.filter(|_| head.status >= 400) else {
        return takeoff.start(gateway, &ticket);
    };
    match ticket.wait(takeoff.read_error(gateway)).await {
        Read::Whole => {
            takeoff.mask(secret.key().secret.expose());
            Outbound::Over(takeoff.send_whole(gateway, &head, &ticket).await)
        }
        Read::Part => {
            takeoff.mask(secret.key().secret.expose());
            takeoff.start(gateway, &ticket)
        }
        Read::ClientGone => Outbound::Over(Served::Broken),
    }
}

/// What the meter must know of an answer's head.
pub fn info(head: &ResponseHead) -> Head<'_> {
    Head {
        status: head.status,
        content_type: head.headers.get_str("content-type"),
        content_encoding: head.headers.get_str("content-encoding"),
    }
}

/// Whether an answer says that it is a stream of events.
pub fn is_stream(info: &Head<'_>) -> bool {
    info.content_type
        .is_some_and(|kind| kind.trim_start().starts_with("text/event-stream"))
}

fn record_head(reservation: &mut Reservation, head: &ResponseHead, is_stream: bool, ticket: &Ticket) {
    let entry = reservation.entry();
    entry.status = head.status;
    entry.streamed = is_stream;
    entry.ttfb_ms = Some(millis(ticket.started.elapsed()));
    entry.error_kind = Some("incomplete");
    entry.upstream_request_id = upstream_request_id(head);
}

/// The provider's name for the request.
pub fn upstream_request_id(head: &ResponseHead) -> Option<String> {
    provider::upstream_request_id(|name| head.headers.get_str(name)).map(str::to_owned)
}

/// The provider's head as the client gets it.
fn answer_head(gateway: &Gateway, head: &ResponseHead, upload: Option<&Begun>) -> AnswerHead {
    let nominated = Nominated::by(head.headers.get_all("connection"));
    let mut out = AnswerHead::new(head.status, head.length);
    out.reason.clone_from(&head.reason);
    for (name, value) in head.headers.iter() {
        let lower = lower(name);
        if *lower == *"content-length" || !forward::answer_header(&lower, &nominated) {
            continue;
        }
        match upload.filter(|_| provider::names_upload_url(&lower)) {
            None => out.headers.push(name, value),
            // Without a URL of ours the client gets none: the provider's would take it past the gateway.
            Some(begun) => {
                if let Some(url) = gateway.uploads.public_url(value, begun) {
                    out.headers.push(name, &url);
                }
            }
        }
    }
    out
}

fn lower(name: &str) -> Cow<'_, str> {
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

/// Everything that an answer takes off with.
struct Takeoff {
    upstream: Upstream,
    downstream: Downstream,
    reservation: Box<Reservation>,
    filter: Option<Box<UsageChunkFilter>>,
    out: AnswerHead,
    /// The part of the body that was read already.
    first: Vec<u8>,
    dialect: Provider,
    max_output: Option<u64>,
}

enum Read {
    Whole,
    Part,
    ClientGone,
}

impl Takeoff {
    fn start(mut self, gateway: &Gateway, ticket: &Ticket) -> Outbound {
        ticket.stamp(&mut self.out);
        gateway
            .metrics
            .overhead(self.reservation.entry().provider, ticket.own());
        if self.downstream.start(&self.out).is_err() {
            return Outbound::Over(Served::Broken);
        }
        self.downstream.push(&self.first);
        let options = &gateway.options;
        let ping = provider::keep_alive(self.dialect).zip(options.keep_alive(self.dialect));
        // Of an announced length, every byte would take the place of one of the provider's.
        let ping = ping.filter(|_| self.out.length.is_none());
        let Self {
            upstream,
            downstream,
            reservation,
            filter,
            out,
            max_output,
            ..
        } = self;
        let limit = Limit {
            silence: options.chunk,
            deadline: options.total.map(|total| Instant::from_std(ticket.started) + total),
            keep_alive: ping.map(|(bytes, every)| KeepAlive { every, bytes }),
        };
        Outbound::Streaming(Flight {
            upstream,
            downstream,
            meter: Metering::new(reservation, filter),
            limit,
            is_measured: out.length.is_some(),
            max_output,
        })
    }

    /// Sends an error that was read whole.
    async fn send_whole(mut self, gateway: &Gateway, head: &ResponseHead, ticket: &Ticket) -> Served {
        // An answer to HEAD tells a length and has no body.
        let only_told = head.length.filter(|_| self.first.is_empty());
        self.out.length = Some(only_told.unwrap_or(self.first.len() as u64));
        ticket.stamp(&mut self.out);
        gateway
            .metrics
            .overhead(self.reservation.entry().provider, ticket.own());
        let served = send(self.downstream, &self.out, &self.first).await;
        self.reservation.entry().error_kind = match served {
            Served::Answered(_) => Some("provider_error"),
            Served::Broken => Some("client_gone"),
        };
        gateway.upstreams.release(self.upstream);
        served
    }

    /// Reads an error's body, as far as it is searched for our key.
    async fn read_error(&mut self, gateway: &Gateway) -> Read {
        let Self {
            upstream,
            downstream,
            reservation,
            first,
            ..
        } = self;
        loop {
            let done = upstream.decode(&mut |data| {
                reservation.meter(data);
                first.extend_from_slice(data);
            });
            match done {
                Ok(true) => return Read::Whole,
                Ok(false) if first.len() < MAX_MASKED => {}
                _ => return Read::Part,
            }
            let filled = tokio::select! {
                filled = tokio::time::timeout(gateway.options.chunk, upstream.fill()) => filled,
                () = downstream.gone() => return Read::ClientGone,
            };
            match filled {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Read::Whole,
                _ => return Read::Part,
            }
        }
    }

    fn mask(&mut self, key: &str) {
        if let Some(masked) = provider::mask_echo(&self.first, key) {
            // A mask of another length than the key's would belie the announced length.
            if masked.len() != self.first.len() {
                self.out.length = None;
            }
            self.first = masked;
        }
    }
}
