//! What agents' reports do to sessions, as far as it is not there in `sessions`, `output` and `approvals`.

use ace_policies::session::{Report, State, after_report};
use ace_policies::wire::{Data, Line, Stream};
use ace_policies::{MachineId, SessionId, TenantId, UserId};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::error::ApiError;
use crate::record::{Event, Record, Topic};
use crate::wakeups::Wakeup;

#[derive(Clone, Debug)]
pub(crate) struct SessionRow {
    pub id: SessionId,
    pub user: UserId,
    pub tenant: TenantId,
    pub machine: Option<MachineId>,
    pub status: State,
    pub cli_tool: String,
    pub run: i64,
    pub last_seq: i64,
}

impl SessionRow {
    pub fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let uuid = |text: String| text.parse::<Uuid>().map_err(ApiError::internal);
        let machine: Option<String> = row.try_get("remote_machine_id")?;
        Ok(Self {
            id: SessionId(uuid(row.try_get("session_id")?)?),
            user: UserId(row.try_get("user_id")?),
            tenant: TenantId(row.try_get("tenant_id")?),
            machine: machine.map(uuid).transpose()?.map(MachineId),
            status: row
                .try_get::<String, _>("status")?
                .parse()
                .map_err(|error: ace_policies::session::UnknownState| ApiError::internal(error))?,
            cli_tool: row.try_get("cli_tool")?,
            run: row.try_get("run")?,
            last_seq: row.try_get("last_seq")?,
        })
    }
}

pub(crate) async fn lock(record: &mut Record, id: SessionId) -> Result<Option<SessionRow>, ApiError> {
    let row = sqlx::query("UPDATE agent_sessions SET updated_at = updated_at WHERE session_id = $1 RETURNING *")
        .bind(id.to_string())
        .fetch_optional(record.sql())
        .await?;
    row.as_ref().map(SessionRow::read).transpose()
}

pub(crate) async fn reported(
    record: &mut Record,
    row: &SessionRow,
    run: i64,
    report: Report,
    busy: bool,
    resume_id: Option<&str>,
    message: Option<&str>,
) -> Result<SessionRow, ApiError> {
    if run != row.run {
        return Ok(row.clone());
    }
    let state = after_report(row.status, report);
    let ends = row.status.is_live() && !state.is_live();
    let error = (state == State::Error).then(|| message.unwrap_or("the CLI could not go on"));
    let now = record.app().now();
    let changed = sqlx::query(
        "UPDATE agent_sessions SET status = $1, busy = $2, resume_id = COALESCE($3, resume_id), updated_at = $4,
                error = CASE WHEN $1 = status THEN error ELSE $5 END, token_generation = token_generation + $6,
                ended_at = CASE WHEN $6 = 1 THEN $4 ELSE ended_at END
         WHERE session_id = $7 RETURNING *",
    )
    .bind(state.as_str())
    .bind(i64::from(busy && state == State::Active))
    .bind(resume_id)
    .bind(now)
    .bind(error)
    .bind(i64::from(ends))
    .bind(row.id.to_string())
    .fetch_one(record.sql())
    .await?;
    record.ring(Wakeup::Session(row.id));
    if ends {
        record.wake(Topic::Auth);
    }
    if state != row.status {
        tell(
            record,
            row,
            "session.state",
            &json!({ "status": state, "before": row.status, "error": error }),
        )
        .await?;
    }
    SessionRow::read(&changed)
}

pub(crate) async fn command_failed(
    record: &mut Record,
    row: &SessionRow,
    run: i64,
    command_id: Uuid,
    is_start: bool,
    code: &str,
    message: &str,
) -> Result<(), ApiError> {
    if run != row.run {
        return Ok(());
    }
    if is_start && row.status.is_live() {
        reported(record, row, run, Report::Error, false, None, Some(message)).await?;
    }
    let problem = json!({ "command_id": command_id, "code": code, "message": message });
    tell(record, row, "session.command_failed", &problem).await
}

async fn tell(record: &mut Record, row: &SessionRow, kind: &'static str, data: &Value) -> Result<(), ApiError> {
    record.ring(Wakeup::Session(row.id));
    let event = Event {
        kind,
        tenant: row.tenant,
        user: Some(row.user),
        machine: row.machine,
        session: Some(row.id),
        data,
    };
    record.tell(event).await
}

/// Stores lines; those that are stored already are skipped, and nothing after a gap is taken. Returns the last that is stored.
pub(crate) async fn append(
    record: &mut Record,
    session: SessionId,
    machine: MachineId,
    lines: &[Line],
) -> Result<i64, ApiError> {
    let row = locked(record, session, machine).await?;
    let mut last = row.last_seq;
    for line in lines.iter().filter(|line| line.seq > row.last_seq) {
        if line.seq != last + 1 {
            break;
        }
        sqlx::query("INSERT INTO session_output (session_id, seq, stream, data, at) VALUES ($1, $2, $3, $4, $5)")
            .bind(row.id.to_string())
            .bind(line.seq)
            .bind(line.stream.as_str())
            .bind(line.data.0.as_slice())
            .bind(line.at)
            .execute(record.sql())
            .await?;
        last = line.seq;
    }
    if last > row.last_seq {
        sqlx::query(
            "UPDATE agent_sessions SET last_seq = $1, first_seq = CASE WHEN first_seq = 0 THEN 1 ELSE first_seq END
             WHERE session_id = $2",
        )
        .bind(last)
        .bind(row.id.to_string())
        .execute(record.sql())
        .await?;
        record.ring(Wakeup::Session(row.id));
    }
    Ok(last)
}

pub(crate) async fn append_next(
    record: &mut Record,
    session: SessionId,
    machine: MachineId,
    lines: Vec<(Stream, Data)>,
) -> Result<i64, ApiError> {
    let row = locked(record, session, machine).await?;
    let at = record.app().now();
    let lines: Vec<Line> = (row.last_seq + 1..)
        .zip(lines)
        .map(|(seq, (stream, data))| Line { seq, stream, at, data })
        .collect();
    append(record, session, machine, &lines).await
}

async fn locked(record: &mut Record, session: SessionId, machine: MachineId) -> Result<SessionRow, ApiError> {
    let row = lock(record, session).await?;
    let row = row.ok_or_else(|| ApiError::from(ace_policies::Denied::SessionNotFound))?;
    if row.machine == Some(machine) {
        return Ok(row);
    }
    Err(ApiError::forbidden(
        "not_this_machine",
        "the session is another machine's",
    ))
}

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
    let now = record.app().now();
    let stored = sqlx::query(
        "INSERT INTO session_approvals (session_id, request_id, run, tool_name, input, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (session_id, request_id) DO NOTHING",
    )
    .bind(row.id.to_string())
    .bind(request_id)
    .bind(run)
    .bind(tool_name)
    .bind(input.to_string())
    .bind(now)
    .execute(record.sql())
    .await?;
    if stored.rows_affected() == 1 {
        let data = json!({ "request_id": request_id, "tool_name": tool_name });
        tell(record, row, "approval.requested", &data).await?;
    }
    Ok(())
}

pub(crate) async fn cancelled(record: &mut Record, row: &SessionRow, request_id: &str) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE session_approvals SET state = 'cancelled' WHERE session_id = $1 AND request_id = $2 AND state = 'pending'",
    )
    .bind(row.id.to_string())
    .bind(request_id)
    .execute(record.sql())
    .await?;
    record.ring(Wakeup::Session(row.id));
    Ok(())
}
