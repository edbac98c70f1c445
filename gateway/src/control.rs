//! Requests to the control API, and connections that leave HTTP towards it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ace_policies::edge::{self, EdgeHeaders};
use ace_policies::vault::Subkey;
use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::clock::now_s;
use crate::copy::{Ending, Limit, Unread, copy};
use crate::engine::connect::Origin;
use crate::engine::downstream::BodyError;
use crate::engine::headers::lists;
use crate::engine::upstream::{OutRequest, Upstream, UpstreamError, Upstreams};
use crate::engine::{AnswerHead, Downstream, Headers, RequestHead, ResponseHead, Served, Stop};
use crate::proxy::{Gateway, Peer, announces_body, send};
use crate::ticket::{Ticket, text};
use crate::tunnel::Tunnel;

/// The largest body that is passed on. It is read before anybody knows who sends it, and what the control API is told is small.
const MAX_BODY: usize = 2 * 1024 * 1024;

/// The control nodes, and the key that signs what we tell them about a request.
pub struct ControlPlane {
    nodes: Vec<Origin>,
    turn: AtomicUsize,
    key: Subkey,
    first_byte: Duration,
}

impl ControlPlane {
    /// Passes requests to `nodes` in turn; a node that cannot be connected to is passed over.
    pub fn new(nodes: Vec<Origin>, key: Subkey, first_byte: Duration) -> Self {
        Self {
            nodes,
            turn: AtomicUsize::new(0),
            key,
            first_byte,
        }
    }

    /// Whether any node answers.
    pub async fn is_reachable(&self, upstreams: &Upstreams) -> bool {
        let mut headers = Headers::with_capacity(8);
        let peer = Peer {
            ip: IpAddr::from([127, 0, 0, 1]),
            tls: false,
        };
        self.introduce(&mut headers, peer, "localhost", "readyz", &Method::GET, "/api/meta");
        let request = OutRequest {
            method: Method::GET,
            target: "/api/meta".to_owned(),
            headers,
            body: None,
            upgrade: None,
            is_sent: AtomicBool::default(),
        };
        matches!(self.send(upstreams, &request, Duration::from_secs(2)).await, Ok((_, head)) if head.status < 500)
    }

    /// Passes a request on and its answer back.
    pub async fn pass(
        &self,
        gateway: &Gateway,
        mut downstream: Downstream,
        head: RequestHead,
        peer: Peer,
        mut ticket: Ticket,
        stop: Stop,
    ) -> Served {
        gateway.metrics.control_requests.inc();
        let body = match read_body(gateway, &mut downstream, &head, &mut ticket).await {
            Ok(body) => body,
            Err(BodyError::Gone) => return Served::Broken,
            Err(why) => return answer_error(downstream, &ticket, body_error(why)).await,
        };
        let request = self.outgoing(&head, peer, &ticket, body);
        let sent = ticket.wait(async {
            tokio::select! {
                sent = self.send(&gateway.upstreams, &request, self.first_byte) => Some(sent),
                () = downstream.gone() => None,
            }
        });
        let (upstream, answer) = match sent.await {
            None => return Served::Broken,
            Some(Ok(answer)) => answer,
            Some(Err(error)) => {
                tracing::warn!(%error, request_id = %ticket.id, "the control API does not answer");
                return answer_error(downstream, &ticket, unreachable(&error)).await;
            }
        };
        if answer.status == 101 {
            let tunnel = Tunnel::new(downstream, upstream, &answer, end_to_end(&answer), &ticket);
            return tunnel.run(gateway.options.limits.write, stop).await;
        }
        back(gateway, downstream, upstream, answer, &ticket, stop).await
    }

    async fn send(
        &self,
        upstreams: &Upstreams,
        request: &OutRequest,
        first_byte: Duration,
    ) -> Result<(Upstream, ResponseHead), UpstreamError> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut last = None;
        for offset in 0..self.nodes.len() {
            let node = &self.nodes[(first + offset) % self.nodes.len()];
            match upstreams.request(node, request, first_byte).await {
                Err(error) if error.is_unsent() => last = Some(error),
                result => return result,
            }
        }
        Err(last.unwrap_or(UpstreamError::Timeout))
    }

    fn outgoing(&self, head: &RequestHead, peer: Peer, ticket: &Ticket, body: Option<Bytes>) -> OutRequest {
        let mut headers = Headers::with_capacity(head.headers.len() + 6);
        for (name, value) in &head.headers {
            if goes_on(name.as_str(), &head.headers) {
                headers.push(name.as_str(), value.as_bytes());
            }
        }
        let host = text(&head.headers, "host").unwrap_or_default();
        self.introduce(
            &mut headers,
            peer,
            host,
            &ticket.id.to_string(),
            &head.method,
            &head.target,
        );
        let upgrade = head
            .wants_upgrade()
            .then(|| text(&head.headers, "upgrade").unwrap_or_default().to_owned());
        OutRequest {
            method: head.method.clone(),
            target: head.target.clone(),
            headers,
            body,
            upgrade,
            is_sent: AtomicBool::default(),
        }
    }

    /// Adds who is calling, signed: the control API believes nobody else about it.
    fn introduce(
        &self,
        headers: &mut Headers,
        peer: Peer,
        host: &str,
        request_id: &str,
        method: &Method,
        target: &str,
    ) {
        let scheme = if peer.tls { "https" } else { "http" };
        let edge = EdgeHeaders {
            client: peer.ip,
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            request_id: request_id.to_owned(),
            time: now_s(),
        };
        for (name, value) in edge.to_headers() {
            headers.push(name, value.as_bytes());
        }
        headers.push(
            edge::SIGNATURE,
            edge.sign(&self.key, method.as_str(), target).as_bytes(),
        );
    }
}

