//! POST /api/remote/sessions/{id}/permission.

use std::time::Duration;

use ace_policies::access::Action;
use ace_policies::wire::{Behavior, Command};
use ace_policies::{SessionId, UserId};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::Row;
use utoipa::ToSchema;

use super::{next_version, rules};
use crate::App;
use crate::body::{At, Body};
use crate::error::ApiError;
use crate::record::Record;
use crate::sessions::{self, Party, SessionRow, tell};
use crate::visitor::Visitor;
use crate::when::When;

/// How long an answer may wait for its machine.
const LIFE: Duration = Duration::from_secs(24 * 3600);

const MAX_MESSAGE_CHARS: usize = 4_000;

/// An answer to a question of the CLI.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Given {
    /// Which question.
    request_id: String,
    /// `allow` or `deny`.
    #[schema(value_type = String)]
    behavior: Behavior,
    #[serde(default)]
    scope: Scope,
    /// What the CLI is told with a no.
    message: Option<String>,
}

/// How far an answer reaches.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    /// This question alone.
    #[default]
    Once,
    /// The same tool for the rest of the session.
    Session,
    /// The same tool in all of the owner's sessions in this project on this machine.
    Rule,
}

impl Scope {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Session => "session",
            Self::Rule => "rule",
        }
    }
}

/// It is answered.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    success: bool,
}

/// Answers what a CLI asks to be allowed to do. The first answer counts; of a later one the error says who gave the first.
#[utoipa::path(post, path = "/api/remote/sessions/{id}/permission", tag = "approvals", request_body = Given,
    params(("id" = String, Path)),
    responses((status = 200, body = Done), (status = 400, body = crate::error::ErrorBody),
              (status = 403, body = crate::error::ErrorBody), (status = 404, body = crate::error::ErrorBody),
              (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn answer(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
    Body(given): Body<Given>,
) -> Result<Json<Done>, ApiError> {
    if given
        .message
        .as_ref()
        .is_some_and(|text| text.chars().count() > MAX_MESSAGE_CHARS)
    {
        let problem = format_args!("must have at most {MAX_MESSAGE_CHARS} characters").to_string();
        return Err(ApiError::field("message", problem));
    }
    let party = Party::of(&app, &visitor, Action::SessionsAnswerApproval, id).await?;
    refuse_others_rule(&party, &visitor, given.scope)?;
    let mut write = app.write(&party.permit, &visitor.edge).await?;
    let row = party.lock(write.record()).await?;
    let tool_name = waiting(write.record(), &row, &given.request_id).await?;
    let answer = Answer {
        request_id: &given.request_id,
        tool_name: &tool_name,
        behavior: given.behavior,
        scope: Some(given.scope),
        message: given.message.as_deref(),
        by: Some((visitor.actor.user, &visitor.actor.username)),
        rule: None,
    };
    settle(write.record(), &row, &answer).await?;
    rules::keep(write.record(), &row, &tool_name, given.scope, given.behavior).await?;
    write.target(format_args!("session:{id}")).after(&json!({
        "request_id": given.request_id, "tool_name": tool_name, "behavior": given.behavior, "scope": given.scope
    }))?;
    write.commit().await?;
    Ok(Json(Done { success: true }))
}

/// A rule reaches beyond the session, to others of its owner: only the owner gives one.
fn refuse_others_rule(party: &Party, visitor: &Visitor, scope: Scope) -> Result<(), ApiError> {
    if scope != Scope::Rule || party.row.user == visitor.actor.user {
        return Ok(());
    }
    let message = "only the owner of the session can give a rule; answer for once or for the session";
    Err(ApiError::forbidden("owner_only", message))
}

/// The tool that a question is about, where it waits for an answer. Errors: 404 where there is none, 409 where it does not wait.
async fn waiting(record: &mut Record, row: &SessionRow, request_id: &str) -> Result<String, ApiError> {
    let found = sqlx::query(
        "SELECT session_approvals.*, users.username FROM session_approvals
         LEFT JOIN users ON users.id = session_approvals.answered_by WHERE session_id = $1 AND request_id = $2",
    )
    .bind(row.id.to_string())
    .bind(request_id)
    .fetch_optional(record.sql())
    .await?;
    let found = found.ok_or_else(|| ApiError::not_found("question in this session"))?;
    match found.try_get::<String, _>("state")?.as_str() {
        "pending" => Ok(found.try_get("tool_name")?),
        "answered" => Err(answered(&found)?.session_status(row.status)),
        _ => {
            let message = "nobody waits for this answer any more: the turn or the session was ended";
            Err(ApiError::conflict("approval_cancelled", message).session_status(row.status))
        }
    }
}

fn answered(found: &sqlx::any::AnyRow) -> Result<ApiError, sqlx::Error> {
    let who: Option<String> = found.try_get("username")?;
    let who = who.unwrap_or_else(|| "a rule".to_owned());
    let behavior: Option<String> = found.try_get("behavior")?;
    let at = When(found.try_get::<Option<i64>, _>("answered_at")?.unwrap_or_default());
    let message = format!("{who} answered already, with {}, at {at}", behavior.unwrap_or_default());
    Ok(ApiError::conflict("already_answered", message))
}

/// An answer, of somebody or by a rule.
pub(super) struct Answer<'a> {
    pub request_id: &'a str,
    pub tool_name: &'a str,
    pub behavior: Behavior,
    pub scope: Option<Scope>,
    pub message: Option<&'a str>,
    pub by: Option<(UserId, &'a str)>,
    pub rule: Option<i64>,
}

/// Settles a question that waits: keeps the answer, sends it to the agent, tells everybody.
pub(super) async fn settle(record: &mut Record, row: &SessionRow, answer: &Answer<'_>) -> Result<(), ApiError> {
    let version = next_version(record, row).await?;
    let by = answer.by.map(|(user, _)| user);
    sqlx::query(
        "UPDATE session_approvals SET state = 'answered', behavior = $1, scope = $2, message = $3, answered_by = $4, rule_id = $5,
                answered_at = $6, version = $7 WHERE session_id = $8 AND request_id = $9",
    )
    .bind(answer.behavior.as_str())
    .bind(answer.scope.map(Scope::as_str))
    .bind(answer.message)
    .bind(by.map(|user| user.0))
    .bind(answer.rule)
    .bind(record.app().now())
    .bind(version)
    .bind(row.id.to_string())
    .bind(answer.request_id)
    .execute(record.sql())
    .await?;
    let command = Command::PermissionResponse {
        session_id: row.id,
        request_id: answer.request_id.to_owned(),
        behavior: answer.behavior,
        tool_name: answer.tool_name.to_owned(),
        message: answer.message.map(str::to_owned),
    };
    sessions::push(record, row, &command, LIFE, None, by).await?;
    let data = json!({
        "request_id": answer.request_id, "tool_name": answer.tool_name, "state": "answered", "behavior": answer.behavior,
        "by": answer.by.map(|(_, name)| name), "by_rule": answer.rule.is_some()
    });
    tell(record, row, "approval.answered", &data);
    Ok(())
}
