//! Approvals: what a CLI asks to be allowed to do, and the answers.
//!
//! A question waits as long as people need. Only people, rules they gave, and the end of the session end the wait: a connection that is
//! lost answers nothing.

mod answer;
mod ask;
mod input;
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
use crate::output;
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

/// The most that they are about, in bytes, and what is sent at once to those who follow. Those that changed together go together.
const MAX_LISTED_BYTES: i64 = 2_000_000;
const STEP_BYTES: i64 = 256 << 10;

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
    /// Whether `input` was too long and is cut: then not all of it is here.
    input_truncated: bool,
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
    /// Only those that changed before: the `next` of the page before.
    before: Option<i64>,
}

#[derive(Serialize, ToSchema)]
struct List {
    success: bool,
    approvals: Vec<Approval>,
    /// Give it as `before` for what changed before; absent when this is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// Lists what a session's CLI asked to be allowed to do, what changed last first; about 500 and 2 MB of `input` at once.
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
    let before = query.before.unwrap_or(i64::MAX);
    let lengths = "SELECT version, OCTET_LENGTH(input) FROM session_approvals
                   WHERE session_id = $1 AND version < $2 AND (state = $3 OR $3 = '') ORDER BY version DESC LIMIT $4";
    let Some((edge, more)) = edge(&app, lengths, id, before, state, MAX_LISTED_BYTES).await? else {
        return Ok(list_of(Vec::new(), None));
    };
    let mut approvals = between(&app, id, edge, before.saturating_sub(1), state).await?;
    approvals.reverse();
    Ok(list_of(approvals, more.then_some(edge)))
}

fn list_of(approvals: Vec<Approval>, next: Option<i64>) -> Json<List> {
    Json(List {
        success: true,
        approvals,
        next,
    })
}

/// The questions of a session that came or changed after a version of its approvals, in that order: all that changed, or those that wait.
/// No more than a step, and whether there are more.
pub(crate) async fn after(
    app: &App,
    session: SessionId,
    version: i64,
    only_waiting: bool,
) -> Result<(Vec<Approval>, bool), ApiError> {
    let state = if only_waiting { "pending" } else { "" };
    let lengths = "SELECT version, OCTET_LENGTH(input) FROM session_approvals
                   WHERE session_id = $1 AND version > $2 AND (state = $3 OR $3 = '') ORDER BY version LIMIT $4";
    let Some((edge, more)) = edge(app, lengths, session, version, state, STEP_BYTES).await? else {
        return Ok((Vec::new(), false));
    };
    Ok((
        between(app, session, version.saturating_add(1), edge, state).await?,
        more,
    ))
}

/// The version of the last question that fits, and whether there are more. Lengths are read first: those that do not fit are not fetched.
/// Those that were taken back together have one version: they are not parted.
async fn edge(
    app: &App,
    lengths: &'static str,
    session: SessionId,
    version: i64,
    state: &str,
    most: i64,
) -> Result<Option<(i64, bool)>, ApiError> {
    let rows = sqlx::query(lengths)
        .bind(session.to_string())
        .bind(version)
        .bind(state.to_owned())
        .bind(MAX_LISTED)
        .fetch_all(&app.db().read)
        .await?;
    let (mut edge, mut bytes) = (None, 0);
    for row in &rows {
        bytes += output::integer(row, 1)?;
        let version: i64 = row.try_get(0)?;
        if bytes > most && edge.is_some_and(|edge| edge != version) {
            return Ok(edge.map(|edge| (edge, true)));
        }
        edge = Some(version);
    }
    let more = i64::try_from(rows.len()).is_ok_and(|rows| rows >= MAX_LISTED);
    Ok(edge.map(|edge| (edge, more)))
}

async fn between(app: &App, session: SessionId, first: i64, last: i64, state: &str) -> Result<Vec<Approval>, ApiError> {
    let rows = sqlx::query(
        "SELECT session_approvals.*, users.username FROM session_approvals
         LEFT JOIN users ON users.id = session_approvals.answered_by
         WHERE session_id = $1 AND version BETWEEN $2 AND $3 AND (state = $4 OR $4 = '') ORDER BY version, created_at",
    )
    .bind(session.to_string())
    .bind(first)
    .bind(last)
    .bind(state.to_owned())
    .fetch_all(&app.db().read)
    .await?;
    rows.iter().map(Approval::read).collect()
}

impl Approval {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        Ok(Self {
            request_id: row.try_get("request_id")?,
            run: row.try_get("run")?,
            tool_name: row.try_get("tool_name")?,
            input: serde_json::from_str(&row.try_get::<String, _>("input")?).unwrap_or_default(),
            input_truncated: row.try_get::<i64, _>("input_truncated")? != 0,
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
