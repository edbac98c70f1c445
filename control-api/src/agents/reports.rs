//! What agents report. Every report on a session is checked here: the session must be the machine's, and reports on another run
//! than the current one change nothing.

use ace_policies::session::Report;
use ace_policies::wire::{Capabilities, Connect, Data, Failure, FailureCode, Held, Known, Line, Stream};
use ace_policies::{MachineId, SessionId};
use axum::http::StatusCode;
use serde_json::Value;
use sqlx::Row;
use uuid::Uuid;

use super::Agent;
use crate::App;
use crate::error::ApiError;
use crate::record::Record;
use crate::sessions::{self, SessionRow};
use crate::{approvals, output, queue};

/// How long a name or a path that an agent tells may be, in characters.
const MAX_TEXT: usize = 1_024;

/// How large capabilities may be, in bytes.
const MAX_CAPABILITIES: usize = 64 << 10;

/// Sessions that an agent may say it has, in one [`Connect`].
const MAX_HELD: usize = 1_000;

/// The sessions that live on the machine, and those that its agent says it has, as they are here.
pub(super) async fn known(record: &mut Record, machine: MachineId, held: &[Held]) -> Result<Vec<Known>, ApiError> {
    let rows = sqlx::query(
        "SELECT * FROM agent_sessions WHERE remote_machine_id = $1 AND status IN ('starting', 'active', 'paused')",
    )
    .bind(machine.to_string())
    .fetch_all(record.sql())
    .await?;
    let mut known = rows.iter().map(known_from).collect::<Result<Vec<_>, _>>()?;
    for held in held.iter().take(MAX_HELD) {
        if known.iter().any(|known| known.session_id == held.session_id) {
            continue;
        }
        let row = sqlx::query("SELECT * FROM agent_sessions WHERE session_id = $1 AND remote_machine_id = $2")
            .bind(held.session_id.to_string())
            .bind(machine.to_string())
            .fetch_optional(record.sql())
            .await?;
        known.extend(row.as_ref().map(known_from).transpose()?);
    }
    Ok(known)
}

fn known_from(row: &sqlx::any::AnyRow) -> Result<Known, ApiError> {
    let row = SessionRow::read(row)?;
    Ok(Known {
        session_id: row.id,
        run: row.run,
        live: row.status.is_live(),
        last_seq: row.last_seq,
    })
}

/// Notes what an agent says of itself and its machine.
///
/// The limit on sessions is what the agent says at its first word; afterwards it is the admins', and the agent has its own.
pub(super) async fn introduced(record: &mut Record, agent: &Agent, connect: &Connect) -> Result<(), ApiError> {
    let capabilities = serde_json::to_value(&connect.capabilities).map_err(ApiError::internal)?;
    sqlx::query(
        "UPDATE remote_machines SET dialect = 'own', agent_version = $1, capabilities = $2, ip_address = $3,
                hostname = CASE WHEN $4 = '' THEN hostname ELSE $4 END,
                os_type = CASE WHEN $5 = '' THEN os_type ELSE $5 END,
                os_version = CASE WHEN $6 = '' THEN os_version ELSE $6 END,
                work_dir = COALESCE(work_dir, $7),
                max_sessions = CASE WHEN last_heartbeat IS NULL THEN $8 ELSE max_sessions END
         WHERE machine_id = $9",
    )
    .bind(text(&connect.agent_version))
    .bind(sized(&capabilities)?)
    .bind(agent.edge.client.to_string())
    .bind(text(&connect.hostname))
    .bind(text(&connect.os_type))
    .bind(text(&connect.os_version))
    .bind(connect.work_dir.as_deref().map(text))
    .bind(i64::from(connect.max_sessions))
    .bind(agent.machine.to_string())
    .execute(record.sql())
    .await?;
    Ok(())
}

/// Takes a sign of life.
pub(super) async fn heartbeat(app: &App, agent: &Agent, capabilities: Option<&Capabilities>) -> Result<(), ApiError> {
    let capabilities = capabilities.map(serde_json::to_value).transpose();
    let capabilities = capabilities.map_err(ApiError::internal)?;
    let mut record = app.record().await?;
    alive(&mut record, agent, capabilities.as_ref()).await?;
    record.commit().await
}

/// The same within a transaction.
pub(super) async fn alive(record: &mut Record, agent: &Agent, capabilities: Option<&Value>) -> Result<(), ApiError> {
    let capabilities = capabilities.map(sized).transpose()?;
    sqlx::query(
        "UPDATE remote_machines SET last_heartbeat = $1, capabilities = COALESCE($2, capabilities) WHERE machine_id = $3",
    )
    .bind(record.app().now())
    .bind(capabilities)
    .bind(agent.machine.to_string())
    .execute(record.sql())
    .await?;
    Ok(())
}

fn sized(capabilities: &Value) -> Result<String, ApiError> {
    let capabilities = capabilities.to_string();
    if capabilities.len() > MAX_CAPABILITIES {
        let problem = format!("at most {MAX_CAPABILITIES} bytes are taken");
        return Err(ApiError::field("capabilities", problem));
    }
    Ok(capabilities)
}

/// What is kept of a name or a path.
pub(super) fn text(text: &str) -> String {
    sessions::bounded(text, MAX_TEXT)
}

/// Locks a session for a report on it. Errors: 403 where it is not this machine's, whether or not there is one.
pub(super) async fn theirs(record: &mut Record, agent: &Agent, session: SessionId) -> Result<SessionRow, ApiError> {
    let row = sessions::lock(record, session).await?;
    row.filter(|row| row.machine == Some(agent.machine))
        .ok_or_else(not_theirs)
}

