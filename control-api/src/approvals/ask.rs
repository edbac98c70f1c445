//! What agents say of questions: that one is asked, and that nobody waits for its answer any more.

use ace_policies::wire::Behavior;
use serde_json::{Value, json};
use sqlx::Row;

use super::answer::{Answer, settle};
use super::{input, next_version, rules};
use crate::audit::{self, Entry, act};
use crate::error::ApiError;
use crate::record::Record;
use crate::sessions::{SessionRow, tell};

/// How long an agent's name for a question, or a tool's, may be, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// How many questions of a session may wait at once. CLIs ask one by one, or a few.
const MAX_WAITING: i64 = 100;

/// Takes a question of a session's CLI; the row must be locked. One that was asked before, or in another run, or of a session that has
/// ended, changes nothing. Where a rule answers it, it is answered at once. Errors: 400 where a name is unusable, or too many wait.
///
/// The audit log is locked when a rule answers: nothing that others hold may be locked after this.
pub(crate) async fn asked(
    record: &mut Record,
    row: &SessionRow,
    run: i64,
    request_id: &str,
    tool_name: &str,
    input: &Value,
) -> Result<(), ApiError> {
    if run != row.run || !row.status.is_live() {
        return Ok(());
    }
    for (field, name) in [("request_id", request_id), ("tool_name", tool_name)] {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
            return Err(ApiError::field(field, "must be a name"));
        }
    }
    if !insert(record, row, request_id, tool_name, input).await? {
        return Ok(());
    }
    match rules::find(record, row, tool_name).await? {
        Some((rule, behavior)) => by_rule(record, row, request_id, tool_name, rule, behavior).await,
        None => {
            refuse_too_many(record, row).await?;
            let data = json!({ "request_id": request_id, "tool_name": tool_name });
            tell(record, row, "approval.requested", &data);
            Ok(())
        }
    }
}

/// The one that was just taken counts too. Errors: 400, and what was written is to be undone.
async fn refuse_too_many(record: &mut Record, row: &SessionRow) -> Result<(), ApiError> {
    let waiting =
        sqlx::query_scalar("SELECT COUNT(*) FROM session_approvals WHERE session_id = $1 AND state = 'pending'");
    let waiting: i64 = waiting.bind(row.id.to_string()).fetch_one(record.sql()).await?;
    if waiting <= MAX_WAITING {
        return Ok(());
    }
    let message = format!("{MAX_WAITING} questions of this session wait for an answer already; more are not taken");
    Err(ApiError::bad("too_many_questions", message))
}

/// Whether it is new.
async fn insert(
    record: &mut Record,
    row: &SessionRow,
    request_id: &str,
    tool_name: &str,
    input: &Value,
) -> Result<bool, ApiError> {
    let version = next_version(record, row).await?;
    let input = input::kept(input);
    let inserted = sqlx::query(
        "INSERT INTO session_approvals (session_id, request_id, run, tool_name, input, created_at, version, input_truncated)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (session_id, request_id) DO NOTHING",
    )
    .bind(row.id.to_string())
    .bind(request_id)
    .bind(row.run)
    .bind(tool_name)
    .bind(&input.json)
    .bind(record.app().now())
    .bind(version)
    .bind(i64::from(input.truncated))
    .execute(record.sql())
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// The program's own act, by a rule that somebody gave: it is in the audit log as such.
async fn by_rule(
    record: &mut Record,
    row: &SessionRow,
    request_id: &str,
    tool_name: &str,
    rule: i64,
    behavior: Behavior,
) -> Result<(), ApiError> {
    let answer = Answer {
        request_id,
        tool_name,
        behavior,
        scope: None,
        message: None,
        by: None,
        rule: Some(rule),
    };
    settle(record, row, &answer).await?;
    let entry = Entry {
        tenant: Some(row.tenant),
        target: format!("session:{}", row.id),
        after: Some(
            json!({ "request_id": request_id, "tool_name": tool_name, "behavior": behavior, "rule": rule }).to_string(),
        ),
        ..Entry::system("approval rule", act::ANSWER_BY_RULE)
    };
    let app = record.app().clone();
    audit::append(record.sql(), &entry, app.audit_keys(), app.now()).await?;
    Ok(())
}

/// Takes back a question that nobody waits for any more: the turn was ended, or the CLI died. The row must be locked. One that was
/// answered stays answered.
pub(crate) async fn cancelled(record: &mut Record, row: &SessionRow, request_id: &str) -> Result<(), ApiError> {
    take_back(record, row, Some(request_id)).await
}

/// Takes back all questions of a session that wait: it has ended.
pub(crate) async fn cancel_pending(record: &mut Record, row: &SessionRow) -> Result<(), ApiError> {
    take_back(record, row, None).await
}

async fn take_back(record: &mut Record, row: &SessionRow, request_id: Option<&str>) -> Result<(), ApiError> {
    let version = next_version(record, row).await?;
    let cancelled = sqlx::query(
        "UPDATE session_approvals SET state = 'cancelled', answered_at = $1, version = $2
         WHERE session_id = $3 AND state = 'pending' AND (request_id = $4 OR $4 = '') RETURNING request_id, tool_name",
    )
    .bind(record.app().now())
    .bind(version)
    .bind(row.id.to_string())
    .bind(request_id.unwrap_or_default())
    .fetch_all(record.sql())
    .await?;
    for question in &cancelled {
        let (request_id, tool_name): (String, String) = (question.try_get(0)?, question.try_get(1)?);
        let data = json!({ "request_id": request_id, "tool_name": tool_name, "state": "cancelled" });
        tell(record, row, "approval.answered", &data);
    }
    Ok(())
}
