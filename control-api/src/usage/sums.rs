//! GET /api/usage.

use ace_policies::UserId;
use ace_policies::access::{Action, Role, Standing};
use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::{IntoParams, ToSchema};

use super::dimension::{self, Dimension, Place};
use super::source::{Asked, measures};
use super::span::{Resolution, Span};
use super::{Tokens, usd};
use crate::App;
use crate::body::Params;
use crate::error::ApiError;
use crate::page::{self, Filter};
use crate::sheet::{self, Format, MAX_ROWS};
use crate::visitor::Visitor;
use crate::when::When;

/// How many rows a page has when nothing is said.
const DEFAULT_ROWS: i64 = 1000;

/// Which sums are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// Left out: the beginning of the day 29 days before `to`.
    from: Option<When>,
    /// Left out: now.
    to: Option<When>,
    /// Up to three of `day`, `hour`, `user`, `machine`, `session`, `provider`, `model` and `key`, with commas; rows are sorted by them.
    /// Left out: one total.
    #[serde(default)]
    group_by: String,
    /// Left out: an admin sees all, others their own.
    user_id: Option<i64>,
    session_id: Option<String>,
    machine_id: Option<String>,
    provider: Option<String>,
    /// The model that served, or was asked for where a charged answer names none.
    model: Option<String>,
    api_key_id: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
    /// At most 10000; 1000 when left out.
    limit: Option<i64>,
    /// `json` (the default) or `csv`. A CSV without `limit` is the whole answer, or refused when that is more than 10000 rows.
    #[serde(default)]
    format: Format,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Sums {
    success: bool,
    /// What the sums are made of: `day` or `hour`.
    resolution: Resolution,
    /// By which days begin, by its IANA name.
    time_zone: String,
    /// The time that was asked for.
    asked: Span,
    /// The time that the sums cover: what was asked for, rounded outwards to whole days or hours.
    covered: Span,
    #[schema(value_type = Vec<String>)]
    group_by: Vec<Dimension>,
    usage: Vec<Sum>,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// One sum. Of the dimensions only those that were asked for are there; `null` is what belongs to none.
#[derive(Serialize, ToSchema)]
struct Sum {
    /// Where the day begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<When>,
    /// Where the hour begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    hour: Option<When>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    username: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    machine_id: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    machine_name: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    session_id: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    model: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    api_key_id: Option<Option<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    key_name: Option<Option<String>>,
    requests: i64,
    /// Of `requests`: answered with an error status, or broken off.
    errors: i64,
    /// Of `requests`: with figures that are in part our estimate, because the provider did not say.
    estimated_requests: i64,
    #[serde(flatten)]
    tokens: Tokens,
    /// Millionths of a US dollar.
    cost_micro_usd: i64,
    /// The same in US dollars, such as `1.250000`.
    cost_usd: String,
    /// Until the first byte of the answer; a request without one counts as 0. `null` where there are no requests.
    average_ttfb_ms: Option<i64>,
    average_duration_ms: Option<i64>,
}

/// The fields of a sum behind its dimensions.
const FIELDS: [&str; 16] = [
    "requests",
    "errors",
    "estimated_requests",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "total_tokens",
    "cost_micro_usd",
    "cost_usd",
    "average_ttfb_ms",
    "average_duration_ms",
];

/// Adds up what was used, by time, people and things: one's own, for an admin all.
///
/// The sums are kept by hour (UTC) and by day (in the configured time zone); only those by day know sessions. An answer is made of days
/// when it is grouped by `day` or `session`, filtered by session, or covers whole days and more than two of them; else of hours. `from`
/// and `to` are rounded outwards to whole days or hours: `covered` says to which.
#[utoipa::path(get, path = "/api/usage", tag = "usage", params(Query),
    responses((status = 200, body = Sums), (status = 400, body = crate::error::ErrorBody)))]
pub(super) async fn sums(
    State(app): State<App>,
    visitor: Visitor,
    OriginalUri(uri): OriginalUri,
    Params(query): Params<Query>,
) -> Result<Response, ApiError> {
    let user = permitted(&app, &visitor, query.user_id).await?;
    let asked = Question::parse(&app, query, user)?;
    let (rows, next) = asked.fetch(&app).await?;
    let usage = rows.iter().map(Sum::read).collect::<Result<Vec<_>, _>>()?;
    if asked.format == Format::Csv {
        let next = next.map(|next| sheet::next_page(&uri, &next));
        return sheet::answer("usage", &asked.fields(), &usage, next);
    }
    Ok(Json(Sums {
        success: true,
        resolution: asked.resolution,
        time_zone: app.config().calendar.time_zone().to_owned(),
        asked: asked.span,
        covered: asked.covered,
        group_by: asked.dimensions,
        usage,
        next,
    })
    .into_response())
}

/// Whose usage may be shown; `None` is everybody's.
async fn permitted(app: &App, visitor: &Visitor, asked: Option<i64>) -> Result<Option<i64>, ApiError> {
    let all = visitor.actor.role == Role::Admin && asked.is_none();
    let owner = asked.map_or(visitor.actor.user, UserId);
    let standing = Standing {
        owner: Some(owner),
        ..Standing::default()
    };
    visitor.permit(app, Action::UsageRead, &standing).await?;
    Ok((!all).then_some(owner.0))
}

/// A query that can be answered.
struct Question {
    dimensions: Vec<Dimension>,
    span: Span,
    covered: Span,
    resolution: Resolution,
    /// What is added up, for FROM.
    source: String,
    filter: Filter,
    limit: i64,
    /// Whether the answer must be whole.
    whole: bool,
    format: Format,
}