/// One answer, so that nobody learns which sessions there are elsewhere.
pub(super) fn not_theirs() -> ApiError {
    ApiError::forbidden("not_this_machine", "this session is not one of this machine's")
}

/// Says the same for those who look the session up themselves.
fn same_answer(error: ApiError) -> ApiError {
    match error.status() {
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => not_theirs(),
        _ => error,
    }
}

/// Stores lines, and tells the last that is stored.
pub(super) async fn output(app: &App, agent: &Agent, session: SessionId, lines: &[Line]) -> Result<i64, ApiError> {
    let mut record = app.record().await?;
    let stored = output::append(&mut record, session, agent.machine, lines).await;
    let last = stored.map_err(same_answer)?;
    record.commit().await?;
    Ok(last)
}

/// Stores a line of an agent that does not number them.
pub(super) async fn line(
    app: &App,
    agent: &Agent,
    session: SessionId,
    stream: Stream,
    data: &str,
) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    let lines = vec![(stream, Data(data.as_bytes().to_vec()))];
    let stored = output::append_next(&mut record, session, agent.machine, lines).await;
    stored.map_err(same_answer)?;
    record.commit().await
}

/// How a session's CLI is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said<'a> {
    pub state: Report,
    pub busy: bool,
    pub resume_id: Option<&'a str>,
    pub message: Option<&'a str>,
}

/// Takes how a session's CLI is, in a run.
pub(super) async fn status(
    app: &App,
    agent: &Agent,
    session: SessionId,
    run: i64,
    said: Said<'_>,
) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    let row = theirs(&mut record, agent, session).await?;
    apply(&mut record, &row, run, said).await?;
    record.commit().await
}

pub(super) async fn apply(record: &mut Record, row: &SessionRow, run: i64, said: Said<'_>) -> Result<(), ApiError> {
    let (resume_id, message) = (said.resume_id.map(text), said.message.map(text));
    let (resume_id, message) = (resume_id.as_deref(), message.as_deref());
    sessions::reported(record, row, run, said.state, said.busy, resume_id, message).await?;
    Ok(())
}

/// Takes a question of a CLI.
pub(super) async fn asked(
    app: &App,
    agent: &Agent,
    session: SessionId,
    run: Option<i64>,
    question: (&str, &str, &Value),
) -> Result<(), ApiError> {
    let (request_id, tool_name, input) = question;
    let mut record = app.record().await?;
    let row = theirs(&mut record, agent, session).await?;
    let run = run.unwrap_or(row.run);
    approvals::asked(&mut record, &row, run, &text(request_id), &text(tool_name), input).await?;
    record.commit().await
}

/// Takes a question back.
pub(super) async fn withdrawn(app: &App, agent: &Agent, session: SessionId, request_id: &str) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    let row = theirs(&mut record, agent, session).await?;
    approvals::cancelled(&mut record, &row, &text(request_id)).await?;
    record.commit().await
}

/// Takes that a command has arrived.
pub(super) async fn acknowledged(app: &App, agent: &Agent, command_id: Uuid) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    queue::acknowledge(&mut record, agent.machine, command_id).await?;
    record.commit().await
}

/// Takes how a command ended. The failure of a start ends its run, of a message is told.
pub(super) async fn done(
    app: &App,
    agent: &Agent,
    command_id: Uuid,
    outcome: Result<Option<&Value>, &Failure>,
) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    // The session first: that is the order of locks everywhere.
    let session = match outcome {
        Ok(_) => None,
        Err(_) => session_of(&mut record, agent, command_id).await?,
    };
    let Some(finished) = queue::finish(&mut record, agent.machine, command_id, outcome).await? else {
        return Ok(());
    };
    if let (Err(failure), Some(session)) = (outcome, session) {
        let run = finished.run.unwrap_or(session.run);
        let is_start = finished.is_start();
        // Ending what has ended is no news.
        if is_start || failure.code != FailureCode::NotFound || !finished.is_an_end() {
            let code = failure.code.as_str();
            let message = text(&failure.message);
            sessions::command_failed(&mut record, &session, run, command_id, is_start, code, &message).await?;
        }
    }
    record.commit().await
}

async fn session_of(record: &mut Record, agent: &Agent, command_id: Uuid) -> Result<Option<SessionRow>, ApiError> {
    let row = sqlx::query("SELECT session_id FROM agent_commands WHERE command_id = $1 AND machine_id = $2")
        .bind(command_id.to_string())
        .bind(agent.machine.to_string())
        .fetch_optional(record.sql())
        .await?;
    let id: Option<String> = row.map(|row| row.try_get(0)).transpose()?.flatten();
    let Some(id) = id else { return Ok(None) };
    match theirs(record, agent, parsed(&id)?).await {
        Ok(row) => Ok(Some(row)),
        Err(error) if error.status() == StatusCode::FORBIDDEN => Ok(None),
        Err(error) => Err(error),
    }
}

fn parsed(id: &str) -> Result<SessionId, ApiError> {
    id.parse().map_err(|error: uuid::Error| ApiError::internal(error))
}

/// The session of a report that names it in a text.
pub(super) fn named(id: Option<&str>) -> Result<SessionId, ApiError> {
    id.and_then(|id| id.parse().ok()).ok_or_else(not_theirs)
}
