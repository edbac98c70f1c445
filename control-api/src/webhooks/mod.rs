//! Webhooks: other systems that are told what happens, by signed requests. System admins set them up.

mod change;
mod create;
mod deliver;
mod deliveries;
mod queue;
mod send;
mod test;

use ace_policies::access::{Action, Standing};
use ace_policies::vault::{Sealed, webhook_aad};
use ace_policies::{Secret, TenantId};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::error::ApiError;
use crate::visitor::Visitor;
use crate::when::When;

pub(crate) use create::refused_url;
pub(crate) use deliver::run as deliver_all;
pub(crate) use queue::queue;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create::create))
        .routes(routes!(change::update, change::delete))
        .routes(routes!(deliveries::list))
        .routes(routes!(test::test))
}

/// The events that webhooks may be for. `*` stands for all, `session.*` for all that begin so.
const EVENTS: [&str; 10] = [
    "machine.online",
    "machine.offline",
    "machine.registered",
    "machine.deleted",
    "session.created",
    "session.state",
    "session.command_failed",
    "approval.requested",
    "approval.answered",
    "quota.threshold",
];

/// A webhook as people see it: everything but its secret.
#[derive(Clone, Serialize, ToSchema)]
struct Webhook {
    id: i64,
    tenant_id: i64,
    url: String,
    description: String,
    /// Such as `session.state`, `session.*` or `*`.
    events: Vec<String>,
    is_active: bool,
    /// Since when nothing has got through.
    failing_since: Option<When>,
    /// When it was switched off because nothing got through for too long.
    disabled_at: Option<When>,
    created_at: When,
    updated_at: When,
}

#[derive(Serialize, ToSchema)]
struct List {
    success: bool,
    webhooks: Vec<Webhook>,
}

/// One webhook.
#[derive(Serialize, ToSchema)]
struct One {
    success: bool,
    webhook: Webhook,
    /// What signs the requests, shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// Lists the webhooks. Their secrets are in no answer.
#[utoipa::path(get, path = "/api/webhooks", tag = "webhooks", responses((status = 200, body = List)))]
async fn list(State(app): State<App>, visitor: Visitor) -> Result<Json<List>, ApiError> {
    visitor.permit(&app, Action::WebhooksList, &Standing::default()).await?;
    let rows = sqlx::query("SELECT * FROM webhooks ORDER BY id")
        .fetch_all(&app.db().read)
        .await?;
    let webhooks = rows.iter().map(Webhook::read).collect::<Result<_, _>>()?;
    Ok(Json(List {
        success: true,
        webhooks,
    }))
}

impl Webhook {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let events: String = row.try_get("events")?;
        Ok(Self {
            id: row.try_get("id")?,
            tenant_id: row.try_get("tenant_id")?,
            url: row.try_get("url")?,
            description: row.try_get("description")?,
            events: serde_json::from_str(&events).map_err(ApiError::internal)?,
            is_active: row.try_get::<i64, _>("is_active")? != 0,
            failing_since: row.try_get::<Option<i64>, _>("failing_since")?.map(When),
            disabled_at: row.try_get::<Option<i64>, _>("disabled_at")?.map(When),
            created_at: When(row.try_get("created_at")?),
            updated_at: When(row.try_get("updated_at")?),
        })
    }

    /// Whether it is for an event.
    fn wants(&self, tenant: TenantId, kind: &str) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => kind.starts_with(start),
            None => kind == pattern,
        };
        self.is_active && self.tenant_id == tenant.0 && self.events.iter().any(matches)
    }
}

/// Reads a webhook for a change, and keeps others from changing it meanwhile.
async fn lock(connection: &mut AnyConnection, id: i64) -> Result<(Webhook, Sealed), ApiError> {
    let row = sqlx::query("UPDATE webhooks SET updated_at = updated_at WHERE id = $1 RETURNING *")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    let row = row.ok_or_else(|| ApiError::not_found("webhook"))?;
    Ok((Webhook::read(&row)?, sealed(&row)?))
}

fn sealed(row: &AnyRow) -> Result<Sealed, ApiError> {
    Ok(Sealed {
        key_id: row.try_get("key_id")?,
        bytes: row.try_get("sealed")?,
    })
}

/// Opens what signs a webhook's requests.
fn open(app: &App, id: i64, sealed: &Sealed) -> Result<Secret, ApiError> {
    app.vault().open(&webhook_aad(id), sealed).map_err(ApiError::internal)
}

#[cfg(test)]
pub(crate) mod tests;
