//! One request to a push service (RFC 8030).

use url::Url;

use super::key::Key;
use crate::App;
use crate::error::ApiError;
use crate::outbound;

/// How long a service keeps a push for a browser that is away, in seconds.
const TTL_S: u32 = 86_400;

/// An encrypted push.
pub(super) struct Push {
    pub endpoint: Url,
    pub body: Vec<u8>,
    /// Whether it is worth waking a sleeping phone for.
    pub is_urgent: bool,
}

/// What came of it.
pub(super) enum Attempt {
    /// The service has it.
    Taken,
    /// The subscription is no more.
    Gone,
    /// It will never be taken, and why.
    Refused(String),
    /// It may be taken later, and why not now.
    Later(String),
}

/// Sends it once.
pub(super) async fn attempt(app: &App, client: &reqwest::Client, key: &Key, push: &Push) -> Result<Attempt, ApiError> {
    let notify = &app.config().notify;
    let authorization = key.authorization(&push.endpoint, notify.contact.as_deref(), app.now() / 1000)?;
    let request = client
        .post(push.endpoint.clone())
        .header("authorization", authorization)
        .header("content-encoding", "aes128gcm")
        .header("content-type", "application/octet-stream")
        .header("ttl", TTL_S)
        .header("urgency", if push.is_urgent { "high" } else { "normal" })
        .body(push.body.clone());
    Ok(match request.send().await {
        Ok(answer) => verdict(answer.status().as_u16()),
        Err(error) => Attempt::Later(format!("the push service {}", outbound::reason(&error, notify.timeout))),
    })
}

fn verdict(status: u16) -> Attempt {
    match status {
        200..=299 => Attempt::Taken,
        404 | 410 => Attempt::Gone,
        408 | 429 | 500..=599 => Attempt::Later(format!("the push service answered {status}")),
        _ => Attempt::Refused(format!("the push service answered {status}")),
    }
}
