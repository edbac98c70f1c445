//! The life of a request: where it goes, and what it is answered with.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ace_policies::Provider;
use http::HeaderMap;

use crate::admit::Gate;
use crate::call::{self, Outbound};
use crate::control::ControlPlane;
use crate::engine::h1::head::HeadError;
use crate::engine::upstream::Upstreams;
use crate::engine::{AnswerHead, Downstream, HeadRefusal, Incoming, RequestHead, Served, Service, Stop};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::own;
use crate::refusal::Refusal;
use crate::route::{Route, route};
use crate::ticket::Ticket;
use crate::upload::Uploads;

/// Everything that requests are served with.
pub struct Gateway {
    /// Who may call, and on which account.
    pub gate: Gate,
    /// Connections to providers and to the control API.
    pub upstreams: Upstreams,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Where everything goes that is not an LLM call.
    pub control: ControlPlane,
    /// Signed upload URLs.
    pub uploads: Uploads,
    /// Settings.
    pub options: Options,
}

impl Service for Gateway {
    async fn serve(self: &Arc<Self>, request: Incoming) -> Served {
        self.metrics.in_flight.inc();
        let _in_flight = InFlight(&self.metrics);
        serve(self, request).await
    }

    fn sweep(&self) {
        self.upstreams.pool().sweep();
    }

    fn sweep_interval(&self) -> Duration {
        self.upstreams.pool().sweep_interval()
    }

    fn rest(&self) {
        self.gate.ledger().rest();
    }
}

struct InFlight<'g>(&'g Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Address.
    pub ip: IpAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
}

async fn serve(gateway: &Arc<Gateway>, request: Incoming) -> Served {
    let ticket = Ticket::new();
    let Incoming {
        downstream,
        head,
        peer,
        tls,
        mut stop,
    } = request;
    let head = match head {
        Ok(head) => head,
        Err(why) => return refuse(gateway, downstream, &ticket, head_refusal(why), Provider::OpenAi).await,
    };
    let peer = Peer { ip: peer, tls };
    let call = match route(&head.method, head.target.as_bytes(), &head.headers) {
        Ok(Route::DataPlane(call)) => call,
        Ok(Route::Control) => {
            return Box::pin(gateway.control.pass(gateway, downstream, head, peer, ticket, stop)).await;
        }
        Ok(Route::Upload(grant)) => {
            let grant = grant.to_owned();
            return Box::pin(upload(gateway, downstream, head, grant, ticket, stop)).await;
        }
        Ok(Route::Probe) => return own::probe(downstream, &ticket).await,
        Ok(Route::Health) => return own::health(downstream, &ticket).await,
        Ok(Route::Ready) => return own::ready(gateway, downstream, &ticket).await,
        Err(why) => return refuse(gateway, downstream, &ticket, why.into(), dialect_of(&head.headers)).await,
    };
    // Setting up needs much room and little time; streaming needs little room and may take hours.
    match Box::pin(call::set_up(gateway, downstream, head, call, peer, ticket, &mut stop)).await {
        Outbound::Streaming(flight) => flight.run(gateway, stop).await,
        Outbound::Tunnel(tunnel, reservation) => Box::pin(tunnel.run_metered(gateway, stop, reservation)).await,
        Outbound::Over(served) => served,
    }
}

async fn upload(
    gateway: &Gateway,
    downstream: Downstream,
    head: RequestHead,
    grant: String,
    ticket: Ticket,
    stop: Stop,
) -> Served {
    match call::set_up_upload(gateway, downstream, head, &grant, ticket).await {
        Outbound::Streaming(flight) => flight.run(gateway, stop).await,
        Outbound::Tunnel(tunnel, reservation) => Box::pin(tunnel.run_metered(gateway, stop, reservation)).await,
        Outbound::Over(served) => served,
    }
}

/// Answers a refusal in the caller's dialect. Where the request was not read to its end the connection is closed.
pub async fn refuse(
    gateway: &Gateway,
    mut downstream: Downstream,
    ticket: &Ticket,
    refusal: Refusal,
    dialect: Provider,
) -> Served {
    gateway.metrics.refused(refusal.reason());
    let answer = refusal.answer(dialect, &ticket.id.to_string());
    let mut head = AnswerHead::new(answer.status.as_u16(), Some(answer.body.len() as u64));
    for (name, value) in &answer.headers {
        head.headers.push(name, value.as_bytes());
    }
    ticket.stamp(&mut head);
    if !downstream.is_request_done() {
        downstream.close_after();
    }
    send(downstream, &head, &answer.body).await
}

/// Sends a whole answer.
pub async fn send(mut downstream: Downstream, head: &AnswerHead, body: &[u8]) -> Served {
    if downstream.start(head).is_err() {
        return Served::Broken;
    }
    downstream.push(body);
    match downstream.finish().await {
        Ok(()) => Served::Answered(downstream),
        Err(_) => Served::Broken,
    }
}

fn head_refusal(why: HeadRefusal) -> Refusal {
    match why {
        HeadRefusal::Timeout => Refusal::InvalidRequest("The request's head did not arrive in time".to_owned()),
        HeadRefusal::Head(HeadError::TooLarge) => Refusal::HeadTooLarge,
        HeadRefusal::Head(HeadError::TargetTooLong) => Refusal::TargetTooLong,
        HeadRefusal::Head(HeadError::Malformed(why)) => Refusal::InvalidRequest(format!("Malformed request: {why}")),
    }
}

/// The dialect to refuse in where the path told none.
fn dialect_of(headers: &HeaderMap) -> Provider {
    if headers.contains_key("anthropic-version") {
        Provider::Anthropic
    } else if headers.contains_key("x-goog-api-key") {
        Provider::Google
    } else {
        Provider::OpenAi
    }
}

/// Whether a request announces a body, even an empty one.
pub fn announces_body(head: &RequestHead) -> bool {
    head.headers.contains_key("content-length") || head.headers.contains_key("transfer-encoding")
}
