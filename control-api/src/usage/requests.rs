//! GET /api/usage/requests.

use ace_policies::UserId;
use ace_policies::access::{Action, Role, Standing};
use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::{IntoParams, ToSchema};

use super::Tokens;
use crate::App;
use crate::body::Params;
use crate::error::ApiError;
use crate::page::{self, Cursor, Filter};
use crate::sheet::{self, Format, MAX_ROWS};
use crate::visitor::Visitor;
use crate::when::When;

/// Which requests are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
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
    /// At most 500 and 50 when left out; of a CSV at most 10000, and 10000 when left out.
    limit: Option<i64>,
    /// `json` (the default) or `csv`. The header `link` of a CSV names its next page.
    #[serde(default)]
    format: Format,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Page {
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
    /// Millionths of a US dollar.
    cost_micro_usd: i64,
    /// The entry of the price table by which the cost was reckoned.
    price: Option<String>,
    service_tier: Option<String>,
    /// 0 where it never reached a provider, or came back as an error that cost nothing.
    charged_requests: i64,
    streamed: bool,
    ttfb_ms: Option<i64>,
    duration_ms: i64,
    bytes_in: i64,
    bytes_out: i64,
    upstream_request_id: Option<String>,
    gateway_id: String,
}

/// The fields of a request, in the order of a table's columns.
const COLUMNS: [&str; 38] = [
    "id",
    "request_id",
    "started_at",
    "tenant_id",
    "user_id",
    "username",
    "session_id",
    "machine_id",
    "tool",
    "provider",
    "api_key_id",
    "method",
    "path",
    "model_asked",
    "model_served",
    "status",
    "error_kind",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "total_tokens",
    "usage_source",
    "cost_micro_usd",
    "price",
    "service_tier",
    "charged_requests",
    "streamed",
    "ttfb_ms",
    "duration_ms",
    "bytes_in",
    "bytes_out",
    "upstream_request_id",
    "gateway_id",
];

const SELECT: &str = "SELECT request_ledger.*, users.username FROM request_ledger
                      LEFT JOIN users ON users.id = request_ledger.user_id";

/// Lists requests, newest first.
#[utoipa::path(get, path = "/api/usage/requests", tag = "usage", params(Query), responses((status = 200, body = Page),
    (status = 400, body = crate::error::ErrorBody)))]
pub(super) async fn requests(
    State(app): State<App>,
    visitor: Visitor,
    OriginalUri(uri): OriginalUri,
    Params(query): Params<Query>,
) -> Result<Response, ApiError> {
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
    let limit = match query.format {
        Format::Json => page::limit(query.limit)?,
        Format::Csv => page::limit_of(query.limit.unwrap_or(MAX_ROWS), MAX_ROWS)?,
    };
    let found = filter.page(&app.db().read, SELECT, order, limit).await?;
    let requests = found.rows.iter().map(Request::read).collect::<Result<Vec<_>, _>>()?;
    let next = requests.last().filter(|_| found.more).map(|last| Cursor {
        key: last.started_at.0,
        id: last.id,
    });
    if query.format == Format::Csv {
        let next = next.map(|next| sheet::next_page(&uri, &next.to_string()));
        return sheet::answer("requests", &COLUMNS, &requests, next);
    }
    Ok(Json(Page {
        success: true,
        requests,
        next,
    })
    .into_response())
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
            cost_micro_usd: row.try_get("cost_micro_usd")?,
            price: row.try_get("price")?,
            service_tier: row.try_get("service_tier")?,
            charged_requests: row.try_get("charged_requests")?,
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

#[cfg(test)]
mod tests;