/// Whether a client's header goes on: not the connection's own, and none that claims who the client is.
fn goes_on(name: &str, headers: &HeaderMap) -> bool {
    let own = matches!(
        name,
        "host"
            | "connection"
            | "keep-alive"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "content-length"
            | "expect"
    );
    let claims = matches!(name, "forwarded" | "x-real-ip" | "via")
        || name.starts_with("x-forwarded-")
        || name.starts_with("x-ace-");
    let nominated = !name.starts_with("content-") && lists(headers, "connection", name);
    !(own || claims || nominated || name.starts_with("proxy-"))
}

async fn read_body(
    gateway: &Gateway,
    downstream: &mut Downstream,
    head: &RequestHead,
    ticket: &mut Ticket,
) -> Result<Option<Bytes>, BodyError> {
    if !announces_body(head) && downstream.is_request_done() {
        return Ok(None);
    }
    let expected = text(&head.headers, "content-length").and_then(|length| length.parse().ok());
    let options = &gateway.options;
    let max = options.max_body.min(MAX_BODY);
    let read = downstream.read_whole_body(expected, max, options.body_total, options.limits.body_idle);
    ticket.wait(read).await.map(|body| Some(body.into()))
}

async fn back(
    gateway: &Gateway,
    mut downstream: Downstream,
    mut upstream: Upstream,
    answer: ResponseHead,
    ticket: &Ticket,
    mut stop: Stop,
) -> Served {
    let mut head = AnswerHead::new(answer.status, answer.length);
    head.reason.clone_from(&answer.reason);
    head.headers = end_to_end(&answer);
    stamp_missing(ticket, &mut head);
    if downstream.start(&head).is_err() {
        return Served::Broken;
    }
    let no_timeout = Duration::from_secs(24 * 3600);
    let mut unread = Unread;
    let (is_endless, mut drain) = (is_event_stream(&answer), stop.clone());
    let copied = copy(
        &mut upstream,
        &mut downstream,
        Limit::silence(no_timeout),
        &mut stop,
        &mut unread,
    );
    // A stream of events has no end to wait for: its client comes again, to another process, and goes on where it was.
    let ending = tokio::select! {
        ending = copied => ending,
        () = drain.draining(), if is_endless => Ending::Stopped,
    };
    match ending {
        Ending::Complete => {}
        _ => return Served::Broken,
    }
    if downstream.finish().await.is_err() {
        return Served::Broken;
    }
    gateway.upstreams.release(upstream);
    Served::Answered(downstream)
}

fn is_event_stream(answer: &ResponseHead) -> bool {
    let content_type = answer.headers.get_str("content-type").unwrap_or_default();
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .eq_ignore_ascii_case("text/event-stream")
}

fn end_to_end(answer: &ResponseHead) -> Headers {
    let mut headers = Headers::with_capacity(answer.headers.len() + 3);
    for (name, value) in answer.headers.iter().filter(|(name, _)| !is_hop(name)) {
        headers.push(name, value);
    }
    headers
}

/// The control API names the request itself; what it leaves out is added.
fn stamp_missing(ticket: &Ticket, head: &mut AnswerHead) {
    if !head.headers.contains("x-ace-request-id") {
        return ticket.stamp(head);
    }
    if !head.headers.contains("x-request-id") {
        head.headers.push("x-request-id", ticket.id.to_string().as_bytes());
    }
    ticket.stamp_time(head);
}

fn is_hop(name: &str) -> bool {
    [
        "connection",
        "keep-alive",
        "transfer-encoding",
        "content-length",
        "upgrade",
        "te",
        "trailer",
    ]
    .iter()
    .any(|hop| name.eq_ignore_ascii_case(hop))
}

/// An error of ours in the control API's form.
struct ControlError {
    status: u16,
    message: &'static str,
    code: &'static str,
}

fn body_error(why: BodyError) -> ControlError {
    match why {
        BodyError::TooLarge => ControlError {
            status: 413,
            message: "The request's body is too large",
            code: "request_too_large",
        },
        BodyError::Timeout => ControlError {
            status: 408,
            message: "The request's body did not arrive in time",
            code: "request_timeout",
        },
        BodyError::Malformed(_) | BodyError::Gone => ControlError {
            status: 400,
            message: "The request's body is malformed",
            code: "bad_request",
        },
    }
}

fn unreachable(error: &UpstreamError) -> ControlError {
    match error.is_timeout() {
        true => ControlError {
            status: 504,
            message: "The control API does not answer",
            code: "control_api_timeout",
        },
        false => ControlError {
            status: 503,
            message: "The control API cannot be reached",
            code: "control_api_unavailable",
        },
    }
}

async fn answer_error(mut downstream: Downstream, ticket: &Ticket, error: ControlError) -> Served {
    let body = serde_json::json!({"error": error.message, "code": error.code}).to_string();
    let mut head = AnswerHead::new(error.status, Some(body.len() as u64));
    head.headers.push("content-type", b"application/json");
    if error.status == 503 {
        head.headers.push("retry-after", b"2");
    }
    ticket.stamp(&mut head);
    if !downstream.is_request_done() {
        downstream.close_after();
    }
    send(downstream, &head, body.as_bytes()).await
}
