//! Looking at a machine's files and repositories: asked of its agent, which reads and never writes. Nothing of it is kept here.

use std::time::Duration;

use ace_policies::access::Action;
use ace_policies::wire::{Command, Failure, FailureCode};
use ace_policies::{Denied, MachineId, UserId};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Row;
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::App;
use crate::body::Params;
use crate::error::ApiError;
use crate::machine_path;
use crate::machines::{self, MachineAt, Presence};
use crate::queue::{self, NewCommand};
use crate::visitor::Visitor;
use crate::wakeups::{Listening, Wakeup};

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the question may wait for its agent. Longer than anybody waits for the answer.
const LIFE: Duration = Duration::from_secs(30);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(browse))
        .routes(routes!(file))
        .routes(routes!(git_status))
        .routes(routes!(git_diff))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Where {
    /// An absolute path on the machine.
    path: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Found {
    success: bool,
    /// What the agent found.
    #[schema(value_type = Object)]
    result: Value,
}

/// Lists a directory of a machine; left out, the one in which new sessions begin.
#[utoipa::path(get, path = "/api/remote/machines/{id}/browse", tag = "machines", params(("id" = String, Path), Where),
    responses((status = 200, body = Found), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody), (status = 409, body = crate::error::ErrorBody),
              (status = 504, body = crate::error::ErrorBody)))]
async fn browse(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(id): MachineAt,
    Params(place): Params<Where>,
) -> Result<Json<Found>, ApiError> {
    let machine = Machine::of(&app, &visitor, id).await?;
    let path = match place.path.filter(|path| !path.is_empty()) {
        Some(path) => machine_path::judge("path", &path).map(|()| path)?,
        None => machine.work_dir.clone().unwrap_or_default(),
    };
    machine.ask(&app, &visitor, Command::BrowseDirectory { path }).await
}

/// Reads a file of a machine, up to the size that its agent allows.
#[utoipa::path(get, path = "/api/remote/machines/{id}/file", tag = "machines", params(("id" = String, Path), Where),
    responses((status = 200, body = Found), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody), (status = 409, body = crate::error::ErrorBody),
              (status = 504, body = crate::error::ErrorBody)))]
async fn file(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(id): MachineAt,
    Params(place): Params<Where>,
) -> Result<Json<Found>, ApiError> {
    look(&app, &visitor, id, place, |path| Command::ReadFile { path }).await
}

/// Tells the state of the repository that a directory of a machine is in.
#[utoipa::path(get, path = "/api/remote/machines/{id}/git/status", tag = "machines", params(("id" = String, Path), Where),
    responses((status = 200, body = Found), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody), (status = 409, body = crate::error::ErrorBody),
              (status = 504, body = crate::error::ErrorBody)))]
async fn git_status(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(id): MachineAt,
    Params(place): Params<Where>,
) -> Result<Json<Found>, ApiError> {
    look(&app, &visitor, id, place, |path| Command::GitStatus { path }).await
}

/// Tells what has changed in the repository that a directory of a machine is in.
#[utoipa::path(get, path = "/api/remote/machines/{id}/git/diff", tag = "machines", params(("id" = String, Path), Where),
    responses((status = 200, body = Found), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody), (status = 409, body = crate::error::ErrorBody),
              (status = 504, body = crate::error::ErrorBody)))]
async fn git_diff(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(id): MachineAt,
    Params(place): Params<Where>,
) -> Result<Json<Found>, ApiError> {
    look(&app, &visitor, id, place, |path| Command::GitDiff { path }).await
}

/// Asks a machine's agent about a path.
async fn look(
    app: &App,
    visitor: &Visitor,
    id: MachineId,
    place: Where,
    command: impl FnOnce(String) -> Command,
) -> Result<Json<Found>, ApiError> {
    let machine = Machine::of(app, visitor, id).await?;
    let path = place.path.unwrap_or_default();
    if path.is_empty() {
        return Err(ApiError::field("path", "is needed: an absolute path on the machine"));
    }
    machine_path::judge("path", &path)?;
    machine.ask(app, visitor, command(path)).await
}

/// A machine that somebody may look at.
struct Machine {
    id: MachineId,
    work_dir: Option<String>,
    is_connected: bool,
}

