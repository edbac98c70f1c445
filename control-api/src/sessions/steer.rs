//! Stop, pause, resume and abort.

use ace_policies::access::Action;
use ace_policies::session::{NotNow, State as SessionState, Tell, Wish, next};
use ace_policies::wire::Command;
use ace_policies::{SessionId, UserId};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Party;
use super::host::Host;
use super::start::{self, ABORT_LIFE, LIFE, STOP_LIFE};
use super::store::{self, SessionRow};
use crate::App;
use crate::body::At;
use crate::error::ApiError;
use crate::queue;
use crate::record::Record;
use crate::visitor::Visitor;

/// How the session is now.
#[derive(Serialize, ToSchema)]
pub(super) struct Now {
    success: bool,
    #[schema(value_type = String)]
    session_id: SessionId,
    #[schema(value_type = String)]
    status: SessionState,
}

/// Ends a session: its CLI with all its processes, its proxy tokens, what waits for it. It can be resumed later.
#[utoipa::path(post, path = "/api/remote/sessions/{id}/stop", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Now), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn stop(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
) -> Result<Json<Now>, ApiError> {
    steer(&app, &visitor, id, Action::SessionsStop, Wish::Stop).await
}

/// Holds the processes of a session's CLI where they are.
#[utoipa::path(post, path = "/api/remote/sessions/{id}/pause", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Now), (status = 404, body = crate::error::ErrorBody),
              (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn pause(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
) -> Result<Json<Now>, ApiError> {
    steer(&app, &visitor, id, Action::SessionsPause, Wish::Pause).await
}

/// Lets a paused session go on, or starts one that has ended again, with its conversation.
#[utoipa::path(post, path = "/api/remote/sessions/{id}/resume", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Now), (status = 404, body = crate::error::ErrorBody),
              (status = 409, body = crate::error::ErrorBody)))]
pub(super) async fn resume(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
) -> Result<Json<Now>, ApiError> {
    steer(&app, &visitor, id, Action::SessionsResume, Wish::Resume).await
}

/// Ends the turn that is under way, not the session.
#[utoipa::path(post, path = "/api/remote/sessions/{id}/abort", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Now), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn abort(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
) -> Result<Json<Now>, ApiError> {
    steer(&app, &visitor, id, Action::SessionsAbort, Wish::Abort).await
}

async fn steer(app: &App, visitor: &Visitor, id: SessionId, action: Action, wish: Wish) -> Result<Json<Now>, ApiError> {
    let party = Party::of(app, visitor, action, id).await?;
    let by = visitor.actor.user;
    let mut write = app.write(&party.permit, &visitor.edge).await?;
    let host = match wish {
        Wish::Resume => Some(host_of(write.record(), &party.row).await?),
        _ => None,
    };
    let row = party.lock(write.record()).await?;
    if wish == Wish::Resume {
        party.refuse_unassigned(write.record()).await?;
    }
    let step = next(row.status, wish).map_err(not_now)?;
    let after = match (step.tell, &host) {
        // It is so already: nothing is done, and nothing is recorded.
        (Tell::Nothing, _) => return Ok(now(&row)),
        (Tell::Start, Some(host)) => start::start_on(write.record(), host, &row, by).await?,
        (Tell::Start | Tell::Wish, _) => tell(write.record(), &row, wish, step.to, by).await?,
    };
    write
        .target(format_args!("session:{id}"))
        .before(&serde_json::json!({ "status": row.status }))?
        .after(&serde_json::json!({ "status": after.status, "run": after.run }))?;
    write.commit().await?;
    Ok(now(&after))
}

fn now(row: &SessionRow) -> Json<Now> {
    Json(Now {
        success: true,
        session_id: row.id,
        status: row.status,
    })
}

/// Locks the machine of a session, which comes before the session itself. Errors: 409 where it is gone.
pub(super) async fn host_of(record: &mut Record, row: &SessionRow) -> Result<Host, ApiError> {
    let host = Host::lock(record, row.machine()?).await?;
    host.ok_or_else(|| {
        ApiError::conflict("not_resumable", "the machine of this session is gone").session_status(row.status)
    })
}

async fn tell(
    record: &mut Record,
    row: &SessionRow,
    wish: Wish,
    to: SessionState,
    by: UserId,
) -> Result<SessionRow, ApiError> {
    let session_id = row.id;
    let (command, life) = match wish {
        Wish::Stop => return stop_now(record, row, None, Some(by)).await,
        Wish::Pause => (Command::PauseSession { session_id }, LIFE),
        Wish::Abort => (
            Command::AbortRequest {
                session_id,
                reason: "asked for by the user".to_owned(),
            },
            ABORT_LIFE,
        ),
        Wish::Resume | Wish::Chat | Wish::Configure => (Command::ResumeSession { session_id }, LIFE),
    };
    start::push(record, row, &command, life, None, Some(by)).await?;
    store::set_state(record, row, to, None).await
}

/// Ends a live session and tells its agent to; `reason` is kept with it, for people. The row must be locked.
pub(crate) async fn stop_now(
    record: &mut Record,
    row: &SessionRow,
    reason: Option<&str>,
    by: Option<UserId>,
) -> Result<SessionRow, ApiError> {
    // A machine that was away would start the CLI, and pay for a turn, only to end it.
    queue::drop_waiting(record, &[row.id]).await?;
    let command = Command::StopSession { session_id: row.id };
    start::push(record, row, &command, STOP_LIFE, None, by).await?;
    store::set_state(record, row, SessionState::Stopped, reason).await
}

/// The answer to a wish that the session's state does not allow.
pub(super) fn not_now(error: NotNow) -> ApiError {
    ApiError::conflict(error.code(), error.to_string()).session_status(error.state)
}
