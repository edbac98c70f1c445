//! Gemini's resumable uploads: the provider names a URL for the second step that is a credential by itself. The client gets a
//! signed, short-lived one of ours instead.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ace_policies::token::Claims;
use ace_policies::upload::{UploadGrant, sign_upload, verify_upload};
use ace_policies::vault::Subkey;
use ace_policies::{KeyId, Provider};
use bytes::Bytes;
use http::HeaderValue;
use url::Url;
use uuid::Uuid;

use crate::admit::Arrival;
use crate::call::{Asked, Stopped, failed, read_body};
use crate::clock::now_s;
use crate::engine::connect::Origin;
use crate::engine::upstream::OutRequest;
use crate::engine::{Downstream, Headers, RequestHead};
use crate::forward::{self, Nominated};
use crate::proxy::{Gateway, Peer};
use crate::refusal::Refusal;
use crate::route::{Call, UPLOAD_PREFIX};
use crate::ticket::{Ticket, text};

/// How long an upload may take, in seconds. Google's own URLs live for a day or so.
const TTL_S: i64 = 24 * 3600;

/// Signs and redeems upload URLs.
pub struct Uploads(Subkey);

/// Whose upload an answer begins, and where its client reached us.
pub struct Begun {
    /// Scheme and host of our own address, as the client wrote it.
    pub base: String,
    /// The caller.
    pub claims: Arc<Claims>,
    /// The key that the upload was begun with.
    pub key: KeyId,
}

impl Begun {
    /// The address by which this client reaches us.
    pub fn base(head: &RequestHead, peer: Peer) -> String {
        let scheme = if peer.tls { "https" } else { "http" };
        format!("{scheme}://{}", text(&head.headers, "host").unwrap_or_default())
    }
}

impl Uploads {
    /// Signs with `key`.
    pub fn new(key: Subkey) -> Self {
        Self(key)
    }

    /// Our URL for the provider's; `None` where that is no URL.
    pub fn public_url(&self, provider_url: &[u8], begun: &Begun) -> Option<Vec<u8>> {
        let url = Url::parse(std::str::from_utf8(provider_url).ok()?).ok()?;
        let Claims {
            user, tenant, session, ..
        } = *begun.claims;
        let grant = UploadGrant {
            url: url.into(),
            user,
            tenant,
            key: begun.key,
            session,
            exp: now_s() + TTL_S,
        };
        Some(format!("{}{UPLOAD_PREFIX}{}", begun.base, sign_upload(&self.0, &grant)).into_bytes())
    }

    /// Sends the second step to where the grant says.
    pub async fn ask(
        &self,
        gateway: &Gateway,
        token: &str,
        downstream: &mut Downstream,
        head: &RequestHead,
        ticket: &mut Ticket,
    ) -> Result<Asked, Stopped> {
        let (grant, url) = self.redeem(gateway, token)?;
        let call = Call::upload_step();
        let body = read_body(gateway, downstream, head, ticket).await?;
        let arrival = Arrival {
            request_id: ticket.id,
            started_at_ms: ticket.started_at_ms,
            started: ticket.started,
            method: &head.method,
            target: url.path(),
            bytes_in: body.len() as u64,
        };
        let claims = Arc::new(claims_of(&grant));
        let mut reservation = Box::new(gateway.gate.record(&claims, &call, &arrival, Some(grant.key))?);
        let origin = Origin::of_url(&url, grant.tenant.0).ok_or(Refusal::Auth)?;
        let request = outgoing(head, &call, &url, body.into());
        let sent = ticket.wait(async {
            tokio::select! {
                sent = gateway.upstreams.request(&origin, &request, gateway.options.first_byte) => Some(sent),
                () = downstream.gone() => None,
            }
        });
        let begun = Begun {
            base: String::new(),
            claims: claims.clone(),
            key: grant.key,
        };
        match sent.await {
            None => Err(Stopped::ClientGone),
            Some(Ok((upstream, answer))) => Ok(Asked {
                call,
                reservation,
                secret: None,
                upstream,
                head: answer,
                usage_chunk: false,
                max_output: None,
                upload: Some(begun),
            }),
            Some(Err(error)) => Err(failed(gateway, &error, &mut reservation).into()),
        }
    }

    fn redeem(&self, gateway: &Gateway, token: &str) -> Result<(UploadGrant, Url), Refusal> {
        let grant = verify_upload(&self.0, token, now_s()).map_err(|_| Refusal::Auth)?;
        let snapshot = gateway.gate.store().snapshot();
        // The grant was made under whatever generation holds now; what is asked is whether its owner still stands.
        let stands = match snapshot.users.get(&grant.user) {
            Some(user) => {
                user.tenant == grant.tenant
                    && grant
                        .session
                        .is_none_or(|session| snapshot.sessions.contains_key(&session))
            }
            None => false,
        };
        let url = Url::parse(&grant.url).map_err(|_| Refusal::Auth)?;
        if stands { Ok((grant, url)) } else { Err(Refusal::Auth) }
    }
}

fn claims_of(grant: &UploadGrant) -> Claims {
    Claims {
        session: grant.session,
        user: grant.user,
        tenant: grant.tenant,
        machine: None,
        provider: Some(Provider::Google),
        tool: "upload".to_owned(),
        models: None,
        iat: 0,
        exp: grant.exp,
        jti: Uuid::nil(),
        generation: 0,
    }
}

fn target_of(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

fn outgoing(head: &RequestHead, call: &Call, url: &Url, body: Bytes) -> OutRequest {
    let nominated = Nominated::by(head.headers.get_all("connection").iter().map(HeaderValue::as_bytes));
    let mut headers = Headers::with_capacity(head.headers.len());
    for (name, value) in &head.headers {
        if forward::request_header(name.as_str(), &nominated, call) {
            headers.push(name.as_str(), value.as_bytes());
        }
    }
    OutRequest {
        method: head.method.clone(),
        target: target_of(url),
        headers,
        body: Some(body),
        upgrade: None,
        is_sent: AtomicBool::default(),
    }
}
