//! The long poll: the conversation of an agent where no WebSocket gets through.

use std::time::Duration;

use ace_policies::wire::{FromAgent, Synced, ToAgent};
use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::Agent;
use super::connections::{self, Connection, Transport};
use super::link::{Link, Standing, said};
use super::words::understand_value;
use crate::App;
use crate::error::ApiError;
use crate::wakeups::Wakeup;

/// The longest wait. Shorter than what proxies on the way allow.
const MAX_WAIT: Duration = Duration::from_secs(25);

/// How often a connection that waits is renewed.
const RENEWAL: Duration = Duration::from_secs(5);

/// Messages in one exchange.
const MAX_MESSAGES: usize = 1_000;

/// `wire::Sync`, whose messages are read one by one: types that are not known here are skipped.
#[derive(Deserialize)]
struct Exchange {
    connection_id: Uuid,
    #[serde(default)]
    messages: Vec<Value>,
    #[serde(default)]
    wait_ms: u64,
}

/// Takes what an agent says and answers with what there is to be said, as soon as there is something. Commands are handed over only
/// to an exchange that waits: an agent may send output while another one of its exchanges is waiting, and they must not overtake.
pub(super) async fn exchange(app: App, agent: Agent, body: Value) -> Result<Response, ApiError> {
    let Exchange {
        connection_id,
        messages,
        wait_ms,
    } = Exchange::deserialize(body).map_err(|error| ApiError::bad("invalid_message", format!("sync: {error}")))?;
    if messages.len() > MAX_MESSAGES {
        let problem = format!("at most {MAX_MESSAGES} are taken at once");
        return Err(ApiError::field("messages", problem));
    }
    let connection = Connection {
        machine: agent.machine,
        id: connection_id,
        transport: Transport::Poll,
    };
    let (mut messages, mut answers) = read(messages);
    let link = match take_hello(&mut messages) {
        Some(hello) => {
            let (link, welcome) = Link::open(app, agent, connection, &hello).await?;
            answers.push(welcome);
            link
        }
        None if connections::renew(&app, connection).await? => Link { app, agent, connection },
        None => return Ok(synced(Standing::Lapsed.farewell().into_iter().collect())),
    };
    for message in messages {
        answers.extend(link.hear(message).await?);
    }
    if wait_ms > 0 {
        let wait = if answers.is_empty() {
            longest(&link.app, wait_ms)
        } else {
            Duration::ZERO
        };
        answers.extend(wait_for(&link, wait).await?);
    }
    Ok(synced(answers))
}

fn synced(messages: Vec<ToAgent>) -> Response {
    Json(Synced {
        success: true,
        messages,
    })
    .into_response()
}

/// What can be understood, and what is said to the rest.
fn read(messages: Vec<Value>) -> (Vec<FromAgent>, Vec<ToAgent>) {
    let (mut understood, mut answers) = (Vec::with_capacity(messages.len()), Vec::new());
    for message in messages {
        match understand_value(message) {
            Ok(message) => understood.extend(message),
            Err(error) => answers.push(said(&error, false)),
        }
    }
    (understood, answers)
}

/// The first word, where an exchange begins with it.
fn take_hello(messages: &mut Vec<FromAgent>) -> Option<ace_policies::wire::Connect> {
    if !matches!(messages.first(), Some(FromAgent::Connect(_))) {
        return None;
    }
    match messages.remove(0) {
        FromAgent::Connect(hello) => Some(hello),
        _ => None,
    }
}

/// Never so long that the request would be given up.
fn longest(app: &App, wait_ms: u64) -> Duration {
    Duration::from_millis(wait_ms)
        .min(MAX_WAIT)
        .min(app.config().request_timeout / 2)
}

/// Waits for something to say.
async fn wait_for(link: &Link, wait: Duration) -> Result<Vec<ToAgent>, ApiError> {
    let mut bell = link.app.wakeups().listen(Wakeup::Machine(link.agent.machine));
    let (end, closing) = (Instant::now() + wait, link.app.closing().clone());
    loop {
        let standing = link.standing().await?;
        if let Some(farewell) = standing.farewell() {
            return Ok(vec![farewell]);
        }
        // The rest is for the next exchange.
        let (due, _more) = link.due().await?;
        if !due.is_empty() || Instant::now() >= end {
            return Ok(due);
        }
        tokio::select! {
            () = bell.rung() => {}
            // The agent is to ask another node.
            () = closing.cancelled() => return Ok(Vec::new()),
            () = sleep_until(end) => {}
            () = sleep(RENEWAL) => {}
        }
        connections::renew(&link.app, link.connection).await?;
    }
}
