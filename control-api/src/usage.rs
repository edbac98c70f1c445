//! The request log: what went through the gateway. Read here, written by the gateway alone.

use ace_policies::UserId;
use ace_policies::access::{Action, Role, Standing};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
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
    OpenApiRouter::new().routes(routes!(requests))
}

/// Which requests are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Query {
    /// Left out: an admin sees all, others their own.
    user_id: Option<i64>,
    session_id: Option<String>,
    provider: Option<String>,
    /// The model that served.
    model: Option<String>,
    tool: Option<String>,
    /// An HTTP status such as `429`, or a class such as `4xx`.
    status: Option<String>,
    from: Option<When>,
    to: Option<When>,
    /// The `next` of the page before.
    after: Option<Cursor>,
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
struct Page {
    success: bool,
    requests: Vec<Request>,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}

/// One request. No bodies.
#[derive(Serialize, ToSchema)]
struct Request {
    id: i64,
    request_id: String,
    started_at: When,
    tenant_id: i64,
    user_id: i64,
    username: Option<String>,
    session_id: Option<String>,
    machine_id: Option<String>,
    tool: String,
    provider: String,
    api_key_id: Option<i64>,
    method: String,
    path: String,
    model_asked: Option<String>,
    model_served: Option<String>,
    status: i64,
    error_kind: Option<String>,
    #[serde(flatten)]
    tokens: Tokens,
    /// Where the token counts come from: `provider`, `partial`, `estimated` or `none`.
    usage_source: String,
    streamed: bool,
    ttfb_ms: Option<i64>,
    duration_ms: i64,
    bytes_in: i64,
    bytes_out: i64,
    upstream_request_id: Option<String>,
    gateway_id: String,
}

/// Tokens by class. The input classes are disjoint; reasoning is a part of output, audio of input and output.
#[derive(Serialize, ToSchema)]
struct Tokens {
    input_tokens: i64,
    cache_read_tokens: i64,
    cache_write_5m_tokens: i64,
    cache_write_1h_tokens: i64,
    output_tokens: i64,
    reasoning_tokens: i64,
    audio_input_tokens: i64,
    audio_output_tokens: i64,
    total_tokens: i64,
}

const SELECT: &str = "SELECT request_ledger.*, users.username FROM request_ledger
                      LEFT JOIN users ON users.id = request_ledger.user_id";

/// Lists requests, newest first.
#[utoipa::path(get, path = "/api/usage/requests", tag = "usage", params(Query), responses((status = 200, body = Page)))]
async fn requests(
    State(app): State<App>,
    visitor: Visitor,
    Params(query): Params<Query>,
) -> Result<Json<Page>, ApiError> {
    let all = visitor.actor.role == Role::Admin && query.user_id.is_none();
    let owner = query.user_id.map_or(visitor.actor.user, UserId);
    visitor
        .permit(
            &app,
            Action::RequestsRead,
            &Standing {
                owner: Some(owner),
                ..Standing::default()
            },
        )
        .await?;
    let mut filter = Filter::default();
    let (lowest, highest) = query.status.as_deref().map(statuses).transpose()?.unzip();
    filter
        .and_if("request_ledger.user_id =", (!all).then_some(owner.0))
        .and_if("session_id =", query.session_id.as_deref())
        .and_if("provider =", query.provider.as_deref())
        .and_if("model_served =", query.model.as_deref())
        .and_if("tool =", query.tool.as_deref())
        .and_if("status >=", lowest)
        .and_if("status <=", highest)
        .and_if("started_at >=", query.from.map(|from| from.0))
        .and_if("started_at <", query.to.map(|to| to.0))
        .below("(started_at, request_ledger.id)", query.after);
    let order = "started_at DESC, request_ledger.id DESC";
    let found = filter
        .page(&app.db().read, SELECT, order, page::limit(query.limit)?)
        .await?;
    let requests = found.rows.iter().map(Request::read).collect::<Result<Vec<_>, _>>()?;
    let next = requests.last().filter(|_| found.more).map(|last| Cursor {
        key: last.started_at.0,
        id: last.id,
    });
    Ok(Json(Page {
        success: true,
        requests,
        next,
    }))
}

/// The range of statuses that `429` or `4xx` stands for.
fn statuses(text: &str) -> Result<(i64, i64), ApiError> {
    let class = text
        .strip_suffix("xx")
        .and_then(|class| class.parse::<i64>().ok())
        .filter(|class| (1..=9).contains(class));
    match (class, text.parse::<i64>()) {
        (Some(class), _) => Ok((class * 100, class * 100 + 99)),
        (None, Ok(status)) if (0..1000).contains(&status) => Ok((status, status)),
        _ => Err(ApiError::field(
            "status",
            "must be a status such as 429, or a class such as 4xx",
        )),
    }
}

impl Request {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            request_id: row.try_get("request_id")?,
            started_at: When(row.try_get("started_at")?),
            tenant_id: row.try_get("tenant_id")?,
            user_id: row.try_get("user_id")?,
            username: row.try_get("username")?,
            session_id: row.try_get("session_id")?,
            machine_id: row.try_get("machine_id")?,
            tool: row.try_get("tool")?,
            provider: row.try_get("provider")?,
            api_key_id: row.try_get("api_key_id")?,
            method: row.try_get("method")?,
            path: row.try_get("path")?,
            model_asked: row.try_get("model_asked")?,
            model_served: row.try_get("model_served")?,
            status: row.try_get("status")?,
            error_kind: row.try_get("error_kind")?,
            tokens: Tokens::read(row)?,
            usage_source: row.try_get("usage_source")?,
            streamed: row.try_get::<i64, _>("streamed")? != 0,
            ttfb_ms: row.try_get("ttfb_ms")?,
            duration_ms: row.try_get("duration_ms")?,
            bytes_in: row.try_get("bytes_in")?,
            bytes_out: row.try_get("bytes_out")?,
            upstream_request_id: row.try_get("upstream_request_id")?,
            gateway_id: row.try_get("gateway_id")?,
        })
    }
}

impl Tokens {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let mut tokens = Self {
            input_tokens: row.try_get("input_tokens")?,
            cache_read_tokens: row.try_get("cache_read_tokens")?,
            cache_write_5m_tokens: row.try_get("cache_write_5m_tokens")?,
            cache_write_1h_tokens: row.try_get("cache_write_1h_tokens")?,
            output_tokens: row.try_get("output_tokens")?,
            reasoning_tokens: row.try_get("reasoning_tokens")?,
            audio_input_tokens: row.try_get("audio_input_tokens")?,
            audio_output_tokens: row.try_get("audio_output_tokens")?,
            total_tokens: 0,
        };
        let cached = tokens.cache_read_tokens + tokens.cache_write_5m_tokens + tokens.cache_write_1h_tokens;
        tokens.total_tokens = tokens.input_tokens + cached + tokens.output_tokens;
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests;
