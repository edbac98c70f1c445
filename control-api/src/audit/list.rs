//! GET /api/audit.

use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use axum::http::header;
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
use crate::visitor::Visitor;
use crate::when::When;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

const SELECT: &str = "SELECT id, at, actor_user_id, actor_name, tenant_id, action, target, before, after, ip, \
                      request_id, result FROM audit_log";

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
    /// `json` (the default) or `csv`.
    #[serde(default)]
    format: Format,
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Csv,
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
async fn list(State(app): State<App>, visitor: Visitor, Params(query): Params<Query>) -> Result<Response, ApiError> {
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
        Format::Csv => Ok(csv(&entries)),
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

/// One page as a table. The entries' own texts are all in it, so a sheet needs no second question.
fn csv(entries: &[Listed]) -> Response {
    let mut table =
        "id,at,actor_user_id,actor,tenant_id,action,target,before,after,ip,request_id,result\r\n".to_owned();
    for entry in entries {
        let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
        let json = |json: &Option<Box<RawValue>>| json.as_ref().map_or(String::new(), |json| json.get().to_owned());
        let at = serde_json::to_string(&entry.at).unwrap_or_default();
        let cells = [
            entry.id.to_string(),
            at.trim_matches('"').to_owned(),
            number(entry.actor_user_id),
            entry.actor.clone(),
            number(entry.tenant_id),
            entry.action.clone(),
            entry.target.clone(),
            json(&entry.before),
            json(&entry.after),
            entry.ip.clone(),
            entry.request_id.clone(),
            entry.result.clone(),
        ];
        table.push_str(&cells.map(|cell| quoted(&cell)).join(","));
        table.push_str("\r\n");
    }
    ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], table).into_response()
}

/// Quotes a cell, and keeps a sheet from taking it for a formula.
fn quoted(cell: &str) -> String {
    let guard = if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        "'"
    } else {
        ""
    };
    format!("\"{guard}{}\"", cell.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_takes_no_cell_for_a_formula() {
        assert_eq!(quoted("plain"), "\"plain\"");
        assert_eq!(quoted("say \"hi\""), "\"say \"\"hi\"\"\"");
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"] {
            assert_eq!(quoted(formula), format!("\"'{formula}\""));
        }
    }
}
