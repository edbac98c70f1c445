//! POST /api/remote/sessions/{id}/chat.

use ace_policies::access::Action;
use ace_policies::session::{Tell, Wish, next};
use ace_policies::wire::{Attachment, Command, MAX_MESSAGE_BYTES};
use ace_policies::{SessionId, UserId};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::access::Party;
use super::create::idempotency_key;
use super::host::Host;
use super::start::{self, LIFE};
use super::steer::{host_of, not_now};
use super::store::SessionRow;
use crate::App;
use crate::body::{At, Body};
use crate::error::ApiError;
use crate::queue;
use crate::record::Record;
use crate::visitor::Visitor;
use crate::wakeups::Wakeup;

const MAX_ATTACHMENTS: usize = 16;
const MAX_NAME_BYTES: usize = 255;

/// What a command may take of a message to an agent; the rest is for what goes around it.
const MAX_COMMAND_BYTES: usize = MAX_MESSAGE_BYTES - (16 << 10);

/// A message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    /// What is said to the CLI.
    #[serde(default)]
    content: String,
    /// Files that go with it.
    #[serde(default)]
    attachments: Vec<File>,
}

/// A file that goes with a message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Its name, without a path.
    name: String,
    /// Such as `image/png`.
    media_type: String,
    data_base64: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Queued {
    success: bool,
    /// Names the message on its way; the same again for the same `Idempotency-Key`.
    #[schema(value_type = String)]
    command_id: Uuid,
}

/// Sends a message to a session's CLI. One that broke or was done is started again first, with its conversation.
#[utoipa::path(post, path = "/api/remote/sessions/{id}/chat", tag = "sessions", request_body = Message,
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Queued), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody), (status = 409, body = crate::error::ErrorBody),
              (status = 413, body = crate::error::ErrorBody)))]
pub(super) async fn chat(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
    headers: HeaderMap,
    Body(message): Body<Message>,
) -> Result<Json<Queued>, ApiError> {
    let key = idempotency_key(&headers)?;
    let party = Party::of(&app, &visitor, Action::SessionsChat, id).await?;
    let command = command(id, &message)?;
    let mut write = app.write(&party.permit, &visitor.edge).await?;
    let host = host_of(write.record(), &party.row).await?;
    let row = party.lock(write.record()).await?;
    if let Some(key) = key.as_deref()
        && let Some(first) = queue::pushed_before(write.record(), id, key).await?
    {
        return Ok(queued(first));
    }
    party.refuse_unassigned(write.record()).await?;
    if !message.attachments.is_empty() {
        host.refuse_feature(&row.cli_tool, "attachments", "attachments")?;
    }
    let by = visitor.actor.user;
    let row = awake(write.record(), &host, row, by).await?;
    let command_id = start::push(write.record(), &row, &command, LIFE, key.as_deref(), Some(by)).await?;
    note(write.record(), &row, &message, by, command_id).await?;
    // What was said is in the session; the audit log says that it was.
    write.target(format_args!("session:{id}")).after(&serde_json::json!({
        "command_id": command_id, "bytes": message.content.len(), "attachments": message.attachments.len()
    }))?;
    write.commit().await?;
    Ok(queued(command_id))
}

fn queued(command_id: Uuid) -> Json<Queued> {
    Json(Queued {
        success: true,
        command_id,
    })
}

/// The session as it takes messages. Errors: 409 where it does not.
async fn awake(record: &mut Record, host: &Host, row: SessionRow, by: UserId) -> Result<SessionRow, ApiError> {
    match next(row.status, Wish::Chat).map_err(not_now)?.tell {
        Tell::Start => start::start_on(record, host, &row, by).await,
        Tell::Nothing | Tell::Wish => Ok(row),
    }
}

fn command(session_id: SessionId, message: &Message) -> Result<Command, ApiError> {
    if message.content.trim().is_empty() && message.attachments.is_empty() {
        return Err(ApiError::bad("empty_message", "content: say something"));
    }
    if message.attachments.len() > MAX_ATTACHMENTS {
        let problem = format_args!("at most {MAX_ATTACHMENTS} files go with a message").to_string();
        return Err(ApiError::field("attachments", problem));
    }
    let attachments = message.attachments.iter().map(attachment).collect::<Result<_, _>>()?;
    let command = Command::SendMessage {
        session_id,
        content: message.content.clone(),
        attachments,
    };
    let bytes = serde_json::to_vec(&command).map_err(ApiError::internal)?.len();
    if bytes > MAX_COMMAND_BYTES {
        let message =
            format!("the message takes {bytes} bytes with its attachments; at most {MAX_COMMAND_BYTES} travel");
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "message_too_large",
            message,
        ));
    }
    Ok(command)
}

fn attachment(file: &File) -> Result<Attachment, ApiError> {
    let bad_name = file.name.is_empty()
        || file.name.len() > MAX_NAME_BYTES
        || matches!(file.name.as_str(), "." | "..")
        || file
            .name
            .chars()
            .any(|c| c.is_control() || matches!(c, '/' | '\\' | ':'));
    if bad_name {
        return Err(ApiError::field(
            "attachments.name",
            "must be a file name without a path",
        ));
    }
    let is_type = file.media_type.len() <= 127
        && file
            .media_type
            .split_once('/')
            .is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty())
        && file.media_type.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_type {
        return Err(ApiError::field("attachments.media_type", "must be such as image/png"));
    }
    if STANDARD.decode(&file.data_base64).is_err() {
        return Err(ApiError::field(
            "attachments.data_base64",
            "must be base64 with padding",
        ));
    }
    Ok(Attachment {
        name: file.name.clone(),
        media_type: file.media_type.clone(),
        data_base64: file.data_base64.clone(),
    })
}

/// Puts what was said into the session. The problem of an earlier command is over with it.
async fn note(
    record: &mut Record,
    row: &SessionRow,
    message: &Message,
    by: UserId,
    command_id: Uuid,
) -> Result<(), ApiError> {
    let now = record.app().now();
    sqlx::query(
        "INSERT INTO session_messages (session_id, role, content, user_id, command_id, after_seq, at)
         VALUES ($1, 'user', $2, $3, $4, $5, $6)",
    )
    .bind(row.id.to_string())
    .bind(shown(message))
    .bind(by.0)
    .bind(command_id.to_string())
    .bind(row.last_seq)
    .bind(now)
    .execute(record.sql())
    .await?;
    sqlx::query(
        "UPDATE agent_sessions SET message_count = message_count + 1, problem = NULL, updated_at = $1 WHERE session_id = $2",
    )
    .bind(now)
    .bind(row.id.to_string())
    .execute(record.sql())
    .await?;
    record.ring(Wakeup::Session(row.id));
    Ok(())
}

/// The message as it is read later: its text, and the names of the files that went with it.
fn shown(message: &Message) -> String {
    let files = message.attachments.iter().map(|file| format!("[{}]", file.name));
    let text = std::iter::once(message.content.clone()).filter(|content| !content.is_empty());
    text.chain(files).collect::<Vec<_>>().join("\n")
}
