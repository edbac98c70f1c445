//! The older agent, in Python: one message for each request, and an answer that may carry commands.
//!
//! It handles commands one after another in the loop that registers, polls and sends heartbeats. It looks for commands in the
//! answers to those three alone: in another answer they would be lost.

mod items;
mod results;
mod tell;

use ace_policies::MachineId;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sqlx::Row;

use super::connections::{self, Connection, Transport};
use super::hand_over::{Dialect, hand_over, settled};
use super::{Agent, parse, reports};
use crate::App;
use crate::error::ApiError;
use crate::queue;

/// How old a renewal may be: it asks every second, and not each time is worth a write.
const RENEWAL_MS: i64 = 5_000;

/// Takes one message.
pub(super) async fn hear(app: App, agent: Agent, message: Value) -> Result<Response, ApiError> {
    check_machine(&app, &agent, &message).await?;
    let kind = message["type"].as_str().unwrap_or_default();
    if !matches!(kind, "register" | "heartbeat") {
        stay(&app, &agent).await?;
    }
    let done = json!({ "success": true });
    let quiet = json!({ "success": true, "pending_commands": [] });
    let answer = match kind {
        "register" => {
            introduce(&app, &agent, &message, true).await?;
            pending(&app, &agent, "register_ack").await?
        }
        "heartbeat" => {
            introduce(&app, &agent, &message, false).await?;
            pending(&app, &agent, "heartbeat_ack").await?
        }
        "poll" => pending(&app, &agent, "poll_ack").await?,
        "session_output" => tell::output(&app, &agent, &message).await.map(|()| done)?,
        "session_status" => tell::status(&app, &agent, &message).await.map(|()| done)?,
        "usage_report" => tell::usage(&app, &agent, &message).await?,
        "permission_request" => tell::question(&app, &agent, &message).await.map(|()| quiet)?,
        "request_state" => tell::turn(&app, &agent, &message).await.map(|()| quiet)?,
        "command_response" => tell::response(&app, &agent, &message).await.map(|()| done)?,
        "browse_result" | "git_result" => tell::files(&app, &agent, &message).await.map(|()| done)?,
        // The new token has proved itself by being used.
        "token_rotation_ack" => quiet,
        // Terminals, editors and its own store of conversations are not offered here.
        "terminal_status" | "vscode_status" | "session_sync" => done,
        kind => {
            let kind: String = kind.chars().take(100).collect();
            return Err(ApiError::bad(
                "unknown_message_type",
                format!("Unknown message type: {kind}"),
            ));
        }
    };
    Ok(Json(answer).into_response())
}

/// Takes a sign of life at the older agent's own path; it tries new tokens out here. There are no commands in the answer.
#[utoipa::path(post, path = "/api/remote/heartbeat", tag = "agents", request_body = Object,
    responses((status = 200, body = Object), (status = 401, body = crate::error::ErrorBody)))]
pub(super) async fn heartbeat(
    State(app): State<App>,
    agent: Agent,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    about_its_machine(&app, &agent, body).await?;
    stay(&app, &agent).await?;
    Ok(Json(
        json!({ "success": true, "type": "heartbeat_ack", "pending_commands": [] }),
    ))
}

/// Tells the older agent which of its tokens is the current one, as a number that grows with each rotation.
#[utoipa::path(post, path = "/api/remote/token_info", tag = "agents", request_body = Object,
    responses((status = 200, body = Object), (status = 401, body = crate::error::ErrorBody)))]
pub(super) async fn token_info(
    State(app): State<App>,
    agent: Agent,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    about_its_machine(&app, &agent, body).await?;
    let version = token_version(&app, &agent).await?;
    Ok(Json(json!({ "success": true, "token_version": version })))
}

/// Takes the older agent's acknowledgement of a command.
#[utoipa::path(post, path = "/api/remote/command_response", tag = "agents", request_body = Object,
    responses((status = 200, body = Object), (status = 401, body = crate::error::ErrorBody)))]
pub(super) async fn command_response(
    State(app): State<App>,
    agent: Agent,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let message = about_its_machine(&app, &agent, body).await?;
    if message["command_type"] == "rotate_token" {
        tracing::warn!(machine = %agent.machine, "an agent did not take its new token; the old one stays good");
    } else {
        tell::response(&app, &agent, &message).await?;
    }
    Ok(Json(json!({ "success": true })))
}

/// Takes what the older agent counted. It is written down and never charged: the gateway meters.
#[utoipa::path(post, path = "/api/remote/usage-report", tag = "agents", request_body = Object,
    responses((status = 200, body = Object), (status = 401, body = crate::error::ErrorBody)))]
