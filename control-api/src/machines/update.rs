//! PATCH /api/remote/machines/{id}.

use ace_policies::access::Action;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Machine, MachineAt, One};
use crate::App;
use crate::body::{Body, settable};
use crate::error::ApiError;
use crate::visitor::Visitor;
use crate::write::Write;

/// The most sessions that a machine may be allowed at once.
const MAX_SESSIONS: i64 = 1_000;

/// The longest path, in bytes.
const MAX_PATH: usize = 4_096;

/// What to change; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Changes {
    /// 1 to 255 characters.
    machine_name: Option<String>,
    /// 0 to 1000; with 0 no session starts. Sessions that run go on.
    max_sessions: Option<i64>,
    /// An absolute path on the machine; `null` leaves it to the agent.
    #[serde(default, deserialize_with = "settable")]
    #[schema(value_type = Option<String>)]
    work_dir: Option<Option<String>>,
    /// Whether proxy tokens may live as long as their session where the agent cannot renew them.
    allow_long_tokens: Option<bool>,
}

/// Changes a machine's settings.
#[utoipa::path(patch, path = "/api/remote/machines/{id}", tag = "machines",
    params(("id" = String, Path, description = "The machine's id, a UUID.")), request_body = Changes,
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn update(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(id): MachineAt,
    Body(changes): Body<Changes>,
) -> Result<Json<One>, ApiError> {
    let standing = super::standing(&app, &visitor, id).await?;
    let permit = visitor.permit(&app, Action::MachinesUpdate, &standing).await?;
    judge(&changes)?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let before = super::lock(write.sql(), id, app.now()).await?;
    store(&mut write, &before, changes).await?;
    let after = super::by_id(write.sql(), id, app.now()).await?;
    write
        .target(format_args!("machine:{id}"))
        .before(&before)?
        .after(&after)?;
    write.commit().await?;
    Ok(Json(One {
        success: true,
        machine: after.seen_by(&visitor, standing.machine),
    }))
}

async fn store(write: &mut Write, before: &Machine, changes: Changes) -> Result<(), ApiError> {
    let work_dir = changes.work_dir.unwrap_or_else(|| before.work_dir.clone());
    sqlx::query(
        "UPDATE remote_machines SET machine_name = $1, max_sessions = $2, work_dir = $3, allow_long_tokens = $4
         WHERE machine_id = $5",
    )
    .bind(changes.machine_name.as_deref().unwrap_or(&before.machine_name))
    .bind(changes.max_sessions.unwrap_or(before.max_sessions))
    .bind(work_dir)
    .bind(i64::from(changes.allow_long_tokens.unwrap_or(before.allow_long_tokens)))
    .bind(&before.machine_id)
    .execute(write.sql())
    .await?;
    Ok(())
}

fn judge(changes: &Changes) -> Result<(), ApiError> {
    if let Some(name) = &changes.machine_name {
        machine_name(name)?;
    }
    if changes
        .max_sessions
        .is_some_and(|max| !(0..=MAX_SESSIONS).contains(&max))
    {
        let problem = format_args!("must be between 0 and {MAX_SESSIONS}");
        return Err(ApiError::field("max_sessions", problem));
    }
    match changes.work_dir.as_ref().and_then(Option::as_deref) {
        Some(path) if !is_absolute(path) => Err(ApiError::field(
            "work_dir",
            format_args!("must be an absolute path of at most {MAX_PATH} bytes"),
        )),
        _ => Ok(()),
    }
}

/// Refuses a name that lists cannot show.
pub(crate) fn machine_name(name: &str) -> Result<(), ApiError> {
    let is_shown = !name.trim().is_empty() && !name.chars().any(char::is_control);
    if is_shown && name.chars().count() <= 255 {
        return Ok(());
    }
    Err(ApiError::field(
        "machine_name",
        "1 to 255 characters are needed, none of them a control character",
    ))
}

/// `/home/alice`, `C:\Users\alice` or `\\server\share`: the machine's system is not ours.
fn is_absolute(path: &str) -> bool {
    let bytes = path.as_bytes();
    let has_drive = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.get(1) == Some(&b':')
        && matches!(bytes.get(2), Some(b'\\' | b'/'));
    path.len() <= MAX_PATH && (path.starts_with('/') || path.starts_with("\\\\") || has_drive)
}
