//! One signed request to a receiver.

use std::time::Instant;

use ace_policies::Secret;
use ace_policies::ssrf::check_url;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::create::refused_url;
use crate::App;
use crate::error::ApiError;
use crate::meta::VERSION;
use crate::outbound;

/// The header with the signature: `t=<UTC seconds>,v1=<HMAC-SHA256 over "<t>.<body>" in hexadecimal>`.
pub(super) const SIGNATURE: &str = "x-ace-signature";

/// What is sent where.
pub(super) struct Letter<'a> {
    pub url: &'a str,
    pub secret: &'a Secret,
    /// By which the receiver knows it when it comes again.
    pub id: &'a str,
    pub event: &'a str,
    pub body: &'a str,
}

/// What came of it.
pub(super) struct Outcome {
    /// The receiver's HTTP status, when it answered.
    pub status: Option<u16>,
    pub latency_ms: u64,
    /// Why it does not count as delivered, in words of ours.
    pub error: Option<String>,
}

/// The client that all letters go out with.
pub(super) fn client(app: &App) -> Result<reqwest::Client, ApiError> {
    let notify = &app.config().notify;
    outbound::client(&notify.allow, app.config().ca_pem.as_deref(), notify.timeout)
}

/// Sends it once. Redirects are not followed, and the answer's body is not read.
pub(super) async fn send(app: &App, client: &reqwest::Client, letter: &Letter<'_>) -> Outcome {
    let start = Instant::now();
    let sent = attempt(app, client, letter).await;
    let latency_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (status, error) = match sent {
        Ok(status) => (Some(status), verdict(status)),
        Err(error) => (None, Some(error)),
    };
    Outcome {
        status,
        latency_ms,
        error,
    }
}

async fn attempt(app: &App, client: &reqwest::Client, letter: &Letter<'_>) -> Result<u16, String> {
    // The rules may have changed since the webhook was made.
    let url =
        check_url(letter.url, &app.config().notify.allow).map_err(|error| refused_url("url", &error).to_string())?;
    let signature = sign(letter.secret, app.now() / 1000, letter.body);
    let request = client
        .post(url)
        .header("content-type", "application/json")
        .header("user-agent", format!("ACE-Gateway/{VERSION}"))
        .header("x-ace-event", letter.event)
        .header("x-ace-event-id", letter.id)
        .header(SIGNATURE, signature)
        .body(letter.body.to_owned());
    let timeout = app.config().notify.timeout;
    let answer = request
        .send()
        .await
        .map_err(|error| format!("the receiver {}", outbound::reason(&error, timeout)))?;
    Ok(answer.status().as_u16())
}

fn verdict(status: u16) -> Option<String> {
    match status {
        200..=299 => None,
        300..=399 => Some(format!(
            "the receiver answered {status}: it redirects elsewhere, which is not followed"
        )),
        _ => Some(format!("the receiver answered {status}")),
    }
}

/// Signs a body for a moment, so that a receiver can refuse what is old.
pub(super) fn sign(secret: &Secret, seconds: i64, body: &str) -> String {
    let keyed = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes keys of any length");
    let mac = keyed.chain_update(format!("{seconds}.")).chain_update(body).finalize();
    format!("t={seconds},v1={}", hex::encode(mac.into_bytes()))
}
