//! PATCH /api/notifications.

use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::AnyConnection;
use utoipa::ToSchema;

use super::list::unread;
use crate::App;
use crate::body::Body;
use crate::error::ApiError;
use crate::page::MAX_LIMIT;
use crate::visitor::Visitor;

/// Which are read now, or not any more. Either `ids` or `all`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Changes {
    /// Up to 500; those of others are left alone.
    ids: Option<Vec<i64>>,
    /// All of the caller's; with `up_to` those up to that id, so that what came meanwhile stays unread.
    #[serde(default)]
    all: bool,
    up_to: Option<i64>,
    /// Left out, `true`.
    #[serde(default = "yes")]
    read: bool,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Changed {
    success: bool,
    changed: u64,
    /// How many are unread now.
    unread: i64,
}

/// Marks the caller's own notifications as read or unread.
#[utoipa::path(patch, path = "/api/notifications", tag = "notifications", request_body = Changes,
    responses((status = 200, body = Changed), (status = 400, body = crate::error::ErrorBody)))]
pub(super) async fn update(
    State(app): State<App>,
    visitor: Visitor,
    Body(changes): Body<Changes>,
) -> Result<Json<Changed>, ApiError> {
    let permit = visitor
        .permit(&app, Action::NotificationsUpdate, &Standing::default())
        .await?;
    judge(&changes)?;
    let user = visitor.actor.user;
    let read_at = changes.read.then_some(app.now());
    let mut write = app.write(&permit, &visitor.edge).await?;
    let mut changed = 0;
    for (first, last) in ranges(&changes) {
        changed += mark(write.sql(), user.0, (first, last), read_at).await?;
    }
    let unread = unread(write.sql(), user).await?;
    write
        .target(format_args!("user:{user}"))
        .after(&json!({ "read": changes.read, "changed": changed }))?;
    write.commit().await?;
    Ok(Json(Changed {
        success: true,
        changed,
        unread,
    }))
}

fn judge(changes: &Changes) -> Result<(), ApiError> {
    let many = || i64::try_from(changes.ids.as_ref().map_or(0, Vec::len)).unwrap_or(i64::MAX);
    match (&changes.ids, changes.all) {
        (Some(_), true) => Err(ApiError::field("all", "give either ids or all")),
        (None, false) => Err(ApiError::field("ids", "is missing; or give all")),
        (Some(_), false) if !(1..=MAX_LIMIT).contains(&many()) => {
            Err(ApiError::field("ids", format_args!("1 to {MAX_LIMIT} are allowed")))
        }
        (Some(_), false) if changes.up_to.is_some() => Err(ApiError::field("up_to", "goes with all only")),
        _ => Ok(()),
    }
}

fn ranges(changes: &Changes) -> Vec<(i64, i64)> {
    match &changes.ids {
        Some(ids) => ids.iter().map(|id| (*id, *id)).collect(),
        None => vec![(0, changes.up_to.unwrap_or(i64::MAX))],
    }
}

async fn mark(
    connection: &mut AnyConnection,
    user: i64,
    (first, last): (i64, i64),
    read_at: Option<i64>,
) -> Result<u64, ApiError> {
    let (read, unread) = (
        "UPDATE notifications SET read_at = $1 WHERE user_id = $2 AND id >= $3 AND id <= $4 AND read_at IS NULL",
        "UPDATE notifications SET read_at = $1 WHERE user_id = $2 AND id >= $3 AND id <= $4 AND read_at IS NOT NULL",
    );
    let done = sqlx::query(if read_at.is_some() { read } else { unread })
        .bind(read_at)
        .bind(user)
        .bind(first)
        .bind(last)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

const fn yes() -> bool {
    true
}