impl Machine {
    /// Errors: 404 where there is no such machine, or none that they may know of.
    async fn of(app: &App, visitor: &Visitor, id: MachineId) -> Result<Self, ApiError> {
        let standing = machines::standing(app, visitor, id).await?;
        visitor.permit(app, Action::MachinesBrowse, &standing).await?;
        let mut connection = app.db().read.acquire().await?;
        let row = sqlx::query("SELECT work_dir FROM remote_machines WHERE machine_id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *connection)
            .await?;
        let row = row.ok_or(Denied::MachineNotFound)?;
        Ok(Self {
            id,
            work_dir: row.try_get("work_dir")?,
            is_connected: Presence::of(&mut connection, id, app.now()).await?.connected,
        })
    }

    /// Asks the agent, and waits for its answer.
    async fn ask(&self, app: &App, visitor: &Visitor, command: Command) -> Result<Json<Found>, ApiError> {
        if !self.is_connected {
            let message = "the machine is offline: its agent is not connected now";
            return Err(ApiError::conflict("machine_offline", message));
        }
        let (id, bell) = self.push(app, visitor.actor.user, &command).await?;
        let outcome = wait(app, id, bell).await;
        forget(app, id).await?;
        let result = outcome?;
        Ok(Json(Found { success: true, result }))
    }

    async fn push(&self, app: &App, by: UserId, command: &Command) -> Result<(Uuid, Listening), ApiError> {
        let mut record = app.record().await?;
        let new = NewCommand {
            machine: self.id,
            session: None,
            run: None,
            command,
            life: LIFE,
            idempotency_key: None,
            by: Some(by),
        };
        let id = queue::push(&mut record, new).await?;
        // Before it is saved: the answer cannot be faster.
        let bell = app.wakeups().listen(Wakeup::Command(id));
        record.commit().await?;
        Ok((id, bell))
    }
}

async fn wait(app: &App, id: Uuid, mut bell: Listening) -> Result<Value, ApiError> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = outcome(app, id).await? {
            return Ok(result);
        }
        if timeout_at(end, bell.next()).await.is_err() {
            return Err(late());
        }
    }
}

fn late() -> ApiError {
    let message = format!(
        "the machine's agent did not answer within {} seconds",
        PATIENCE.as_secs()
    );
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "agent_timeout", message)
}

/// What has become of the question. `None` as long as that is not known.
async fn outcome(app: &App, id: Uuid) -> Result<Option<Value>, ApiError> {
    let row = sqlx::query("SELECT state, result, error FROM agent_commands WHERE command_id = $1")
        .bind(id.to_string())
        .fetch_one(&app.db().read)
        .await?;
    let json = |text: Option<String>| text.unwrap_or_else(|| "null".to_owned());
    match row.try_get::<String, _>("state")?.as_str() {
        "done" => serde_json::from_str(&json(row.try_get("result")?))
            .map(Some)
            .map_err(ApiError::internal),
        "failed" => Err(refusal(
            serde_json::from_str(&json(row.try_get("error")?)).map_err(ApiError::internal)?,
        )),
        "expired" => Err(late()),
        _ => Ok(None),
    }
}

/// The agent's no, in the words of HTTP.
fn refusal(failure: Failure) -> ApiError {
    let message = failure.message;
    match failure.code {
        FailureCode::NotFound => ApiError::new(StatusCode::NOT_FOUND, "path_not_found", message),
        FailureCode::Forbidden => ApiError::forbidden("path_forbidden", message),
        FailureCode::TooMuch => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message),
        FailureCode::Invalid | FailureCode::Unsupported => ApiError::bad("invalid_path", message),
        FailureCode::Interrupted | FailureCode::Failed => {
            ApiError::new(StatusCode::BAD_GATEWAY, "agent_failed", message)
        }
    }
}

/// Whatever came of it, it is not wanted any more, and no content of files stays.
async fn forget(app: &App, id: Uuid) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    sqlx::query(
        "UPDATE agent_commands SET payload = '', result = NULL, leased_until = NULL, finished_at = COALESCE(finished_at, $1),
                state = CASE WHEN state IN ('queued', 'delivered', 'acked') THEN 'expired' ELSE state END
         WHERE command_id = $2",
    )
    .bind(app.now())
    .bind(id.to_string())
    .execute(record.sql())
    .await?;
    record.commit().await
}

#[cfg(test)]
mod tests;
