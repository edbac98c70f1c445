//! PATCH and DELETE /api/remote/sessions/{id}.

use ace_policies::SessionId;
use ace_policies::access::Action;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::access::Party;
use super::create::title;
use super::store::SessionRow;
use super::view::{One, Session};
use crate::App;
use crate::body::{At, Body, settable};
use crate::error::ApiError;
use crate::record::Record;
use crate::visitor::Visitor;
use crate::wakeups::Wakeup;
use crate::{output, queue};

/// What to change; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Changes {
    /// `null` removes it.
    #[serde(default, deserialize_with = "settable")]
    #[schema(value_type = Option<String>)]
    title: Option<Option<String>>,
    /// Whether it is put aside. Only a session that has ended can be.
    archived: Option<bool>,
}

/// It is done.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    success: bool,
}

/// Renames a session, or puts it aside.
#[utoipa::path(patch, path = "/api/remote/sessions/{id}", tag = "sessions", request_body = Changes,
    params(("id" = String, Path)),
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody), (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn update(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
    Body(changes): Body<Changes>,
) -> Result<Json<One>, ApiError> {
    let new_title = match changes.title {
        Some(text) => Some(title(
            text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
        )?),
        None => None,
    };
    let party = Party::of(&app, &visitor, Action::SessionsUpdate, id).await?;
    let mut write = app.write(&party.permit, &visitor.edge).await?;
    let row = party.lock(write.record()).await?;
    let archived = changes.archived.unwrap_or(row.archived);
    if archived {
        refuse_live(&row)?;
    }
    let before = json!({ "title": row.title, "archived": row.archived });
    let after = json!({ "title": new_title.as_ref().unwrap_or(&row.title), "archived": archived });
    let row = store(write.record(), &row, new_title, archived).await?;
    write
        .target(format_args!("session:{id}"))
        .before(&before)?
        .after(&after)?;
    write.commit().await?;
    Ok(One::new(Session::with_totals(&app, row, party.owner, None).await?))
}

/// Deletes a session that has ended, with its output and messages. What it has used stays in the request log.
#[utoipa::path(delete, path = "/api/remote/sessions/{id}", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Done), (status = 404, body = crate::error::ErrorBody),
              (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn delete(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
) -> Result<Json<Done>, ApiError> {
    let party = Party::of(&app, &visitor, Action::SessionsDelete, id).await?;
    let mut write = app.write(&party.permit, &visitor.edge).await?;
    let row = party.lock(write.record()).await?;
    refuse_live(&row)?;
    remove(write.record(), &row).await?;
    write
        .target(format_args!("session:{id}"))
        .before(&json!({ "title": row.title, "status": row.status, "project_path": row.project_path }))?;
    write.commit().await?;
    output::clear_soon(&app);
    Ok(Json(Done { success: true }))
}

/// Errors: 409 `session_active`.
pub(super) fn refuse_live(row: &SessionRow) -> Result<(), ApiError> {
    if !row.status.is_live() {
        return Ok(());
    }
    let message = format!("the session is {}; stop it first", row.status);
    Err(ApiError::conflict("session_active", message).session_status(row.status))
}

pub(super) async fn store(
    record: &mut Record,
    row: &SessionRow,
    title: Option<Option<String>>,
    archived: bool,
) -> Result<SessionRow, ApiError> {
    let changed = sqlx::query(
        "UPDATE agent_sessions SET title = $1, archived = $2, updated_at = $3 WHERE session_id = $4 RETURNING *",
    )
    .bind(title.unwrap_or_else(|| row.title.clone()))
    .bind(i64::from(archived))
    .bind(record.app().now())
    .bind(row.id.to_string())
    .fetch_one(record.sql())
    .await?;
    record.ring(Wakeup::Session(row.id));
    SessionRow::read(&changed)
}

/// Takes a locked session off the list. Its output may be much: that is cleared afterwards, in small steps, and with it what its machine
/// has not done yet, but for the end of its CLI.
pub(super) async fn remove(record: &mut Record, row: &SessionRow) -> Result<(), ApiError> {
    const STATEMENTS: [&str; 4] = [
        "INSERT INTO session_leftovers (session_id, up_to_seq, up_to_message)
         VALUES ($1, 9223372036854775807, 9223372036854775807)
         ON CONFLICT (session_id) DO UPDATE SET up_to_seq = excluded.up_to_seq, up_to_message = excluded.up_to_message",
        "DELETE FROM session_approvals WHERE session_id = $1",
        "DELETE FROM approval_rules WHERE session_id = $1",
        "DELETE FROM agent_sessions WHERE session_id = $1",
    ];
    queue::forget_finished(record, row.id).await?;
    for statement in STATEMENTS {
        sqlx::query(statement)
            .bind(row.id.to_string())
            .execute(record.sql())
            .await?;
    }
    record.ring(Wakeup::Session(row.id));
    Ok(())
}
