//! POST /api/remote/sessions/bulk.

use ace_policies::access::{self, Action, Permit, Role};
use ace_policies::{Denied, SessionId};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::Row;
use utoipa::ToSchema;

use super::access::standings;
use super::change::{refuse_live, remove, store};
use super::list::with_status;
use super::store::SessionRow;
use crate::App;
use crate::body::Body;
use crate::error::ApiError;
use crate::output;
use crate::page::Filter;
use crate::record::Record;
use crate::visitor::Visitor;
use crate::when::When;

/// How many sessions are changed in one request.
const MAX_SESSIONS: usize = 500;

/// How many of them in one transaction: others wait meanwhile.
const STEP: usize = 50;

/// What to do with which sessions: those of `session_ids`, or those of `filter`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    action: Act,
    /// At most 500.
    #[schema(value_type = Option<Vec<String>>)]
    session_ids: Option<Vec<SessionId>>,
    filter: Option<Which>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Act {
    Delete,
    Archive,
    Unarchive,
}

/// Sessions that have ended, the oldest first.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Which {
    /// `stopped`, `completed` or `error`; left out, all that have ended.
    status: Option<String>,
    #[schema(value_type = Option<String>)]
    machine_id: Option<ace_policies::MachineId>,
    /// Only those that ended before this time.
    ended_before: Option<When>,
    /// A system admin's wish for those of all users; others have their own only.
    #[serde(default)]
    everybody: bool,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Outcome {
    success: bool,
    /// How many were changed.
    done: usize,
    skipped: Vec<Skipped>,
    /// Whether the filter finds more: then ask again.
    more: bool,
}

/// A session that was left as it is.
#[derive(Serialize, ToSchema)]
struct Skipped {
    #[schema(value_type = String)]
    session_id: SessionId,
    /// Why: `session_not_found`, `session_active`.
    code: &'static str,
}

/// Deletes or archives many sessions that have ended, 50 in one step.
#[utoipa::path(post, path = "/api/remote/sessions/bulk", tag = "sessions", request_body = Wish,
    responses((status = 200, body = Outcome), (status = 400, body = crate::error::ErrorBody)))]
pub(super) async fn bulk(
    State(app): State<App>,
    visitor: Visitor,
    Body(wish): Body<Wish>,
) -> Result<Json<Outcome>, ApiError> {
    let (mut ids, more) = match (wish.session_ids, wish.filter) {
        (Some(ids), None) if ids.len() <= MAX_SESSIONS => (ids, false),
        (Some(_), None) => {
            let problem = format_args!("at most {MAX_SESSIONS} at once").to_string();
            return Err(ApiError::field("session_ids", problem));
        }
        (None, Some(which)) => found(&app, &visitor, &which, wish.action).await?,
        _ => return Err(ApiError::field("session_ids", "give either session_ids or filter")),
    };
    // Locked in one order, so that two of these never wait for each other.
    ids.sort();
    ids.dedup();
    let action = match wish.action {
        Act::Delete => Action::SessionsDelete,
        Act::Archive | Act::Unarchive => Action::SessionsUpdate,
    };
    let (permits, mut skipped) = permits(&app, &visitor, action, ids).await?;
    let mut done = 0;
    for some in permits.chunks(STEP) {
        done += step(&app, &visitor, wish.action, some, &mut skipped).await?;
    }
    if done > 0 && wish.action == Act::Delete {
        output::clear_soon(&app);
    }
    Ok(outcome(done, skipped, more))
}

