//! POST /api/remote/sessions.

use ace_policies::access::Action;
use ace_policies::session::State as SessionState;
use ace_policies::{MachineId, SessionId, UserId};
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::refuse_unassigned;
use super::host::{self, Host};
use super::store::SessionRow;
use super::view::{One, Session};
use super::{start, store};
use crate::body::Body;
use crate::error::{ApiError, OnConstraint};
use crate::visitor::Visitor;
use crate::write::Write;
use crate::{App, chance, machine_path, machines};

/// The CLI of a session that names none.
const DEFAULT_TOOL: &str = "qwen-code-cli";

const MAX_NAME_BYTES: usize = 200;

/// The session that is asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// Where: the id of a machine that the caller is assigned to.
    machine_id: Option<String>,
    /// The directory there that the CLI works in: an absolute path.
    project_path: Option<String>,
    /// Which CLI; `qwen-code-cli` when left out.
    cli_tool: Option<String>,
    /// Which model; left out, the CLI's own choice.
    model: Option<String>,
    title: Option<String>,
    /// What the CLI may do without asking, in its own words.
    permission_mode: Option<String>,
}

/// A wish whose fields are what they should be.
#[derive(Serialize)]
struct Judged {
    machine: MachineId,
    project_path: String,
    cli_tool: String,
    model: Option<String>,
    title: Option<String>,
    permission_mode: Option<String>,
}

/// Starts a session on a machine.
///
/// With an `Idempotency-Key` header the same wish, sent again, finds the session that the first one made.
#[utoipa::path(post, path = "/api/remote/sessions", tag = "sessions", request_body = Wish,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody),
              (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn create(
    State(app): State<App>,
    visitor: Visitor,
    headers: HeaderMap,
    Body(wish): Body<Wish>,
) -> Result<Json<One>, ApiError> {
    let key = idempotency_key(&headers)?;
    let wish = judge(wish)?;
    let standing = machines::standing(&app, &visitor, wish.machine).await?;
    let permit = visitor.permit(&app, Action::SessionsCreate, &standing).await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let host = Host::lock(write.record(), wish.machine)
        .await?
        .ok_or_else(unknown_machine)?;
    if let Some(first) = made_before(&mut write, visitor.actor.user, key.as_deref()).await? {
        return again(&app, &visitor, first, &wish).await;
    }
    refuse_unassigned(write.record(), &permit, host.id, standing).await?;
    refuse(&app, &mut write, &host, &visitor, &wish).await?;
    let row = insert(&mut write, &host, &wish, visitor.actor.user, key.as_deref()).await?;
    start::push_start(write.record(), &row, Some(visitor.actor.user)).await?;
    let data = serde_json::json!({ "cli_tool": row.cli_tool, "title": row.title, "status": row.status });
    store::tell(write.record(), &row, "session.created", &data);
    write.target(format_args!("session:{}", row.id)).after(&wish)?;
    write.commit().await?;
    let owner = visitor.actor.username.clone();
    Ok(One::new(Session::with_totals(&app, row, owner, None).await?))
}

/// What the client calls its wish. Errors: 400 where it is no name.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    if (1..=255).contains(&text.len()) {
        return Ok(Some(text.to_owned()));
    }
    Err(ApiError::bad(
        "invalid_idempotency_key",
        "Idempotency-Key: 1 to 255 visible ASCII characters are allowed",
    ))
}

fn judge(wish: Wish) -> Result<Judged, ApiError> {
    let given = |text: Option<String>| text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let machine = given(wish.machine_id)
        .ok_or_else(|| ApiError::bad("machine_id_required", "machine_id: say on which machine"))?;
    let machine = machine
        .parse()
        .map_err(|_| ApiError::field("machine_id", "must be a UUID"))?;
    let project_path = given(wish.project_path).ok_or_else(|| {
        let message = "project_path: say in which directory of the machine";
        ApiError::bad("project_path_required", message)
    })?;
    machine_path::judge("project_path", &project_path)?;
    Ok(Judged {
        machine,
        project_path,
        cli_tool: name("cli_tool", given(wish.cli_tool))?.unwrap_or_else(|| DEFAULT_TOOL.to_owned()),
        model: name("model", given(wish.model))?,
        title: title(given(wish.title))?,
        permission_mode: name("permission_mode", given(wish.permission_mode))?,
    })
}

