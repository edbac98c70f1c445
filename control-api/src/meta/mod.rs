//! What runs here, and how its parts are.

mod nodes;

use std::time::Instant;

use ace_migrations::check;
use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sqlx::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::error::ApiError;
use crate::visitor::Visitor;
use crate::when::When;
use nodes::Parts;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(meta)).routes(routes!(status))
}

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize, ToSchema)]
struct Meta {
    #[schema(value_type = String)]
    name: &'static str,
    #[schema(value_type = String)]
    version: &'static str,
    /// The document that describes this API.
    #[schema(value_type = String)]
    openapi: &'static str,
}

#[derive(Serialize, ToSchema)]
struct Status {
    success: bool,
    #[schema(value_type = String)]
    version: &'static str,
    time: When,
    database: Database,
    /// The public name of the master key that seals now.
    master_key_id: String,
    /// Secrets that are still sealed with an older master key: `ace-control rewrap` moves them.
    sealed_with_older_keys: i64,
    signing_keys: i64,
    provider_keys: ProviderKeys,
    users: i64,
    #[serde(flatten)]
    parts: Parts,
}

#[derive(Serialize, ToSchema)]
struct Database {
    /// `sqlite` or `postgres`.
    #[schema(value_type = String)]
    engine: &'static str,
    latency_ms: u64,
    /// Migrations that this version would still run.
    pending_migrations: usize,
}

#[derive(Serialize, ToSchema)]
struct ProviderKeys {
    active: i64,
    total: i64,
}

/// Tells the version. Anybody may ask.
#[utoipa::path(get, path = "/api/meta", tag = "meta", security(()), responses((status = 200, body = Meta)))]
async fn meta() -> Json<Meta> {
    Json(Meta {
        name: "ACE Gateway",
        version: VERSION,
        openapi: "/api/openapi.json",
    })
}

/// Tells how all parts are: database, keys, gateways, control nodes, machines, and what waits.
#[utoipa::path(get, path = "/api/status", tag = "meta", responses((status = 200, body = Status)))]
async fn status(State(app): State<App>, visitor: Visitor) -> Result<Json<Status>, ApiError> {
    visitor.permit(&app, Action::StatusRead, &Standing::default()).await?;
    let start = Instant::now();
    let row = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM users WHERE is_active = 1) AS users,
                (SELECT COUNT(*) FROM api_key_store) AS keys,
                (SELECT COUNT(*) FROM api_key_store WHERE is_active = 1) AS active_keys,
                (SELECT COUNT(*) FROM signing_keys WHERE retired_at IS NULL OR retired_at > $1) AS signing_keys,
                (SELECT COUNT(*) FROM api_key_store WHERE key_id <> $2)
                    + (SELECT COUNT(*) FROM signing_keys WHERE key_id <> $2)
                    + (SELECT COUNT(*) FROM webhooks WHERE key_id <> $2)
                    + (SELECT COUNT(*) FROM vapid_keys WHERE key_id <> $2) AS older",
    )
    .bind(app.now())
    .bind(app.vault().key_id())
    .fetch_one(&app.db().read)
    .await?;
    let latency_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let pending_migrations = check(app.db()).await.map_err(ApiError::internal)?.0.len();
    Ok(Json(Status {
        success: true,
        version: VERSION,
        time: When(app.now()),
        database: Database {
            engine: app.db().engine.as_str(),
            latency_ms,
            pending_migrations,
        },
        master_key_id: app.vault().key_id().to_owned(),
        sealed_with_older_keys: row.try_get("older")?,
        signing_keys: row.try_get("signing_keys")?,
        provider_keys: ProviderKeys {
            active: row.try_get("active_keys")?,
            total: row.try_get("keys")?,
        },
        users: row.try_get("users")?,
        parts: Parts::read(&app).await?,
    }))
}

#[cfg(test)]
mod tests;