/// Changes some sessions, all in one act. Returns how many.
async fn step(
    app: &App,
    visitor: &Visitor,
    act: Act,
    permits: &[(SessionId, Permit)],
    skipped: &mut Vec<Skipped>,
) -> Result<usize, ApiError> {
    let Some((_, permit)) = permits.first() else {
        return Ok(0);
    };
    let mut write = app.write(permit, &visitor.edge).await?;
    let (mut before, mut done) = (Vec::new(), Vec::new());
    for (id, _) in permits {
        match apply(write.record(), *id, act).await {
            Ok(row) => {
                before.push(
                    json!({ "session_id": id, "title": row.title, "status": row.status, "archived": row.archived }),
                );
                done.push(*id);
            }
            Err(error) if error.status().is_client_error() => skipped.push(Skipped {
                session_id: *id,
                code: error.code(),
            }),
            Err(error) => return Err(error),
        }
    }
    if done.is_empty() {
        return Ok(0);
    }
    write
        .target("sessions")
        .before(&json!({ "sessions": before }))?
        .after(&json!({ "session_ids": done }))?;
    write.commit().await?;
    Ok(done.len())
}

fn outcome(done: usize, skipped: Vec<Skipped>, more: bool) -> Json<Outcome> {
    Json(Outcome {
        success: true,
        done,
        skipped,
        more,
    })
}

/// The proofs that the visitor may change each; those that they may not even know of are skipped.
async fn permits(
    app: &App,
    visitor: &Visitor,
    action: Action,
    ids: Vec<SessionId>,
) -> Result<(Vec<(SessionId, Permit)>, Vec<Skipped>), ApiError> {
    let (mut permits, mut skipped) = (Vec::new(), Vec::new());
    let standings = standings(app, visitor, &ids).await?;
    for id in ids {
        let permit = match standings.get(&id) {
            // That one of many is refused is no act of its own, so it is not recorded.
            Some(standing) => access::check(&visitor.actor, action, standing),
            None => Err(Denied::SessionNotFound),
        };
        match permit.map_err(ApiError::from) {
            Ok(permit) => permits.push((id, permit)),
            Err(error) if error.status() == StatusCode::NOT_FOUND => skipped.push(Skipped {
                session_id: id,
                code: error.code(),
            }),
            Err(error) => return Err(error),
        }
    }
    Ok((permits, skipped))
}

/// Changes one session. Returns how it was.
async fn apply(record: &mut Record, id: SessionId, act: Act) -> Result<SessionRow, ApiError> {
    let row = super::lock(record, id).await?;
    let row = row.ok_or_else(|| ApiError::from(Denied::SessionNotFound))?;
    refuse_live(&row)?;
    match act {
        Act::Delete => remove(record, &row).await?,
        Act::Archive | Act::Unarchive => store(record, &row, None, act == Act::Archive).await.map(drop)?,
    }
    Ok(row)
}

/// The sessions that a filter finds, and whether there are more.
async fn found(app: &App, visitor: &Visitor, which: &Which, act: Act) -> Result<(Vec<SessionId>, bool), ApiError> {
    if which.everybody && visitor.actor.role != Role::Admin {
        return Err(ApiError::field(
            "filter.everybody",
            "only a system admin may clean up after others",
        ));
    }
    let machine = which.machine_id.map(|machine| machine.to_string());
    let mut filter = Filter::default();
    filter
        .and_if("user_id =", (!which.everybody).then_some(visitor.actor.user.0))
        .and_if("remote_machine_id =", machine.as_deref())
        .and_if("ended_at <", which.ended_before.map(|before| before.0))
        .also("agent_sessions.status IN ('stopped', 'completed', 'error')");
    with_status(&mut filter, which.status.as_deref())?;
    match act {
        Act::Delete => &mut filter,
        Act::Archive => filter.also("archived = 0"),
        Act::Unarchive => filter.also("archived = 1"),
    };
    let limit = i64::try_from(MAX_SESSIONS).unwrap_or(i64::MAX);
    let select = "SELECT session_id FROM agent_sessions";
    let rows = filter
        .page(&app.db().read, select, "created_at, session_id", limit)
        .await?;
    let id = |row: &sqlx::any::AnyRow| row.try_get::<String, _>(0)?.parse().map_err(ApiError::internal);
    let ids = rows.rows.iter().map(id).collect::<Result<_, _>>()?;
    Ok((ids, rows.more))
}