impl Question {
    fn parse(app: &App, query: Query, user: Option<i64>) -> Result<Self, ApiError> {
        let (calendar, now) = (&app.config().calendar, app.now());
        let dimensions = dimension::parse(&query.group_by)?;
        let span = Span::asked(query.from, query.to, calendar, now)?;
        let by_session = query.session_id.is_some() || dimensions.contains(&Dimension::Session);
        let resolution = span.resolution(&dimensions, by_session, calendar, now)?;
        let covered = span.rounded(resolution, calendar);
        let filter = filter(&query, user, &dimensions)?;
        let whole = query.format == Format::Csv && query.limit.is_none();
        let limit = if whole {
            MAX_ROWS
        } else {
            query.limit.unwrap_or(DEFAULT_ROWS)
        };
        let limit = page::limit_of(limit, MAX_ROWS)?;
        let asked = Asked {
            resolution,
            covered,
            by_session,
            columns: &columns(&dimensions),
            limit: limit + 1,
        };
        Ok(Self {
            source: asked.rows(&filter, app.db().engine),
            filter,
            limit,
            format: query.format,
            dimensions,
            span,
            covered,
            resolution,
            whole,
        })
    }

    /// The rows, and where the next page begins.
    async fn fetch(&self, app: &App) -> Result<(Vec<AnyRow>, Option<String>), ApiError> {
        let found = self.filter.rows(&app.db().read, self.sql(), self.limit).await?;
        if self.whole && found.more {
            let hint = "narrow from and to, group by less, or fetch it in pages with limit and after";
            let message = format!("the answer has more than {MAX_ROWS} rows");
            return Err(ApiError::bad("too_many_rows", message).hint(hint));
        }
        let last = found.rows.last().filter(|_| found.more);
        let next = last.map(|row| Place::of(row, &self.dimensions)).transpose()?;
        Ok((found.rows, next.map(|next| next.to_string())))
    }

    /// Adds up first and looks up names afterwards: there are few sums and many rows.
    fn sql(&self) -> String {
        let (columns, source) = (columns(&self.dimensions), &self.source);
        if columns.is_empty() {
            return format!("SELECT {} FROM {source}", measures());
        }
        let (list, limit) = (columns.join(", "), self.limit + 1);
        let sums = format!(
            "SELECT {list}, {} FROM {source} GROUP BY {list} ORDER BY {list} LIMIT {limit}",
            measures()
        );
        let (mut select, mut joins) = ("sums.*".to_owned(), String::new());
        for (name, join) in self.dimensions.iter().filter_map(|dimension| dimension.names()) {
            select = format!("{select}, {name}");
            joins = format!("{joins} {join}");
        }
        let order: Vec<_> = columns.iter().map(|column| format!("sums.{column}")).collect();
        format!(
            "SELECT {select} FROM ({sums}) AS sums {joins} ORDER BY {}",
            order.join(", ")
        )
    }

    fn fields(&self) -> Vec<&'static str> {
        let dimensions = self.dimensions.iter().flat_map(|dimension| dimension.fields());
        dimensions.copied().chain(FIELDS).collect()
    }
}

fn columns(dimensions: &[Dimension]) -> Vec<&'static str> {
    dimensions.iter().map(|dimension| dimension.column()).collect()
}

/// What is asked for beside the time.
fn filter(query: &Query, user: Option<i64>, dimensions: &[Dimension]) -> Result<Filter, ApiError> {
    let mut filter = Filter::default();
    filter
        .and_if("user_id =", user)
        .and_if("session_id =", query.session_id.as_deref())
        .and_if("machine_id =", query.machine_id.as_deref())
        .and_if("provider =", query.provider.as_deref())
        .and_if("model =", query.model.as_deref())
        .and_if("api_key_id =", query.api_key_id);
    if let Some(after) = &query.after {
        let wrong = || ApiError::field("after", "must be the `next` of the page before");
        let place: Place = after.parse().map_err(|()| wrong())?;
        filter.above(&columns(dimensions), place.values(dimensions)?);
    }
    Ok(filter)
}

impl Sum {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let requests: i64 = row.try_get("requests")?;
        let cost_micro_usd = row.try_get("cost_micro_usd")?;
        let average = |sum: i64| (requests > 0).then(|| (sum + requests / 2) / requests);
        Ok(Self {
            day: asked(row, "day_start")?.map(When),
            hour: asked(row, "hour_start")?.map(When),
            user_id: asked(row, "user_id")?,
            username: asked(row, "username")?,
            machine_id: asked(row, "machine_id")?.map(none_if_empty),
            machine_name: asked(row, "machine_name")?,
            session_id: asked(row, "session_id")?.map(none_if_empty),
            provider: asked(row, "provider")?,
            model: asked(row, "model")?.map(none_if_empty),
            api_key_id: asked(row, "api_key_id")?.map(|id: i64| Some(id).filter(|id| *id != 0)),
            key_name: asked(row, "key_name")?,
            requests,
            errors: row.try_get("errors")?,
            estimated_requests: row.try_get("estimated")?,
            tokens: Tokens::read(row)?,
            cost_micro_usd,
            cost_usd: usd(cost_micro_usd),
            average_ttfb_ms: average(row.try_get("ttfb_ms")?),
            average_duration_ms: average(row.try_get("duration_ms")?),
        })
    }
}

/// A column that is there only where it was asked for.
fn asked<'r, T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>>(
    row: &'r AnyRow,
    column: &str,
) -> Result<Option<T>, sqlx::Error> {
    match row.try_get(column) {
        Ok(value) => Ok(Some(value)),
        Err(sqlx::Error::ColumnNotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the tables hold for none.
fn none_if_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