pub(super) async fn usage_report(
    State(app): State<App>,
    agent: Agent,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let message = about_its_machine(&app, &agent, body).await?;
    tell::usage(&app, &agent, &message).await.map(Json)
}

/// The machine that a message speaks of must be the one that its token is bound to.
async fn check_machine(app: &App, agent: &Agent, message: &Value) -> Result<(), ApiError> {
    let said = match &message["machine_id"] {
        Value::Null => return Err(ApiError::bad("machine_id_required", "machine_id is required")),
        said => said.as_str().and_then(|said| said.parse::<MachineId>().ok()),
    };
    match said {
        None => Err(ApiError::bad(
            "invalid_machine_id",
            "machine_id must be a valid UUID string",
        )),
        Some(said) if said == agent.machine => Ok(()),
        Some(said) => Err(other_machine(app, said).await?),
    }
}

async fn other_machine(app: &App, machine: MachineId) -> Result<ApiError, ApiError> {
    let row = sqlx::query("SELECT machine_id FROM remote_machines WHERE machine_id = $1")
        .bind(machine.to_string())
        .fetch_optional(&app.db().read)
        .await?;
    Ok(match row {
        Some(_) => ApiError::forbidden("wrong_machine", "the agent token is another machine's"),
        None => ApiError::new(StatusCode::NOT_FOUND, "unknown_machine", "Unknown machine_id"),
    })
}

/// It has no connection: all its requests together are taken for one.
fn connection(agent: &Agent) -> Connection {
    Connection {
        machine: agent.machine,
        id: agent.machine.0,
        transport: Transport::Poll,
    }
}

/// Keeps the machine online.
async fn stay(app: &App, agent: &Agent) -> Result<(), ApiError> {
    let row = sqlx::query("SELECT connection_id, seen_at FROM agent_connections WHERE machine_id = $1")
        .bind(agent.machine.to_string())
        .fetch_optional(&app.db().read)
        .await?;
    let connection = connection(agent);
    if let Some(row) = &row {
        let is_held = row.try_get::<String, _>(0)? == connection.id.to_string() && agent.dialect == "python";
        if is_held && app.now() - row.try_get::<i64, _>(1)? < RENEWAL_MS {
            return Ok(());
        }
        if is_held && connections::renew(app, connection).await? {
            return Ok(());
        }
    }
    claim(app, agent, None, false).await
}

/// Takes who it is. One that registers has just started, and what was handed to the process before it is due again.
async fn introduce(app: &App, agent: &Agent, message: &Value, is_new: bool) -> Result<(), ApiError> {
    let capabilities = message["capabilities"].as_object().filter(|object| !object.is_empty());
    let capabilities = capabilities.map(tell::capabilities);
    claim(app, agent, capabilities.as_ref(), is_new).await
}

async fn claim(app: &App, agent: &Agent, capabilities: Option<&Value>, is_new: bool) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    connections::lock(&mut record, agent.machine).await?;
    sqlx::query("UPDATE remote_machines SET dialect = 'python', ip_address = $1 WHERE machine_id = $2")
        .bind(agent.edge.client.to_string())
        .bind(agent.machine.to_string())
        .execute(record.sql())
        .await?;
    reports::alive(&mut record, agent, capabilities).await?;
    connections::claim(&mut record, agent, connection(agent)).await?;
    if is_new {
        queue::redeliver(&mut record, agent.machine).await?;
    }
    record.commit().await
}

/// Reads a message of the older agent's own paths.
async fn about_its_machine(app: &App, agent: &Agent, body: Result<Bytes, BytesRejection>) -> Result<Value, ApiError> {
    let message = parse(body)?;
    check_machine(app, agent, &message).await?;
    Ok(message)
}

/// An answer with commands, as many as go at once: it asks again soon. They are settled last: whatever fails before, they come again.
async fn pending(app: &App, agent: &Agent, kind: &'static str) -> Result<Value, ApiError> {
    let mut commands = Vec::new();
    if queue::is_anything_due(app, agent.machine).await? {
        let (handed, _more) = hand_over(app, agent, None, Dialect::Python).await?;
        for handed in &handed {
            commands.extend(items::item(app, agent, handed).await?);
        }
        settled(app, &handed).await?;
    }
    Ok(json!({ "success": true, "type": kind, "pending_commands": commands }))
}

async fn token_version(app: &App, agent: &Agent) -> Result<i64, ApiError> {
    let row = sqlx::query("SELECT token_version FROM remote_machines WHERE machine_id = $1")
        .bind(agent.machine.to_string())
        .fetch_one(&app.db().read)
        .await?;
    Ok(row.try_get(0)?)
}
