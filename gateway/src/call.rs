//! An LLM call up to the head of its answer: credential, body, admission, the request to the provider.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ace_policies::Provider;
use bytes::Bytes;
use http::HeaderValue;

use crate::admit::{Admitted, Arrival, Authorized};
use crate::answer::answer;
use crate::body::{self, Body};
use crate::engine::downstream::BodyError;
use crate::engine::upload::{UploadError, UploadLimits};
use crate::engine::upstream::{OutRequest, Upstream, UpstreamError};
use crate::engine::{Downstream, Headers, RequestHead, ResponseHead, Served, Stop};
use crate::flight::Flight;
use crate::forward::{self, Nominated};
use crate::hangup::Left;
use crate::keys::{KeyLease, ProviderKey};
use crate::ledger::Reservation;
use crate::provider;
use crate::proxy::{Gateway, Peer, announces_body, refuse};
use crate::refusal::Refusal;
use crate::route::{Api, Call, ModelPlace};
use crate::ticket::{Ticket, text};
use crate::tunnel::Tunnel;
use crate::upload::Begun;

/// What became of setting up.
pub enum Outbound {
    /// The answer's head is on its way; its body follows.
    Streaming(Flight),
    /// The provider agreed to leave HTTP.
    Tunnel(Tunnel, Box<Reservation>),
    /// Answered already, or nobody is there to be answered.
    Over(Served),
}

/// Why a call ends before it has an answer.
pub enum Stopped {
    /// The caller is told why.
    Refused(Refusal),
    /// The caller is gone.
    ClientGone,
}

