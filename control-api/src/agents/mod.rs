//! Agents: the machines' side of the API.
//!
//! An agent speaks over a WebSocket ([`ws`]), where it cannot over long polls ([`sync`]); either way it is the same conversation
//! ([`link`]). The older agent, in Python, asks every second ([`python`]). What agents say of sessions is checked in one place
//! ([`reports`]): that the session is this machine's, and that the run is the current one.

mod connections;
pub(crate) mod credential;
mod hand_over;
mod link;
pub(crate) mod links;
mod lost;
mod python;
mod register;
mod reports;
pub(crate) mod round;
mod sync;
mod words;
mod ws;

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::error::ApiError;

pub(crate) use connections::cut;
pub(crate) use credential::Agent;

/// The largest body: a few messages of the largest size there is would be a waste of a round trip each.
const MAX_BODY_BYTES: usize = 2 << 20;

/// How long a connection counts as held after its last renewal.
pub(crate) const LEASE: Duration = Duration::from_secs(15);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(message))
        .routes(routes!(python::usage_report))
        .routes(routes!(python::heartbeat))
        .routes(routes!(python::token_info))
        .routes(routes!(python::command_response))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .routes(routes!(ws::connect))
        .routes(routes!(register::register))
}

/// Takes what an agent says that has no WebSocket: a long poll of `policies::wire` (`type` is `sync`), or one message of the older
/// agent.
#[utoipa::path(post, path = "/api/remote/agent/message", tag = "agents", request_body = Object,
    responses((status = 200, body = Object), (status = 400, body = crate::error::ErrorBody),
              (status = 401, body = crate::error::ErrorBody), (status = 403, body = crate::error::ErrorBody)))]
async fn message(
    State(app): State<App>,
    agent: Agent,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let message = parse(body)?;
    match message
        .get("type")
        .and_then(Value::as_str)
        .filter(|kind| !kind.is_empty())
    {
        None => Err(ApiError::bad("type_required", "type is required")),
        Some("sync") => sync::exchange(app, agent, message).await,
        Some(_) => python::hear(app, agent, message).await,
    }
}

fn parse(body: Result<Bytes, BytesRejection>) -> Result<Value, ApiError> {
    let bytes = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is larger than {MAX_BODY_BYTES} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
        }
        _ => ApiError::bad("unreadable_body", "the body could not be read to its end"),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::bad("invalid_body", error.to_string()))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
