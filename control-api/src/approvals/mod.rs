//! Approvals: what a CLI asks to be allowed to do, and the answers.
//!
//! A question waits as long as people need. Only people, rules they gave, and the end of the session end the wait: a connection that is
//! lost answers nothing.

mod answer;
mod ask;
mod rules;

use ace_policies::SessionId;
use ace_policies::access::Action;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::{At, Params};
use crate::error::ApiError;
use crate::record::Record;
use crate::sessions::{Party, SessionRow};
use crate::visitor::Visitor;
use crate::when::When;

pub(crate) use ask::{asked, cancel_pending, cancelled};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(answer::answer))
        .routes(routes!(rules::list))
        .routes(routes!(rules::delete))
}

/// The most questions in one answer. A CLI asks them one by one.
const MAX_LISTED: i64 = 500;

/// A question of a CLI, and what became of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Approval {
    /// The agent's name for the question.
    request_id: String,
    run: i64,
    tool_name: String,
    /// What it is to be used for, as the CLI tells it.
    #[schema(value_type = Object)]
    input: Value,
    /// `pending`, `answered` or `cancelled`.
    state: String,
    /// `allow` or `deny`.
    behavior: Option<String>,
    /// `once`, `session` or `rule`.
    scope: Option<String>,
    /// What the CLI was told with the answer.
    message: Option<String>,
    /// The name of who answered.
    answered_by: Option<String>,
    /// Whether a rule answered, given before.
    by_rule: bool,
    created_at: When,
    answered_at: Option<When>,
    /// The session's `approvals_version` when this last changed.
    #[serde(skip)]
    pub version: i64,
}

/// Which questions are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Query {
    /// `pending`, `answered` or `cancelled`.
    state: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct List {
    success: bool,
    approvals: Vec<Approval>,
}

/// Lists what a session's CLI asked to be allowed to do, the newest first; at most 500.
#[utoipa::path(get, path = "/api/remote/sessions/{id}/approvals", tag = "approvals", params(("id" = String, Path), Query),
    responses((status = 200, body = List), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
async fn list(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
    Params(query): Params<Query>,
) -> Result<Json<List>, ApiError> {
    Party::of(&app, &visitor, Action::SessionsRead, id).await?;
    let state = query.state.as_deref().unwrap_or("");
    if !matches!(state, "" | "pending" | "answered" | "cancelled") {
        return Err(ApiError::field("state", "must be pending, answered or cancelled"));
    }
    let rows = sqlx::query(
        "SELECT session_approvals.*, users.username FROM session_approvals
         LEFT JOIN users ON users.id = session_approvals.answered_by
         WHERE session_id = $1 AND (state = $2 OR $2 = '') ORDER BY version DESC LIMIT $3",
    )
    .bind(id.to_string())
    .bind(state)
    .bind(MAX_LISTED)
    .fetch_all(&app.db().read)
    .await?;
    Ok(Json(List {
        success: true,
        approvals: read_all(&rows)?,
    }))
}

/// The questions of a session that wait, the oldest first.
pub(crate) async fn pending(app: &App, session: SessionId) -> Result<Vec<Approval>, ApiError> {
    let rows = sqlx::query(
        "SELECT session_approvals.*, NULL AS username FROM session_approvals
         WHERE session_id = $1 AND state = 'pending' ORDER BY created_at, version",
    )
    .bind(session.to_string())
    .fetch_all(&app.db().read)
    .await?;
    read_all(&rows)
}

/// The questions of a session that came or changed after a version of its approvals, in that order.
pub(crate) async fn changed_since(app: &App, session: SessionId, version: i64) -> Result<Vec<Approval>, ApiError> {
    let rows = sqlx::query(
        "SELECT session_approvals.*, users.username FROM session_approvals
         LEFT JOIN users ON users.id = session_approvals.answered_by
         WHERE session_id = $1 AND version > $2 ORDER BY version",
    )
    .bind(session.to_string())
    .bind(version)
    .fetch_all(&app.db().read)
    .await?;
    read_all(&rows)
}

fn read_all(rows: &[AnyRow]) -> Result<Vec<Approval>, ApiError> {
    rows.iter().map(Approval::read).collect()
}

impl Approval {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        Ok(Self {
            request_id: row.try_get("request_id")?,
            run: row.try_get("run")?,
            tool_name: row.try_get("tool_name")?,
            input: serde_json::from_str(&row.try_get::<String, _>("input")?).unwrap_or_default(),
            state: row.try_get("state")?,
            behavior: row.try_get("behavior")?,
            scope: row.try_get("scope")?,
            message: row.try_get("message")?,
            answered_by: row.try_get("username")?,
            by_rule: row.try_get::<Option<i64>, _>("rule_id")?.is_some(),
            created_at: When(row.try_get("created_at")?),
            answered_at: row.try_get::<Option<i64>, _>("answered_at")?.map(When),
            version: row.try_get("version")?,
        })
    }
}

/// Counts a session's approvals up, so that those who follow it see that something changed.
async fn next_version(record: &mut Record, row: &SessionRow) -> Result<i64, ApiError> {
    let version = sqlx::query_scalar(
        "UPDATE agent_sessions SET approvals_version = approvals_version + 1 WHERE session_id = $1 RETURNING approvals_version",
    );
    Ok(version.bind(row.id.to_string()).fetch_one(record.sql()).await?)
}

#[cfg(test)]
mod tests;