impl<R: Into<Refusal>> From<R> for Stopped {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

/// A request that a provider has begun to answer.
pub struct Asked {
    /// The call.
    pub call: Call,
    /// The request's row.
    pub reservation: Box<Reservation>,
    /// The key that went out, to be masked where the provider echoes it.
    pub secret: Option<KeyLease>,
    /// The answer.
    pub upstream: Upstream,
    /// Its head.
    pub head: ResponseHead,
    /// Whether the answer brings a usage chunk that only we asked for.
    pub usage_chunk: bool,
    /// The most output tokens that the request allows, where it says so.
    pub max_output: Option<u64>,
    /// The upload that the answer begins or goes on with.
    pub upload: Option<Begun>,
}

/// Takes a call to the head of its answer.
pub async fn set_up(
    gateway: &Gateway,
    mut downstream: Downstream,
    head: RequestHead,
    call: Call,
    peer: Peer,
    mut ticket: Ticket,
    stop: &mut Stop,
) -> Outbound {
    if call.websocket && !(call.carries_websocket() && head.wants_upgrade()) {
        return Outbound::Over(refuse(gateway, downstream, &ticket, Refusal::Upgrade, call.dialect()).await);
    }
    let caller = match gateway.gate.authorize(call, &head.headers, head.query()).await {
        Ok(caller) => caller,
        Err(refusal) => return Outbound::Over(refuse(gateway, downstream, &ticket, refusal, call.dialect()).await),
    };
    // The token may have settled what the path left open.
    let dialect = caller.call.dialect();
    let asked = ask(gateway, &mut downstream, &head, caller, peer, &mut ticket, stop).await;
    drop(head);
    conclude(gateway, downstream, asked, dialect, ticket).await
}

/// Takes the second step of an upload to the head of its answer.
pub async fn set_up_upload(
    gateway: &Gateway,
    mut downstream: Downstream,
    head: RequestHead,
    grant: &str,
    mut ticket: Ticket,
) -> Outbound {
    let asked = gateway
        .uploads
        .ask(gateway, grant, &mut downstream, &head, &mut ticket)
        .await;
    conclude(gateway, downstream, asked, Provider::Google, ticket).await
}

async fn conclude(
    gateway: &Gateway,
    downstream: Downstream,
    asked: Result<Asked, Stopped>,
    dialect: Provider,
    ticket: Ticket,
) -> Outbound {
    match asked {
        Ok(asked) => answer(gateway, downstream, asked, ticket).await,
        Err(Stopped::ClientGone) => Outbound::Over(Served::Broken),
        Err(Stopped::Refused(refusal)) => Outbound::Over(refuse(gateway, downstream, &ticket, refusal, dialect).await),
    }
}

async fn ask(
    gateway: &Gateway,
    downstream: &mut Downstream,
    head: &RequestHead,
    caller: Authorized,
    peer: Peer,
    ticket: &mut Ticket,
    stop: &mut Stop,
) -> Result<Asked, Stopped> {
    let claims = Arc::clone(&caller.claims);
    if caller.call.api.model_place() == ModelPlace::Nowhere && !downstream.is_request_done() {
        return Box::pin(pass_upload(gateway, downstream, head, caller, peer, ticket)).await;
    }
    let bytes = read_body(gateway, downstream, head, ticket).await?;
    let Ready {
        admitted,
        edited,
        usage_chunk,
        max_output,
    } = admit(gateway, caller, head, &bytes, ticket).await?;
    let Admitted {
        call,
        key,
        mut reservation,
    } = admitted;
    let body = match edited {
        Some(edited) => Some(edited.into()),
        None => (!bytes.is_empty() || announces_body(head)).then(|| Bytes::from(bytes)),
    };
    let request = outgoing(head, &call, key.key(), body)?;
    let sent = {
        let asking = gateway
            .upstreams
            .request(&key.key().origin, &request, gateway.options.first_byte);
        let mut asking = pin!(asking);
        let sent = ticket.wait(async {
            tokio::select! {
                sent = &mut asking => Some(sent),
                () = downstream.gone() => None,
            }
        });
        let sent = sent.await;
        if sent.is_none() && call.api.costs_tokens() && request.is_sent.load(Ordering::Relaxed) {
            reservation.estimate_input();
            let left = Left {
                call: &call,
                reservation: &mut reservation,
                max_output,
            };
            Box::pin(left.unanswered(gateway, downstream, asking, stop)).await;
        }
        sent
    };
    match sent {
        None => Err(Stopped::ClientGone),
        Some(Err(error)) => Err(failed(gateway, &error, &mut reservation).into()),
        Some(Ok((upstream, answer))) => {
            let upload = (call.api == Api::Upload).then(|| Begun {
                base: Begun::base(head, peer),
                claims,
                key: key.key().id,
            });
            Ok(Asked {
                call,
                reservation: Box::new(reservation),
                secret: Some(key),
                upstream,
                head: answer,
                usage_chunk,
                max_output,
                upload,
            })
        }
    }
}

/// Sends a body that nobody here needs to read as it comes: a file may be large.
async fn pass_upload(
    gateway: &Gateway,
    downstream: &mut Downstream,
    head: &RequestHead,
    caller: Authorized,
    peer: Peer,
    ticket: &mut Ticket,
) -> Result<Asked, Stopped> {
    let claims = Arc::clone(&caller.claims);
    let Ready { admitted, .. } = admit(gateway, caller, head, &[], ticket).await?;
    let Admitted {
        call,
        key,
        mut reservation,
    } = admitted;
    let request = outgoing(head, &call, key.key(), None)?;
    let options = &gateway.options;
    let limits = UploadLimits {
        length: text(&head.headers, "content-length").and_then(|length| length.parse().ok()),
        max: options.max_body as u64,
        idle: options.limits.body_idle,
        total: options.body_total,
        first_byte: options.first_byte,
    };
    let sent = gateway
        .upstreams
        .upload(&key.key().origin, &request, downstream, limits);
    match ticket.wait(sent).await {
        Ok((upstream, answer, bytes)) => {
            reservation.entry().bytes_in = bytes;
            let upload = (call.api == Api::Upload).then(|| Begun {
                base: Begun::base(head, peer),
                claims,
                key: key.key().id,
            });
            let reservation = Box::new(reservation);
            Ok(Asked {
                call,
                reservation,
                secret: Some(key),
                upstream,
                head: answer,
                usage_chunk: false,
                max_output: None,
                upload,
            })
        }
        Err(UploadError::Upstream(error)) => Err(failed(gateway, &error, &mut reservation).into()),
        Err(UploadError::Body(why)) => {
            let stopped = body_refusal(why, options.max_body);
            if let Stopped::Refused(refusal) = &stopped {
                let entry = reservation.entry();
                entry.status = refusal.status().as_u16();
                entry.error_kind = Some(refusal.reason());
            }
            Err(stopped)
        }
    }
}

fn body_refusal(why: BodyError, max_body: usize) -> Stopped {
    match why {
        BodyError::Gone => Stopped::ClientGone,
        BodyError::TooLarge => Refusal::BodyTooLarge {
            max_bytes: max_body as u64,
        }
        .into(),
        BodyError::Timeout => Refusal::InvalidRequest("The request's body did not arrive in time".to_owned()).into(),
        BodyError::Malformed(why) => Refusal::InvalidRequest(format!("Malformed request body: {why}")).into(),
    }
}

/// Reads a request's body whole: the model in it decides where it goes.
pub async fn read_body(
    gateway: &Gateway,
    downstream: &mut Downstream,
    head: &RequestHead,
    ticket: &mut Ticket,
) -> Result<Vec<u8>, Stopped> {
    if downstream.is_request_done() {
        return Ok(Vec::new());
    }
    let options = &gateway.options;
    let expected = text(&head.headers, "content-length").and_then(|length| length.parse().ok());
    let read = downstream.read_whole_body(expected, options.max_body, options.body_total, options.limits.body_idle);
    ticket
        .wait(read)
        .await
        .map_err(|why| body_refusal(why, options.max_body))
}

/// A call that may go out.
struct Ready {
    admitted: Admitted,
    /// The body, where it had to be changed.
    edited: Option<Vec<u8>>,
    /// Whether the change asks for a usage chunk that the client did not ask for.
    usage_chunk: bool,
    /// The most output tokens that the body allows, where it says so.
    max_output: Option<u64>,
}

async fn admit(
    gateway: &Gateway,
    caller: Authorized,
    head: &RequestHead,
    bytes: &[u8],
    ticket: &Ticket,
) -> Result<Ready, Stopped> {
    let options = &gateway.options;
    let (kind, encoding) = (
        text(&head.headers, "content-type"),
        text(&head.headers, "content-encoding"),
    );
    let body = Body::read(bytes, kind, encoding, options.max_decoded_body)?;
    let arrival = Arrival {
        request_id: ticket.id,
        started_at_ms: ticket.started_at_ms,
        started: ticket.started,
        method: &head.method,
        target: &head.target,
        bytes_in: bytes.len() as u64,
    };
    let api = caller.call.api;
    let alias = match options.aliases.is_empty() {
        true => None,
        false => body.model().and_then(|model| options.aliases.get(&*model)),
    };
    let admitted = gateway
        .gate
        .admit(caller, &arrival, &body, alias.map(String::as_str))
        .await?;
    let include_usage = body.include_usage(api).filter(|_| options.include_usage);
    let usage_chunk = include_usage.is_some();
    let edits: Vec<_> = alias
        .and_then(|model| body.with_model(model))
        .into_iter()
        .chain(include_usage)
        .collect();
    let edited = (!edits.is_empty()).then(|| body::apply(bytes, edits));
    Ok(Ready {
        admitted,
        edited,
        usage_chunk,
        max_output: body.max_output(),
    })
}

/// The request as the provider gets it: the client's head without what is not for it, with our key.
fn outgoing(head: &RequestHead, call: &Call, key: &ProviderKey, body: Option<Bytes>) -> Result<OutRequest, Refusal> {
    let nominated = Nominated::by(head.headers.get_all("connection").iter().map(HeaderValue::as_bytes));
    let upgrade = call.carries_websocket().then(|| "websocket".to_owned());
    let mut headers = Headers::with_capacity(head.headers.len() + 2);
    for (name, value) in &head.headers {
        let (name, value) = (name.as_str(), value.as_bytes());
        let kept = match upgrade {
            Some(_) => forward::upgrade_header(name, value, &nominated, call),
            None => forward::request_header(name, &nominated, call).then_some(Cow::Borrowed(value)),
        };
        if let Some(value) = kept {
            headers.push(name, &value);
        }
    }
    if let Some(encoding) = forward::accept_encoding(call) {
        headers.push("accept-encoding", encoding.as_bytes());
    }
    let unusable = |_| Refusal::Config("The provider key holds characters that no header can carry".to_owned());
    let (name, value) = provider::key_header(call, key.secret.expose()).map_err(unusable)?;
    headers.push(name.as_str(), value.as_bytes());
    let target = call.upstream_target(&key.base_url, head.target.as_bytes());
    let target = String::from_utf8(target).map_err(|_| Refusal::InvalidRequest("Bad request path".to_owned()))?;
    Ok(OutRequest {
        method: head.method.clone(),
        target,
        headers,
        body,
        upgrade,
        is_sent: AtomicBool::default(),
    })
}

/// Records and tells that a provider did not answer.
pub fn failed(gateway: &Gateway, error: &UpstreamError, reservation: &mut Reservation) -> Refusal {
    let entry = reservation.entry();
    tracing::warn!(request_id = %entry.request_id, provider = %entry.provider, kind = error.kind(), %error, "the provider did not answer");
    gateway.metrics.upstream_error(entry.provider, error.kind());
    let refusal = if error.is_timeout() {
        Refusal::UpstreamTimeout
    } else {
        Refusal::Upstream
    };
    entry.status = refusal.status().as_u16();
    entry.error_kind = Some(refusal.reason());
    if matches!(error, UpstreamError::Timeout) {
        // It has the request and works on it, for all we know.
        reservation.estimate_input();
    }
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of a future that is never made.
    fn size<'g, F: Future>(
        _: impl FnOnce(&'g Gateway, Downstream, RequestHead, Call, Peer, Ticket, &'g mut Stop) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn setting_up_a_call_moves_little_memory() {
        // It is moved into its box whole: 16 kB more were a quarter of a request's instructions once.
        let bytes = size(set_up);
        assert!(bytes < 4096, "{bytes} bytes");
    }
}
