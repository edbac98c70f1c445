//! GET /api/quota/events.

use ace_policies::access::{Action, Role};
use ace_policies::quota::Account;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::{IntoParams, ToSchema};

use super::account::parse;
use super::standing;
use crate::App;
use crate::body::Params;
use crate::error::ApiError;
use crate::page::{self, Cursor, Filter};
use crate::visitor::Visitor;
use crate::when::When;

/// Which events are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// `user`, `tenant`, `session`, `machine` or `api_key`, together with `account_id`. Left out: an admin sees all, others their own.
    account_kind: Option<String>,
    account_id: Option<String>,
    from: Option<When>,
    to: Option<When>,
    /// The `next` of the page before.
    after: Option<Cursor>,
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Page {
    success: bool,
    events: Vec<Event>,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}

/// A share of a limit that was passed, once in each period.
#[derive(Serialize, ToSchema)]
struct Event {
    id: i64,
    at: When,
    account_kind: String,
    account_id: String,
    /// Such as `tokens_per_day`.
    limit: String,
    period_start: When,
    /// Of `maximum`.
    percent: i64,
    used: i64,
    maximum: i64,
    dry_run: bool,
}

const SELECT: &str = "SELECT * FROM quota_events";

/// Lists where a limit was about to be reached, newest first: one's own, for an admin all.
#[utoipa::path(get, path = "/api/quota/events", tag = "quota", params(Query), responses((status = 200, body = Page)))]
pub(super) async fn list(
    State(app): State<App>,
    visitor: Visitor,
    Params(query): Params<Query>,
) -> Result<Json<Page>, ApiError> {
    let account = asked(&visitor, &query)?;
    let own = Account::User(visitor.actor.user);
    visitor
        .permit(&app, Action::QuotaRead, &standing(account.unwrap_or(own)))
        .await?;
    let mut filter = Filter::default();
    filter
        .and_if("account_kind =", account.map(|account| account.kind()))
        .and_if("account_id =", account.map(|account| account.id()).as_deref())
        .and_if("at >=", query.from.map(|from| from.0))
        .and_if("at <", query.to.map(|to| to.0))
        .below("(at, id)", query.after);
    let limit = page::limit(query.limit)?;
    let found = filter.page(&app.db().read, SELECT, "at DESC, id DESC", limit).await?;
    let events = found.rows.iter().map(Event::read).collect::<Result<Vec<_>, _>>()?;
    let next = events.last().filter(|_| found.more).map(|last| Cursor {
        key: last.at.0,
        id: last.id,
    });
    Ok(Json(Page {
        success: true,
        events,
        next,
    }))
}

/// Whose events are asked for; `None` is everybody's.
fn asked(visitor: &Visitor, query: &Query) -> Result<Option<Account>, ApiError> {
    match (&query.account_kind, &query.account_id) {
        (Some(kind), Some(id)) => kind_of(kind).and_then(|kind| parse(kind, id, "account_id")).map(Some),
        (None, None) if visitor.actor.role == Role::Admin => Ok(None),
        (None, None) => Ok(Some(Account::User(visitor.actor.user))),
        (Some(_), None) => Err(ApiError::field("account_id", "must be given with account_kind")),
        (None, Some(_)) => Err(ApiError::field("account_kind", "must be given with account_id")),
    }
}

fn kind_of(kind: &str) -> Result<&str, ApiError> {
    let known = Account::KINDS.contains(&kind).then_some(kind);
    known.ok_or_else(|| {
        ApiError::field(
            "account_kind",
            format_args!("must be one of {}", Account::KINDS.join(", ")),
        )
    })
}

impl Event {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            at: When(row.try_get("at")?),
            account_kind: row.try_get("account_kind")?,
            account_id: row.try_get("account_id")?,
            limit: row.try_get("limit_name")?,
            period_start: When(row.try_get("period_start")?),
            percent: row.try_get("percent")?,
            used: row.try_get("used")?,
            maximum: row.try_get("maximum")?,
            dry_run: row.try_get::<i64, _>("dry_run")? != 0,
        })
    }
}
