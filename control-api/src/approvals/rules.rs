//! Rules: answers that hold for more than one question, and how they are withdrawn.

use ace_policies::SessionId;
use ace_policies::access::Action;
use ace_policies::wire::Behavior;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::answer::Scope;
use crate::App;
use crate::body::At;
use crate::error::ApiError;
use crate::record::Record;
use crate::sessions::{Party, SessionRow};
use crate::visitor::Visitor;
use crate::when::When;

/// An answer that holds for later questions.
#[derive(Serialize, ToSchema)]
pub(super) struct Rule {
    id: i64,
    tool_name: String,
    /// `allow` or `deny`.
    behavior: String,
    /// `session`: for the rest of this session. `rule`: for all of the owner's sessions in this project on this machine.
    scope: &'static str,
    created_at: When,
}

#[derive(Serialize, ToSchema)]
pub(super) struct List {
    success: bool,
    rules: Vec<Rule>,
}

/// It is done.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    success: bool,
}

/// Lists the rules that hold in a session.
#[utoipa::path(get, path = "/api/remote/sessions/{id}/approval-rules", tag = "approvals", params(("id" = String, Path)),
    responses((status = 200, body = List), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn list(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
) -> Result<Json<List>, ApiError> {
    let party = Party::of(&app, &visitor, Action::SessionsRead, id).await?;
    let rows = holding(&party.row).fetch_all(&app.db().read).await?;
    let rules = rows.iter().map(Rule::read).collect::<Result<_, _>>()?;
    Ok(Json(List { success: true, rules }))
}

/// Withdraws a rule that holds in a session. Questions from now on wait for people again.
#[utoipa::path(delete, path = "/api/remote/sessions/{id}/approval-rules/{rule}", tag = "approvals",
    params(("id" = String, Path), ("rule" = i64, Path)),
    responses((status = 200, body = Done), (status = 403, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn delete(
    State(app): State<App>,
    visitor: Visitor,
    At((id, rule)): At<(SessionId, i64)>,
) -> Result<Json<Done>, ApiError> {
    let party = Party::of(&app, &visitor, Action::SessionsAnswerApproval, id).await?;
    let mut write = app.write(&party.permit, &visitor.edge).await?;
    let row = party.lock(write.record()).await?;
    let rules = holding(&row).fetch_all(write.sql()).await?;
    let rules = rules.iter().map(Rule::read).collect::<Result<Vec<_>, _>>()?;
    let found = rules.into_iter().find(|found| found.id == rule);
    let found = found.ok_or_else(|| ApiError::not_found("rule in this session"))?;
    if found.scope == Scope::Rule.as_str() && row.user != visitor.actor.user {
        let message = "only the owner of the session can withdraw a rule that reaches beyond it";
        return Err(ApiError::forbidden("owner_only", message));
    }
    sqlx::query("DELETE FROM approval_rules WHERE id = $1")
        .bind(rule)
        .execute(write.sql())
        .await?;
    write
        .target(format_args!("session:{id}"))
        .before(&found)?
        .after(&json!({ "withdrawn": rule }))?;
    write.commit().await?;
    Ok(Json(Done { success: true }))
}

impl Rule {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let scope = match row.try_get::<String, _>("session_id")?.is_empty() {
            true => Scope::Rule,
            false => Scope::Session,
        };
        Ok(Self {
            id: row.try_get("id")?,
            tool_name: row.try_get("tool_name")?,
            behavior: row.try_get("behavior")?,
            scope: scope.as_str(),
            created_at: When(row.try_get("created_at")?),
        })
    }
}

type Query = sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments>;

/// The rules that hold in a session, those of the session itself first.
fn holding(row: &SessionRow) -> Query {
    sqlx::query(
        "SELECT * FROM approval_rules WHERE user_id = $1 AND machine_id = $2 AND project_path = $3 AND session_id IN ('', $4)
         ORDER BY session_id DESC, id",
    )
    .bind(row.user.0)
    .bind(row.machine.map(|machine| machine.to_string()).unwrap_or_default())
    .bind(row.project_path.clone())
    .bind(row.id.to_string())
}

/// The rule that answers a question about a tool, where there is one: the session's own, else the project's.
pub(super) async fn find(
    record: &mut Record,
    row: &SessionRow,
    tool_name: &str,
) -> Result<Option<(i64, Behavior)>, ApiError> {
    let rules = holding(row).fetch_all(record.sql()).await?;
    let rules = rules.iter().map(Rule::read).collect::<Result<Vec<_>, _>>()?;
    let Some(rule) = rules.into_iter().find(|rule| rule.tool_name == tool_name) else {
        return Ok(None);
    };
    Ok(Some((rule.id, rule.behavior.parse().map_err(ApiError::internal)?)))
}

/// Keeps an answer for later questions, where that was wished for. A later rule for the same replaces an earlier one.
pub(super) async fn keep(
    record: &mut Record,
    row: &SessionRow,
    tool_name: &str,
    scope: Scope,
    behavior: Behavior,
) -> Result<(), ApiError> {
    let session = match scope {
        Scope::Once => return Ok(()),
        Scope::Session => row.id.to_string(),
        Scope::Rule => String::new(),
    };
    sqlx::query(
        "INSERT INTO approval_rules (user_id, machine_id, project_path, session_id, tool_name, behavior, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (user_id, machine_id, project_path, session_id, tool_name)
         DO UPDATE SET behavior = excluded.behavior, created_at = excluded.created_at",
    )
    .bind(row.user.0)
    .bind(row.machine()?.to_string())
    .bind(&row.project_path)
    .bind(session)
    .bind(tool_name)
    .bind(behavior.as_str())
    .bind(record.app().now())
    .execute(record.sql())
    .await?;
    Ok(())
}
