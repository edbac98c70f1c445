//! GET /api/audit.

use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::Params;
use crate::error::ApiError;
use crate::page::{self, Cursor, Filter};
use crate::sheet::{self, Format};
use crate::visitor::Visitor;
use crate::when::When;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

const SELECT: &str = "SELECT id, at, actor_user_id, actor_name, tenant_id, action, target, before, after, ip, \
                      request_id, result FROM audit_log";

/// The fields of an entry, in the order of a table's columns.
const COLUMNS: [&str; 12] = [
    "id",
    "at",
    "actor_user_id",
    "actor",
    "tenant_id",
    "action",
    "target",
    "before",
    "after",
    "ip",
    "request_id",
    "result",
];

/// What of the audit log is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Query {
    actor_user_id: Option<i64>,
    /// Such as `api_keys.create`.
    action: Option<String>,
    target: Option<String>,
    /// `ok`, `denied` or `failed`.
    result: Option<String>,
    from: Option<When>,
    to: Option<When>,
    /// The `next` of the page before.
    after: Option<Cursor>,
    limit: Option<i64>,
    /// `json` (the default) or `csv`. The header `link` of a CSV names its next page.
    #[serde(default)]
    format: Format,
}

#[derive(Serialize, ToSchema)]
struct Page {
    entries: Vec<Listed>,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}

#[derive(Serialize, ToSchema)]
struct Listed {
    id: i64,
    at: When,
    actor_user_id: Option<i64>,
    actor: String,
    tenant_id: Option<i64>,
    action: String,
    target: String,
    #[schema(value_type = Option<Object>)]
    before: Option<Box<RawValue>>,
    #[schema(value_type = Option<Object>)]
    after: Option<Box<RawValue>>,
    ip: String,
    request_id: String,
    result: String,
}

/// Lists what people and programs did, newest first.
#[utoipa::path(get, path = "/api/audit", tag = "audit", params(Query), responses((status = 200, body = Page)))]
async fn list(
    State(app): State<App>,
    visitor: Visitor,
    OriginalUri(uri): OriginalUri,
    Params(query): Params<Query>,
) -> Result<Response, ApiError> {
    visitor.permit(&app, Action::AuditRead, &Standing::default()).await?;
    let mut filter = Filter::default();
    filter
        .and_if("actor_user_id =", query.actor_user_id)
        .and_if("action =", query.action.as_deref())
        .and_if("target =", query.target.as_deref())
        .and_if("result =", query.result.as_deref())
        .and_if("at >=", query.from.map(|from| from.0))
        .and_if("at <", query.to.map(|to| to.0))
        .below("(at, id)", query.after);
    let found = filter
        .page(&app.db().read, SELECT, "at DESC, id DESC", page::limit(query.limit)?)
        .await?;
    let entries = found
        .rows
        .iter()
        .map(Listed::read)
        .collect::<Result<Vec<_>, ApiError>>()?;
    let next = entries.last().filter(|_| found.more).map(|last| Cursor {
        key: last.at.0,
        id: last.id,
    });
    match query.format {
        Format::Json => Ok(Json(Page { entries, next }).into_response()),
        Format::Csv => {
            let next = next.map(|next| sheet::next_page(&uri, &next.to_string()));
            sheet::answer("audit", &COLUMNS, &entries, next)
        }
    }
}

impl Listed {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let json = |column| -> Result<Option<Box<RawValue>>, ApiError> {
            let text: Option<String> = row.try_get(column)?;
            text.map(RawValue::from_string).transpose().map_err(ApiError::internal)
        };
        Ok(Self {
            id: row.try_get("id")?,
            at: When(row.try_get("at")?),
            actor_user_id: row.try_get("actor_user_id")?,
            actor: row.try_get("actor_name")?,
            tenant_id: row.try_get("tenant_id")?,
            action: row.try_get("action")?,
            target: row.try_get("target")?,
            before: json("before")?,
            after: json("after")?,
            ip: row.try_get("ip")?,
            request_id: row.try_get("request_id")?,
            result: row.try_get("result")?,
        })
    }
}
