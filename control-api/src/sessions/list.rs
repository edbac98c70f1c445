//! GET /api/remote/sessions and GET /api/remote/machines/{id}/sessions.

use std::fmt;

use ace_policies::access::{Action, Role, Standing};
use ace_policies::session::State as SessionState;
use ace_policies::{MachineId, SessionId};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sqlx::{AssertSqlSafe, Row};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};
use uuid::Uuid;

use super::store::SessionRow;
use super::totals::totals;
use super::view::Session;
use crate::App;
use crate::body::Params;
use crate::error::ApiError;
use crate::machines::{self, MachineAt};
use crate::page::{self, Filter, Value};
use crate::visitor::Visitor;

/// Which sessions are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// A state such as `active`, or `live` for those that run, or `ended`.
    status: Option<String>,
    /// The machine they run on.
    machine_id: Option<String>,
    /// A part of the title, the project path or the id, in whatever case.
    q: Option<String>,
    /// `false` (the default), `true` for archived ones only, or `any`.
    archived: Option<String>,
    /// The `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<Cursor>,
    /// At most 500; 50 when left out.
    limit: Option<i64>,
}

/// Which sessions of a machine are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OnMachine {
    /// A state such as `active`, or `live` for those that run, or `ended`.
    status: Option<String>,
    /// The `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<Cursor>,
    /// At most 500; 50 when left out.
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Page {
    success: bool,
    sessions: Vec<Session>,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}

/// Lists sessions, the newest first: one's own and those on the machines one is admin of; for a system admin all.
#[utoipa::path(get, path = "/api/remote/sessions", tag = "sessions", params(Query),
    responses((status = 200, body = Page), (status = 400, body = crate::error::ErrorBody)))]
pub(super) async fn list(
    State(app): State<App>,
    visitor: Visitor,
    Params(query): Params<Query>,
) -> Result<Json<Page>, ApiError> {
    visitor.permit(&app, Action::SessionsList, &Standing::default()).await?;
    let machine = query.machine_id.as_deref().map(str::parse::<MachineId>).transpose();
    let machine = machine.map_err(|_| ApiError::field("machine_id", "must be a UUID"))?;
    let mut filter = Filter::default();
    let machine = machine.map(|machine| machine.to_string());
    filter.and_if("agent_sessions.remote_machine_id =", machine.as_deref());
    with_status(&mut filter, query.status.as_deref())?;
    with_archived(&mut filter, query.archived.as_deref())?;
    if let Some(text) = query.q.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
        filter.holds(SEARCHED, text);
    }
    with_cursor(&mut filter, query.after);
    let limit = page::limit(query.limit)?;
    let sql = match visitor.actor.role {
        Role::Admin => all(&filter, limit),
        Role::User => theirs(&app, &mut filter, &visitor, limit).await?,
    };
    page(&app, &filter, sql, limit).await
}

