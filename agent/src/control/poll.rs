//! The long poll: the same conversation in lists of messages, where no WebSocket gets through.
//!
//! One request always waits at the server for what it has to say; others, one at a time, carry what we have to say.

use std::time::Duration;

use ace_policies::{
    Secret,
    wire::{FromAgent, MAX_MESSAGE_BYTES, Sync, ToAgent},
};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{exchange::Exchange, lost::Lost};
use crate::http::Http;

const PATH: &str = "api/remote/agent/message";
/// How long a request waits at the server.
const WAIT: Duration = Duration::from_secs(25);
/// And how much longer we wait for it.
const GRACE: Duration = Duration::from_secs(15);
/// What comes within this time after a first message goes with it.
const GATHER: Duration = Duration::from_millis(20);
/// Messages of one request; output alone can fill one.
const MAX_MESSAGES: usize = 100;

/// One connection by long polls.
pub(super) struct Poll<'a> {
    http: &'a Http,
    token: &'a Secret,
    id: Uuid,
}

#[derive(Deserialize)]
struct Synced {
    #[serde(default)]
    messages: Vec<Value>,
}

impl<'a> Poll<'a> {
    pub fn new(http: &'a Http, token: &'a Secret, id: Uuid) -> Self {
        Self { http, token, id }
    }

    /// The first exchange: who we are, and the server's Welcome.
    pub async fn open(&self, exchange: &mut Exchange<'_>) -> Result<(), Lost> {
        let heard = self.request(vec![exchange.first_word()], Duration::ZERO).await?;
        hear(exchange, heard)?;
        match exchange.welcomed {
            true => Ok(()),
            false => Err(Lost::Speechless {
                url: PATH.to_owned(),
                after: GRACE,
            }),
        }
    }

    /// Converses until `until`, then returns when no request is waiting.
    pub async fn converse(
        &self,
        exchange: &mut Exchange<'_>,
        stop: &CancellationToken,
        until: Instant,
    ) -> Result<(), Lost> {
        let mut waiting = Box::pin(self.request(Vec::new(), WAIT));
        loop {
            tokio::select! {
                () = stop.cancelled() => return Err(Lost::Stopping),
                heard = &mut waiting => {
                    hear(exchange, heard?)?;
                    if Instant::now() >= until {
                        return Ok(());
                    }
                    waiting = Box::pin(self.request(Vec::new(), WAIT));
                }
                message = exchange.next() => {
                    let (messages, lost) = gather(message?, exchange).await;
                    self.say(messages, exchange).await?;
                    if let Some(lost) = lost {
                        return Err(lost);
                    }
                }
            }
        }
    }

    async fn say(&self, messages: Vec<FromAgent>, exchange: &mut Exchange<'_>) -> Result<(), Lost> {
        let mark = exchange.mark();
        let heard = self.request(messages, Duration::ZERO).await?;
        exchange.confirm(mark);
        hear(exchange, heard)
    }

    async fn request(&self, messages: Vec<FromAgent>, wait: Duration) -> Result<Vec<ToAgent>, Lost> {
        let sync = Sync {
            r#type: "sync".to_owned(),
            connection_id: self.id,
            messages,
            wait_ms: wait.as_millis() as u64,
        };
        let body = serde_json::to_vec(&sync).unwrap_or_default();
        let answer = self.http.post(PATH, Some(self.token), body, wait + GRACE).await?;
        if answer.status != StatusCode::OK {
            return Err(Lost::Refused {
                status: answer.status,
                problem: answer.problem(),
                retry_after: answer.retry_after,
                url: answer.url,
            });
        }
        let synced = serde_json::from_slice::<Synced>(&answer.body).map_err(|error| Lost::Broken {
            url: answer.url,
            problem: format!("its answer is not what it should be: {error}"),
        })?;
        let known = synced.messages.into_iter().filter_map(|message| {
            let read = serde_json::from_value(message);
            read.inspect_err(|error| tracing::warn!(%error, "the server says something that is not understood"))
                .ok()
        });
        Ok(known.collect())
    }
}

fn hear(exchange: &mut Exchange<'_>, messages: Vec<ToAgent>) -> Result<(), Lost> {
    messages.into_iter().try_for_each(|message| exchange.hear(message))
}

/// A first message and what comes right after it, as much as one request takes; and why they are the last, where they are.
async fn gather(first: FromAgent, exchange: &mut Exchange<'_>) -> (Vec<FromAgent>, Option<Lost>) {
    let until = Instant::now() + GATHER;
    let mut bytes = size(&first);
    let mut messages = vec![first];
    while messages.len() < MAX_MESSAGES && bytes < MAX_MESSAGE_BYTES / 2 {
        let Ok(message) = timeout_at(until, exchange.next()).await else {
            break;
        };
        match message {
            Ok(message) => {
                bytes += size(&message);
                messages.push(message);
            }
            Err(lost) => return (messages, Some(lost)),
        }
    }
    (messages, None)
}

/// About how much a message takes.
fn size(message: &FromAgent) -> usize {
    match message {
        FromAgent::Output { lines, .. } => lines.iter().map(|line| line.data.0.len() + 64).sum(),
        FromAgent::Done { result: Some(_), .. } => MAX_MESSAGE_BYTES / 2,
        _ => 512,
    }
}

/// Waits until a moment, or until the agent is asked to end.
pub(super) async fn rest(until: Instant, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = sleep_until(until) => true,
    }
}
