//! PUT /api/remote/sessions/{id}/model and …/permission-mode.

use ace_policies::SessionId;
use ace_policies::access::Action;
use ace_policies::session::{Wish, next};
use ace_policies::wire::Command;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::access::Party;
use super::create::name;
use super::host::{self, Host};
use super::start::{self, LIFE};
use super::steer::{host_of, not_now};
use super::store::SessionRow;
use super::view::{One, Session};
use crate::App;
use crate::body::{At, Body};
use crate::error::ApiError;
use crate::record::Record;
use crate::visitor::Visitor;
use crate::wakeups::Wakeup;
use crate::write::Write;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewModel {
    /// Its name at the provider.
    model: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMode {
    /// The CLI's own name for it.
    permission_mode: String,
}

/// Changes the model of a session, from the next turn on.
#[utoipa::path(put, path = "/api/remote/sessions/{id}/model", tag = "sessions", request_body = NewModel,
    params(("id" = String, Path)),
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody), (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn set_model(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
    Body(new): Body<NewModel>,
) -> Result<Json<One>, ApiError> {
    let model = wanted("model", new.model)?;
    let party = Party::of(&app, &visitor, Action::SessionsSetModel, id).await?;
    let (mut write, host, row) = begin(&app, &visitor, &party).await?;
    host.refuse_feature(&row.cli_tool, "model", "a model")?;
    host::refuse_model(&app, write.sql(), row.user, &row.cli_tool, &model).await?;
    let before = json!({ "model": row.model });
    let command = Command::UpdateModel {
        session_id: id,
        model: model.clone(),
    };
    start::push(write.record(), &row, &command, LIFE, None, Some(visitor.actor.user)).await?;
    let row = store(write.record(), &row, Some(&model), row.permission_mode.as_deref()).await?;
    write.before(&before)?.after(&json!({ "model": model }))?;
    finish(&app, write, row, party.owner).await
}

/// Changes what a session's CLI may do without asking.
#[utoipa::path(put, path = "/api/remote/sessions/{id}/permission-mode", tag = "sessions", request_body = NewMode,
    params(("id" = String, Path)),
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody), (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn set_permission_mode(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
    Body(new): Body<NewMode>,
) -> Result<Json<One>, ApiError> {
    let permission_mode = wanted("permission_mode", new.permission_mode)?;
    let party = Party::of(&app, &visitor, Action::SessionsSetPermissionMode, id).await?;
    let (mut write, host, row) = begin(&app, &visitor, &party).await?;
    host.refuse_feature(&row.cli_tool, "permission_mode", "a permission mode")?;
    let before = json!({ "permission_mode": row.permission_mode });
    let command = Command::UpdatePermissionMode {
        session_id: id,
        permission_mode: permission_mode.clone(),
    };
    start::push(write.record(), &row, &command, LIFE, None, Some(visitor.actor.user)).await?;
    let row = store(write.record(), &row, row.model.as_deref(), Some(&permission_mode)).await?;
    write
        .before(&before)?
        .after(&json!({ "permission_mode": permission_mode }))?;
    finish(&app, write, row, party.owner).await
}

fn wanted(field: &str, text: String) -> Result<String, ApiError> {
    let text = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    name(field, text)?.ok_or_else(|| ApiError::field(field, "must not be empty"))
}

/// The machine and the session, locked, where the session can be changed now.
async fn begin(app: &App, visitor: &Visitor, party: &Party) -> Result<(Write, Host, SessionRow), ApiError> {
    let mut write = app.write(&party.permit, &visitor.edge).await?;
    let host = host_of(write.record(), &party.row).await?;
    let row = party.lock(write.record()).await?;
    party.refuse_unassigned(write.record()).await?;
    next(row.status, Wish::Configure).map_err(not_now)?;
    write.target(format_args!("session:{}", row.id));
    Ok((write, host, row))
}

async fn store(
    record: &mut Record,
    row: &SessionRow,
    model: Option<&str>,
    permission_mode: Option<&str>,
) -> Result<SessionRow, ApiError> {
    let changed = sqlx::query(
        "UPDATE agent_sessions SET model = $1, permission_mode = $2, updated_at = $3 WHERE session_id = $4 RETURNING *",
    )
    .bind(model)
    .bind(permission_mode)
    .bind(record.app().now())
    .bind(row.id.to_string())
    .fetch_one(record.sql())
    .await?;
    record.ring(Wakeup::Session(row.id));
    SessionRow::read(&changed)
}

async fn finish(app: &App, write: Write, row: SessionRow, owner: String) -> Result<Json<One>, ApiError> {
    write.commit().await?;
    Ok(One::new(Session::with_totals(app, row, owner, None).await?))
}