/// Lists the sessions on a machine, the newest first.
#[utoipa::path(get, path = "/api/remote/machines/{id}/sessions", tag = "machines",
    params(("id" = String, Path), OnMachine),
    responses((status = 200, body = Page), (status = 400, body = crate::error::ErrorBody),
              (status = 403, body = crate::error::ErrorBody), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn on_machine(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(id): MachineAt,
    Params(query): Params<OnMachine>,
) -> Result<Json<Page>, ApiError> {
    let standing = machines::standing(&app, &visitor, id).await?;
    visitor.permit(&app, Action::MachinesListSessions, &standing).await?;
    if standing.tenant.is_none() {
        return Err(machines::absent());
    }
    let id = id.to_string();
    let mut filter = Filter::default();
    filter.and("agent_sessions.remote_machine_id =", id.as_str());
    with_status(&mut filter, query.status.as_deref())?;
    with_cursor(&mut filter, query.after);
    let limit = page::limit(query.limit)?;
    page(&app, &filter, all(&filter, limit), limit).await
}

const SEARCHED: &str =
    "(COALESCE(agent_sessions.title, '') || ' ' || agent_sessions.project_path || ' ' || agent_sessions.session_id)";

pub(super) fn with_status(filter: &mut Filter, status: Option<&str>) -> Result<(), ApiError> {
    match status {
        None => {}
        Some("live") => drop(filter.also("agent_sessions.status IN ('starting', 'active', 'paused')")),
        Some("ended") => drop(filter.also("agent_sessions.status IN ('stopped', 'completed', 'error')")),
        Some(name) => {
            let state: SessionState = name
                .parse()
                .map_err(|error| ApiError::field("status", format_args!("{error}; or live, ended")))?;
            filter.and("agent_sessions.status =", state.as_str());
        }
    }
    Ok(())
}

pub(super) fn with_archived(filter: &mut Filter, archived: Option<&str>) -> Result<(), ApiError> {
    match archived {
        None | Some("false") => filter.also("agent_sessions.archived = 0"),
        Some("true") => filter.also("agent_sessions.archived = 1"),
        Some("any") => filter,
        Some(_) => return Err(ApiError::field("archived", "must be false, true or any")),
    };
    Ok(())
}

fn with_cursor(filter: &mut Filter, cursor: Option<Cursor>) {
    let Some(Cursor { created_at, id }) = cursor else {
        return;
    };
    let columns = ["agent_sessions.created_at", "agent_sessions.session_id"];
    filter.below_row(&columns, vec![Value::Number(created_at), Value::Text(id.to_string())]);
}

const ROWS: &str = "SELECT agent_sessions.*, users.username AS owner FROM agent_sessions JOIN users ON users.id = agent_sessions.user_id";
const ORDER: &str = "ORDER BY agent_sessions.created_at DESC, agent_sessions.session_id DESC";

fn all(filter: &Filter, limit: i64) -> String {
    format!("{ROWS} {} {ORDER} LIMIT {}", filter.clauses(), limit + 1)
}

/// One's own, and those on the machines one is admin of: each machine's from its part of an index that has them in order. One test
/// with OR would have them all sorted for every page.
async fn theirs(app: &App, filter: &mut Filter, visitor: &Visitor, limit: i64) -> Result<String, ApiError> {
    filter.and("agent_sessions.tenant_id =", visitor.actor.tenant.0);
    let user = filter.bind(visitor.actor.user.0);
    let mut parts = vec![format!("agent_sessions.user_id = ${user}")];
    let machines = managed(app, visitor).await?;
    if machines.len() > MAX_PARTS {
        parts.push(format!(
            "agent_sessions.remote_machine_id IN (SELECT machine_id FROM {MANAGED} ${user})"
        ));
    } else {
        let test = |machine: &String| {
            let place = filter.bind(machine.as_str());
            format!("agent_sessions.remote_machine_id = ${place}")
        };
        parts.extend(machines.iter().map(test));
    }
    let (clauses, end) = (filter.clauses(), format!("{ORDER} LIMIT {}", limit + 1));
    let ids = parts.iter().enumerate().map(|(number, test)| {
        let ids = format!("SELECT agent_sessions.session_id FROM agent_sessions {clauses} AND {test} {end}");
        format!("SELECT session_id FROM ({ids}) AS part_{number}")
    });
    let ids = ids.collect::<Vec<_>>().join(" UNION ");
    Ok(format!("{ROWS} WHERE agent_sessions.session_id IN ({ids}) {end}"))
}

/// Of more machines than this the sessions are looked for in one go.
const MAX_PARTS: usize = 64;

const MANAGED: &str = "machine_assignments WHERE permission = 'admin' AND user_id =";

/// The machines that the visitor is admin of.
async fn managed(app: &App, visitor: &Visitor) -> Result<Vec<String>, ApiError> {
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT machine_id FROM {MANAGED} $1 LIMIT {}",
        MAX_PARTS + 1
    )))
    .bind(visitor.actor.user.0)
    .fetch_all(&app.db().read)
    .await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

async fn page(app: &App, filter: &Filter, sql: String, limit: i64) -> Result<Json<Page>, ApiError> {
    let found = filter.rows(&app.db().read, sql, limit).await?;
    let rows = found
        .rows
        .iter()
        .map(|row| Ok((SessionRow::read(row)?, row.try_get("owner")?)));
    let rows = rows.collect::<Result<Vec<(SessionRow, String)>, ApiError>>()?;
    let next = rows.last().filter(|_| found.more).map(|(last, _)| Cursor {
        created_at: last.created_at,
        id: last.id,
    });
    let ids: Vec<SessionId> = rows.iter().map(|(row, _)| row.id).collect();
    let mut totals = totals(app, &ids).await?;
    let sessions = rows.into_iter().map(|(row, owner)| {
        let totals = totals.remove(&row.id).unwrap_or_default();
        Session::new(row, owner, totals, None)
    });
    Ok(Json(Page {
        success: true,
        sessions: sessions.collect(),
        next,
    }))
}

/// Where a page ended. Opaque to clients.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    created_at: i64,
    id: SessionId,
}

impl PartialSchema for Cursor {
    fn schema() -> RefOr<Schema> {
        String::schema()
    }
}

impl ToSchema for Cursor {}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.created_at, self.id)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = text.split_once('.').and_then(|(created_at, id)| {
            let id = SessionId(id.parse::<Uuid>().ok()?);
            Some(Self {
                created_at: created_at.parse().ok()?,
                id,
            })
        });
        parsed.ok_or_else(|| D::Error::custom("expected the `next` of the page before"))
    }
}
