//! A session as people see it.

use ace_policies::SessionId;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::store::SessionRow;
use super::totals::{Totals, totals};
use crate::App;
use crate::error::ApiError;
use crate::output::Line;
use crate::when::When;

/// A session.
#[derive(Serialize, ToSchema)]
pub(crate) struct Session {
    #[schema(value_type = String)]
    session_id: SessionId,
    /// `starting`, `active`, `paused`, `stopped`, `completed` or `error`.
    #[schema(value_type = String)]
    status: ace_policies::session::State,
    /// Whether the CLI works on something now.
    busy: bool,
    /// Why it is in `error`.
    error: Option<String>,
    /// The last command that could not be applied, until the next message: `command_id`, `code`, `message`.
    #[schema(value_type = Option<Object>)]
    problem: Option<Value>,
    #[schema(value_type = Option<String>)]
    machine_id: Option<ace_policies::MachineId>,
    machine_name: String,
    /// `remote`, or `local` for an agent on the gateway's own host.
    workspace_type: String,
    project_path: String,
    cli_tool: String,
    model: Option<String>,
    permission_mode: Option<String>,
    title: Option<String>,
    archived: bool,
    /// The name of whose it is.
    owner: String,
    user_id: i64,
    tenant_id: i64,
    #[serde(flatten)]
    totals: Totals,
    /// Messages of people and of the CLI.
    message_count: i64,
    /// Counts the starts of its CLI.
    run: i64,
    /// The number of the last line of output; 0 for none.
    last_seq: i64,
    created_at: When,
    updated_at: When,
    paused_at: Option<When>,
    ended_at: Option<When>,
    /// What its CLI printed. Not in lists.
    #[serde(flatten)]
    output: Option<Output>,
}

/// A part of a session's output.
#[derive(Serialize, ToSchema)]
pub(crate) struct Output {
    /// In the order of their numbers.
    pub output: Vec<Line>,
    /// Whether there are stored lines before these.
    pub output_truncated: bool,
    /// Whether there are stored lines after these.
    pub output_more: bool,
    /// The number of the first line that is stored; 0 for none. Earlier ones are forgotten.
    pub first_seq: i64,
}

impl Session {
    /// Puts together what is known of a session.
    pub fn new(row: SessionRow, owner: String, totals: Totals, output: Option<Output>) -> Self {
        Self {
            session_id: row.id,
            status: row.status,
            busy: row.busy,
            error: row.error,
            problem: row.problem.and_then(|problem| serde_json::from_str(&problem).ok()),
            machine_id: row.machine,
            machine_name: row.machine_name,
            workspace_type: row.workspace_type,
            project_path: row.project_path,
            cli_tool: row.cli_tool,
            model: row.model,
            permission_mode: row.permission_mode,
            title: row.title,
            archived: row.archived,
            owner,
            user_id: row.user.0,
            tenant_id: row.tenant.0,
            totals,
            message_count: row.message_count,
            run: row.run,
            last_seq: row.last_seq,
            created_at: When(row.created_at),
            updated_at: When(row.updated_at),
            paused_at: row.paused_at.map(When),
            ended_at: row.ended_at.map(When),
            output,
        }
    }

    /// Looks up what the session has used.
    pub async fn with_totals(
        app: &App,
        row: SessionRow,
        owner: String,
        output: Option<Output>,
    ) -> Result<Self, ApiError> {
        let totals = totals(app, &[row.id]).await?.remove(&row.id).unwrap_or_default();
        Ok(Self::new(row, owner, totals, output))
    }
}

/// One session.
#[derive(Serialize, ToSchema)]
pub(crate) struct One {
    pub success: bool,
    pub session: Session,
}

impl One {
    pub const fn new(session: Session) -> axum::Json<Self> {
        axum::Json(Self { success: true, session })
    }
}
