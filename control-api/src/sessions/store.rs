//! The row of a session, and the few ways in which it changes.
//!
//! Locks are taken in one order, so that two transactions never wait for each other: machines by id, then sessions by id, then commands by
//! id (`queue`), then the audit log. Whoever needs the machine as well locks it first.

use ace_policies::session::State;
use ace_policies::{MachineId, SessionId, TenantId, UserId};
use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use crate::approvals;
use crate::error::ApiError;
use crate::record::{Event, Record, Topic};
use crate::wakeups::Wakeup;

/// A session as the table has it.
#[derive(Clone, Debug)]
pub(crate) struct SessionRow {
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    pub tenant: TenantId,
    /// Where it runs, or ran: the machine may be gone.
    pub machine: Option<MachineId>,
    pub machine_name: String,
    pub workspace_type: String,
    pub status: State,
    pub project_path: String,
    pub cli_tool: String,
    pub model: Option<String>,
    pub title: Option<String>,
    pub permission_mode: Option<String>,
    /// The CLI's name for the conversation.
    pub resume_id: Option<String>,
    /// Counted up with each start: what is said of another run changes nothing.
    pub run: i64,
    /// Whether the CLI works on something now.
    pub busy: bool,
    /// Why it is in `error`.
    pub error: Option<String>,
    /// The last command that failed, as JSON.
    pub problem: Option<String>,
    pub archived: bool,
    pub message_count: i64,
    /// The first line that is stored; 0 for none.
    pub first_seq: i64,
    /// The last line that was stored; 0 for none ever.
    pub last_seq: i64,
    /// Bytes of the lines that are stored.
    pub output_bytes: i64,
    pub approvals_version: i64,
    pub created_at: i64,
    pub updated_at: i64,
    pub paused_at: Option<i64>,
    pub ended_at: Option<i64>,
    /// Since when its agent is connected and has not said that it has it.
    pub unsure_since: Option<i64>,
}

impl SessionRow {
    /// Reads a row of `agent_sessions`.
    pub fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let machine: Option<String> = row.try_get("remote_machine_id")?;
        Ok(Self {
            id: parsed(&row.try_get::<String, _>("session_id")?)?,
            user: UserId(row.try_get("user_id")?),
            tenant: TenantId(row.try_get("tenant_id")?),
            machine: machine.map(|machine| parsed(&machine)).transpose()?,
            machine_name: row.try_get("machine_name")?,
            workspace_type: row.try_get("workspace_type")?,
            status: parsed(&row.try_get::<String, _>("status")?)?,
            project_path: row.try_get("project_path")?,
            cli_tool: row.try_get("cli_tool")?,
            model: row.try_get("model")?,
            title: row.try_get("title")?,
            permission_mode: row.try_get("permission_mode")?,
            resume_id: row.try_get("resume_id")?,
            run: row.try_get("run")?,
            busy: row.try_get::<i64, _>("busy")? != 0,
            error: row.try_get("error")?,
            problem: row.try_get("problem")?,
            archived: row.try_get::<i64, _>("archived")? != 0,
            message_count: row.try_get("message_count")?,
            first_seq: row.try_get("first_seq")?,
            last_seq: row.try_get("last_seq")?,
            output_bytes: row.try_get("output_bytes")?,
            approvals_version: row.try_get("approvals_version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            paused_at: row.try_get("paused_at")?,
            ended_at: row.try_get("ended_at")?,
            unsure_since: row.try_get("unsure_since")?,
        })
    }

    /// The machine it runs on. Errors: 409 where that is gone.
    pub fn machine(&self) -> Result<MachineId, ApiError> {
        self.machine.ok_or_else(|| {
            ApiError::conflict("not_resumable", "the machine of this session is gone").session_status(self.status)
        })
    }
}

fn parsed<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> Result<T, ApiError> {
    text.parse().map_err(ApiError::internal)
}

/// Reads a session and keeps others from changing it until the transaction ends. `None` where there is none.
pub(crate) async fn lock(record: &mut Record, id: SessionId) -> Result<Option<SessionRow>, ApiError> {
    let lock = "UPDATE agent_sessions SET updated_at = updated_at WHERE session_id = $1 RETURNING *";
    let row = sqlx::query(lock)
        .bind(id.to_string())
        .fetch_optional(record.sql())
        .await?;
    row.as_ref().map(SessionRow::read).transpose()
}

/// Puts a session into another state, with all that belongs to it: an end revokes its proxy tokens and takes back what its CLI asked;
/// whoever follows is told. `error` says why it is in [`State::Error`]. The row must be locked.
pub(crate) async fn set_state(
    record: &mut Record,
    row: &SessionRow,
    state: State,
    error: Option<&str>,
) -> Result<SessionRow, ApiError> {
    if state == row.status && error == row.error.as_deref() {
        return Ok(row.clone());
    }
    let ends = row.status.is_live() && !state.is_live();
    let now = record.app().now();
    let error = error.map(|error| bounded(error, MAX_SENTENCE));
    let changed = sqlx::query(
        "UPDATE agent_sessions SET status = $1, error = $2, updated_at = $3, paused_at = $4, ended_at = $5,
                busy = CASE WHEN $6 = 1 THEN busy ELSE 0 END, token_generation = token_generation + $7
         WHERE session_id = $8 RETURNING *",
    )
    .bind(state.as_str())
    .bind(&error)
    .bind(now)
    .bind((state == State::Paused).then(|| row.paused_at.unwrap_or(now)))
    .bind((!state.is_live()).then(|| row.ended_at.unwrap_or(now)))
    .bind(i64::from(state == State::Active))
    .bind(i64::from(ends))
    .bind(row.id.to_string())
    .fetch_one(record.sql())
    .await?;
    if ends {
        record.wake(Topic::Auth);
        approvals::cancel_pending(record, row).await?;
    }
    let data = json!({ "status": state, "before": row.status, "error": error });
    tell(record, row, "session.state", &data);
    SessionRow::read(&changed)
}

/// Tells those who follow the session, and those who follow all, of something.
pub(crate) fn tell(record: &mut Record, row: &SessionRow, kind: &'static str, data: &Value) {
    record.ring(Wakeup::Session(row.id));
    let event = Event {
        kind,
        tenant: row.tenant,
        user: Some(row.user),
        machine: row.machine,
        session: Some(row.id),
        data,
    };
    record.tell(event);
}

/// How long a sentence for people may be, in characters.
pub(super) const MAX_SENTENCE: usize = 2_000;

/// What is kept of an agent's words: no more than people read, and no character that a database refuses.
pub(crate) fn bounded(text: &str, max_chars: usize) -> String {
    text.chars().filter(|char| *char != '\0').take(max_chars).collect()
}

/// How many sessions run on a machine, or could at once. The machine must be locked, or the count may be stale when it is used.
pub(crate) async fn live_on(connection: &mut AnyConnection, machine: MachineId) -> Result<i64, ApiError> {
    let count = sqlx::query_scalar(
        "SELECT COUNT(*) FROM agent_sessions WHERE remote_machine_id = $1 AND status IN ('starting', 'active', 'paused')",
    );
    Ok(count.bind(machine.to_string()).fetch_one(connection).await?)
}
