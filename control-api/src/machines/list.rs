//! GET /api/remote/machines, /available, /{id}.

use ace_policies::access::{Action, Role, Standing};
use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Machine, MachineAt, One, columns, permission, presence, tables};
use crate::App;
use crate::body::Params;
use crate::error::ApiError;
use crate::page::{self, Filter, Value};
use crate::visitor::Visitor;

const ALL: &str = concat!("SELECT ", columns!(), ", 'admin' AS permission FROM ", tables!());

const ASSIGNED: &str = concat!(
    "SELECT ",
    columns!(),
    ", machine_assignments.permission FROM ",
    tables!(),
    " JOIN machine_assignments ON machine_assignments.machine_id = remote_machines.machine_id"
);

const ORDER: &str = "remote_machines.machine_name, remote_machines.machine_id";

/// Which machines are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// `online` or `offline`.
    #[param(value_type = Option<String>)]
    status: Option<Status>,
    /// For system admins; others have only their own.
    tenant_id: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
    limit: Option<i64>,
}

/// Which of the available machines are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Pages {
    /// The `next` of the page before.
    after: Option<String>,
    limit: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Online,
    Offline,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Page {
    success: bool,
    machines: Vec<Machine>,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Lists machines by name: for system admins all, for others those they are assigned to.
#[utoipa::path(get, path = "/api/remote/machines", tag = "machines", params(Query),
    responses((status = 200, body = Page)))]
pub(super) async fn list(
    State(app): State<App>,
    visitor: Visitor,
    Params(query): Params<Query>,
) -> Result<Json<Page>, ApiError> {
    page(&app, &visitor, &query).await.map(Json)
}

/// Lists the machines on which the caller can start a session now: those of the list that are online.
#[utoipa::path(get, path = "/api/remote/machines/available", tag = "machines", params(Pages),
    responses((status = 200, body = Page)))]
pub(super) async fn available(
    State(app): State<App>,
    visitor: Visitor,
    Params(Pages { after, limit }): Params<Pages>,
) -> Result<Json<Page>, ApiError> {
    let query = Query {
        status: Some(Status::Online),
        tenant_id: None,
        after,
        limit,
    };
    page(&app, &visitor, &query).await.map(Json)
}

/// Shows one machine.
#[utoipa::path(get, path = "/api/remote/machines/{id}", tag = "machines",
    params(("id" = String, Path, description = "The machine's id, a UUID.")),
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn read(
    State(app): State<App>,
    visitor: Visitor,
    MachineAt(id): MachineAt,
) -> Result<Json<One>, ApiError> {
    let standing = super::standing(&app, &visitor, id).await?;
    visitor.permit(&app, Action::MachinesRead, &standing).await?;
    let mut connection = app.db().read.acquire().await?;
    let machine = super::by_id(&mut connection, id, app.now()).await?;
    Ok(Json(One {
        success: true,
        machine: machine.seen_by(&visitor, standing.machine),
    }))
}

async fn page(app: &App, visitor: &Visitor, query: &Query) -> Result<Page, ApiError> {
    visitor.permit(app, Action::MachinesList, &Standing::default()).await?;
    let (select, filter) = wanted(visitor, query, app.now())?;
    let limit = page::limit(query.limit)?;
    let found = filter.page(&app.db().read, select, ORDER, limit).await?;
    let machines = found
        .rows
        .iter()
        .map(|row| {
            Ok(Machine::read(row, app.now())?.seen_by(visitor, permission(sqlx::Row::try_get(row, "permission")?)?))
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
    let next = machines.last().filter(|_| found.more).map(Place::of);
    Ok(Page {
        success: true,
        next: next.as_ref().map(Place::to_text).transpose()?,
        machines,
    })
}

/// The rows that the caller may see, of those the ones that are asked for.
fn wanted(visitor: &Visitor, query: &Query, now: i64) -> Result<(&'static str, Filter), ApiError> {
    let (actor, mut filter) = (&visitor.actor, Filter::default());
    let select = match actor.role {
        Role::Admin => ALL,
        Role::User => {
            filter.and("machine_assignments.user_id =", actor.user.0);
            filter.and("remote_machines.tenant_id =", actor.tenant.0);
            ASSIGNED
        }
    };
    filter.and_if("remote_machines.tenant_id =", query.tenant_id);
    let seen_since = presence::seen_since(now);
    let (online, offline) = (
        query.status == Some(Status::Online),
        query.status == Some(Status::Offline),
    );
    filter
        .and_if("agent_connections.seen_at >", online.then_some(seen_since))
        .and_if(
            "COALESCE(agent_connections.seen_at, 0) <=",
            offline.then_some(seen_since),
        );
    if let Some(after) = &query.after {
        let Place(name, id) = Place::read(after)?;
        let columns = &["remote_machines.machine_name", "remote_machines.machine_id"];
        filter.above(columns, vec![Value::Text(name), Value::Text(id)]);
    }
    Ok((select, filter))
}

/// Where a page ended: name and id of its last machine. Opaque to clients.
#[derive(Serialize, Deserialize)]
struct Place(String, String);

impl Place {
    fn of(machine: &Machine) -> Self {
        Self(machine.machine_name.clone(), machine.machine_id.clone())
    }

    fn to_text(&self) -> Result<String, ApiError> {
        let json = serde_json::to_vec(self).map_err(ApiError::internal)?;
        Ok(URL_SAFE_NO_PAD.encode(json))
    }

    fn read(text: &str) -> Result<Self, ApiError> {
        let json = URL_SAFE_NO_PAD.decode(text).ok();
        let place = json.and_then(|json| serde_json::from_slice(&json).ok());
        place
            .filter(|Self(name, id)| !name.contains('\0') && !id.contains('\0'))
            .ok_or_else(|| ApiError::field("after", "must be the `next` of the page before"))
    }
}
