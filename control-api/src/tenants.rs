//! Tenants: nothing crosses from one to another, but for system admins.

use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::{At, Body, Params};
use crate::error::{ApiError, OnConstraint};
use crate::page::{self, Cursor, Filter};
use crate::visitor::Visitor;
use crate::when::When;
use crate::write::Write;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(rename))
}

/// A tenant: users, machines, keys and sessions that belong together.
#[derive(Serialize, ToSchema)]
struct Tenant {
    id: i64,
    name: String,
    created_at: When,
}

/// What a tenant is called.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// 1 to 100 characters; no two tenants share one.
    name: String,
}

/// One tenant.
#[derive(Serialize, ToSchema)]
struct One {
    success: bool,
    tenant: Tenant,
}

/// Which tenants are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Query {
    /// The `next` of the page before.
    after: Option<Cursor>,
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
struct Page {
    success: bool,
    tenants: Vec<Tenant>,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}

/// Lists tenants, the newest first.
#[utoipa::path(get, path = "/api/tenants", tag = "tenants", params(Query), responses((status = 200, body = Page)))]
async fn list(State(app): State<App>, visitor: Visitor, Params(query): Params<Query>) -> Result<Json<Page>, ApiError> {
    visitor.permit(&app, Action::TenantsList, &Standing::default()).await?;
    let mut filter = Filter::default();
    filter.below("(created_at, id)", query.after);
    let limit = page::limit(query.limit)?;
    let found = filter
        .page(
            &app.db().read,
            "SELECT * FROM tenants",
            "created_at DESC, id DESC",
            limit,
        )
        .await?;
    let tenants = found.rows.iter().map(Tenant::read).collect::<Result<Vec<_>, _>>()?;
    let next = tenants.last().filter(|_| found.more).map(|last| Cursor {
        key: last.created_at.0,
        id: last.id,
    });
    Ok(Json(Page {
        success: true,
        tenants,
        next,
    }))
}

/// Makes a tenant.
#[utoipa::path(post, path = "/api/tenants", tag = "tenants", request_body = Wish,
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody),
              (status = 409, body = crate::error::ErrorBody)))]
async fn create(State(app): State<App>, visitor: Visitor, Body(wish): Body<Wish>) -> Result<Json<One>, ApiError> {
    let permit = visitor
        .permit(&app, Action::TenantsCreate, &Standing::default())
        .await?;
    let name = judge(&wish.name)?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let row = sqlx::query("INSERT INTO tenants (name, created_at) VALUES ($1, $2) RETURNING *")
        .bind(name)
        .bind(app.now())
        .fetch_one(write.sql())
        .await
        .on_duplicate(taken)?;
    let tenant = Tenant::read(&row)?;
    write.target(format_args!("tenant:{}", tenant.id)).after(&tenant)?;
    write.commit().await?;
    Ok(Json(One { success: true, tenant }))
}

/// Renames a tenant.
#[utoipa::path(patch, path = "/api/tenants/{id}", tag = "tenants", params(("id" = i64, Path)), request_body = Wish,
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody), (status = 409, body = crate::error::ErrorBody)))]
async fn rename(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<i64>,
    Body(wish): Body<Wish>,
) -> Result<Json<One>, ApiError> {
    let permit = visitor
        .permit(&app, Action::TenantsUpdate, &Standing::default())
        .await?;
    let name = judge(&wish.name)?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let before = lock(&mut write, id).await?;
    let row = sqlx::query("UPDATE tenants SET name = $1 WHERE id = $2 RETURNING *")
        .bind(name)
        .bind(id)
        .fetch_one(write.sql())
        .await
        .on_duplicate(taken)?;
    let tenant = Tenant::read(&row)?;
    write
        .target(format_args!("tenant:{id}"))
        .before(&before)?
        .after(&tenant)?;
    write.commit().await?;
    Ok(Json(One { success: true, tenant }))
}

async fn lock(write: &mut Write, id: i64) -> Result<Tenant, ApiError> {
    let row = sqlx::query("UPDATE tenants SET name = name WHERE id = $1 RETURNING *").bind(id);
    let row = row.fetch_optional(write.sql()).await?;
    Ok(Tenant::read(&row.ok_or_else(|| ApiError::not_found("tenant"))?)?)
}

impl Tenant {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            created_at: When(row.try_get("created_at")?),
        })
    }
}

fn judge(name: &str) -> Result<&str, ApiError> {
    let name = name.trim();
    if (1..=100).contains(&name.chars().count()) && !name.chars().any(char::is_control) {
        return Ok(name);
    }
    Err(ApiError::field(
        "name",
        "1 to 100 characters are needed, none of them a control character",
    ))
}

fn taken() -> ApiError {
    ApiError::conflict("tenant_name_taken", "there is a tenant of this name already")
}

#[cfg(test)]
mod tests;