/// A name that ends up on a command line or in a request, so no option and no control characters.
pub(super) fn name(field: &str, text: Option<String>) -> Result<Option<String>, ApiError> {
    let is_name = |text: &String| {
        text.len() <= MAX_NAME_BYTES && !text.starts_with('-') && !text.chars().any(|c| c.is_control() || c == ' ')
    };
    if text.as_ref().is_none_or(is_name) {
        return Ok(text);
    }
    let problem = format!("must be a name of at most {MAX_NAME_BYTES} bytes without spaces, and not begin with '-'");
    Err(ApiError::field(field, problem))
}

pub(super) fn title(text: Option<String>) -> Result<Option<String>, ApiError> {
    let fits = |text: &String| text.chars().count() <= MAX_NAME_BYTES && !text.chars().any(char::is_control);
    if text.as_ref().is_none_or(fits) {
        return Ok(text);
    }
    let problem = format!("must be one line of at most {MAX_NAME_BYTES} characters");
    Err(ApiError::field("title", problem))
}

/// For system admins, and for those whose machine has just been taken away: others are not assigned to what is not there.
fn unknown_machine() -> ApiError {
    ApiError::bad("machine_not_found", "machine_id: no such machine")
}

async fn made_before(write: &mut Write, user: UserId, key: Option<&str>) -> Result<Option<SessionRow>, ApiError> {
    let Some(key) = key else { return Ok(None) };
    let row = sqlx::query("SELECT * FROM agent_sessions WHERE user_id = $1 AND idempotency_key = $2")
        .bind(user.0)
        .bind(key)
        .fetch_optional(write.sql())
        .await?;
    row.as_ref().map(SessionRow::read).transpose()
}

/// The answer to a second click. A key that meant something else is a mistake of the client.
async fn again(app: &App, visitor: &Visitor, first: SessionRow, wish: &Judged) -> Result<Json<One>, ApiError> {
    let same = first.machine == Some(wish.machine)
        && first.project_path == wish.project_path
        && first.cli_tool == wish.cli_tool;
    if !same {
        return Err(key_reused());
    }
    let owner = visitor.actor.username.clone();
    Ok(One::new(Session::with_totals(app, first, owner, None).await?))
}

fn key_reused() -> ApiError {
    let message = "this Idempotency-Key was used for another session; take a new one for each";
    ApiError::conflict("idempotency_key_reused", message)
}

async fn refuse(app: &App, write: &mut Write, host: &Host, visitor: &Visitor, wish: &Judged) -> Result<(), ApiError> {
    host.refuse_offline()?;
    host.refuse_tool(&wish.cli_tool)?;
    if let Some(model) = &wish.model {
        host.refuse_feature(&wish.cli_tool, "model", "a model")?;
        host::refuse_model(app, write.sql(), visitor.actor.user, &wish.cli_tool, model).await?;
    }
    if wish.permission_mode.is_some() {
        host.refuse_feature(&wish.cli_tool, "permission_mode", "a permission mode")?;
    }
    match host.full(write.record()).await? {
        Some(message) => Err(ApiError::bad("max_sessions", message).hint("stop one of them first")),
        None => Ok(()),
    }
}

async fn insert(
    write: &mut Write,
    host: &Host,
    wish: &Judged,
    user: UserId,
    key: Option<&str>,
) -> Result<SessionRow, ApiError> {
    let now = write.record().app().now();
    let inserted = sqlx::query(
        "INSERT INTO agent_sessions (session_id, user_id, tenant_id, workspace_type, remote_machine_id, machine_name, status,
                                     project_path, cli_tool, model, title, permission_mode, idempotency_key, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14) RETURNING *",
    )
    .bind(SessionId(chance::id()).to_string())
    .bind(user.0)
    .bind(host.tenant.0)
    .bind(&host.workspace_type)
    .bind(host.id.to_string())
    .bind(&host.name)
    .bind(SessionState::Starting.as_str())
    .bind(&wish.project_path)
    .bind(&wish.cli_tool)
    .bind(&wish.model)
    .bind(&wish.title)
    .bind(&wish.permission_mode)
    .bind(key)
    .bind(now)
    .fetch_one(write.sql())
    .await
    // Of two at once with the same key, on different machines.
    .on_duplicate(key_reused)?;
    SessionRow::read(&inserted)
}
