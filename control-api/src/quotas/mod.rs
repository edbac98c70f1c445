//! Limits: what is set on whom, how much of it is used and held, and the events that tell when little is left.
//!
//! `quota_limits` is written here; what is used and held is the gateway's, and only read.

mod account;
mod change;
mod events;

use std::collections::HashMap;

use ace_policies::access::{Action, Standing};
use ace_policies::quota::{Account, Amounts, Calendar, Limit, LimitName, Period};
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
use account::Named;

pub(crate) use change::forget;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(mine))
        .routes(routes!(read, change::change))
        .routes(routes!(events::list))
}

/// An account with its limits.
#[derive(Serialize, ToSchema)]
struct Quota {
    success: bool,
    account: Charged,
    /// By which its days and months begin, by its IANA name.
    time_zone: String,
    /// Every limit there can be, in a fixed order.
    limits: Vec<LimitState>,
}

/// Who is charged.
#[derive(Serialize, ToSchema)]
struct Charged {
    /// `user`, `tenant`, `session`, `machine` or `api_key`.
    #[schema(value_type = String)]
    kind: &'static str,
    id: String,
}

/// A limit and how it stands in the current period. Tokens and requests are counted in ones, cost in millionths of a US dollar.
#[derive(Serialize, ToSchema)]
pub(crate) struct LimitState {
    /// Such as `tokens_per_day`.
    #[schema(value_type = String)]
    pub name: LimitName,
    /// `null` is unlimited, 0 blocks.
    pub maximum: Option<u64>,
    /// It is decided and told, but nothing is refused.
    pub dry_run: bool,
    /// What ended requests have used. Always 0 for limits per minute and for parallel requests: of those all is in `reserved`.
    pub used: u64,
    /// What gateways hold: for requests that run, and ahead for the next ones.
    pub reserved: u64,
    /// `null` where there is no maximum.
    pub remaining: Option<u64>,
    /// `null` where nothing is ever reset.
    pub resets_at: Option<When>,
}

/// Shows the caller's own limits, and what is left of them.
#[utoipa::path(get, path = "/api/quota/me", tag = "quota", responses((status = 200, body = Quota)))]
async fn mine(State(app): State<App>, visitor: Visitor) -> Result<Json<Quota>, ApiError> {
    shown(&app, &visitor, Account::User(visitor.actor.user)).await
}

/// Shows the limits of a user, tenant, session, machine or provider key, and what is left of them. All but one's own is for system
/// admins.
#[utoipa::path(get, path = "/api/quota/{kind}/{id}", tag = "quota", params(Named),
    responses((status = 200, body = Quota), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
async fn read(State(app): State<App>, visitor: Visitor, named: Named) -> Result<Json<Quota>, ApiError> {
    shown(&app, &visitor, named.account()?).await
}

async fn shown(app: &App, visitor: &Visitor, account: Account) -> Result<Json<Quota>, ApiError> {
    visitor.permit(app, Action::QuotaRead, &standing(account)).await?;
    let mut connection = app.db().read.acquire().await?;
    account::find(&mut connection, account).await?;
    Ok(Json(Quota::read(app, &mut connection, account).await?))
}

/// What a visitor has to do with an account: users own their own.
fn standing(account: Account) -> Standing {
    let owner = match account {
        Account::User(user) => Some(user),
        _ => None,
    };
    Standing {
        owner,
        ..Standing::default()
    }
}

impl Quota {
    async fn read(app: &App, connection: &mut AnyConnection, account: Account) -> Result<Self, ApiError> {
        let calendar = &app.config().calendar;
        Ok(Self {
            success: true,
            account: Charged {
                kind: account.kind(),
                id: account.id(),
            },
            time_zone: calendar.time_zone().to_owned(),
            limits: states(connection, account, calendar, app.now()).await?,
        })
    }
}

/// How every limit of an account stands now.
pub(crate) async fn states(
    connection: &mut AnyConnection,
    account: Account,
    calendar: &Calendar,
    now: i64,
) -> Result<Vec<LimitState>, ApiError> {
    let limits = limits(connection, account).await?;
    let held = held(connection, account, calendar, now).await?;
    let state = |name: LimitName| {
        let limit = limits.iter().find(|limit| limit.name == name);
        let held = held.get(&name.period()).copied().unwrap_or_default();
        let (_, end) = calendar.bounds(name.period(), now);
        LimitState::new(name, limit, held, end)
    };
    Ok(LimitName::ALL.into_iter().map(state).collect())
}

/// What of a bucket is used and what is leased.
#[derive(Clone, Copy, Default)]
struct Held {
    used: Amounts,
    leased: Amounts,
}

impl LimitState {
    fn new(name: LimitName, limit: Option<&Limit>, held: Held, end: Option<i64>) -> Self {
        let settled = name.period().is_settled();
        let used = if settled { held.used.of(name.metric()) } else { 0 };
        let reserved = held.leased.of(name.metric());
        Self {
            name,
            maximum: limit.map(|limit| limit.maximum),
            dry_run: limit.is_some_and(|limit| limit.dry_run),
            used,
            reserved,
            remaining: limit.map(|limit| limit.maximum.saturating_sub(used).saturating_sub(reserved)),
            resets_at: end.map(When),
        }
    }
}

/// The limits that are set on an account.
async fn limits(connection: &mut AnyConnection, account: Account) -> Result<Vec<Limit>, ApiError> {
    let rows =
        sqlx::query("SELECT name, maximum, dry_run FROM quota_limits WHERE account_kind = $1 AND account_id = $2")
            .bind(account.kind())
            .bind(account.id())
            .fetch_all(connection)
            .await?;
    rows.iter().map(limit).collect()
}

fn limit(row: &AnyRow) -> Result<Limit, ApiError> {
    let name: String = row.try_get("name")?;
    Ok(Limit {
        name: name.parse().map_err(ApiError::internal)?,
        maximum: unsigned(row, "maximum")?,
        dry_run: row.try_get::<i64, _>("dry_run")? != 0,
    })
}

/// What is used and leased of the account's current buckets.
async fn held(
    connection: &mut AnyConnection,
    account: Account,
    calendar: &Calendar,
    now: i64,
) -> Result<HashMap<Period, Held>, ApiError> {
    let start = |period| calendar.bounds(period, now).0;
    let rows = sqlx::query(
        "SELECT * FROM quota_usage WHERE account_kind = $1 AND account_id = $2
         AND (period = 'minute' AND period_start = $3 OR period = 'day' AND period_start = $4
              OR period = 'month' AND period_start = $5 OR period = 'open' AND period_start = 0)",
    )
    .bind(account.kind())
    .bind(account.id())
    .bind(start(Period::Minute))
    .bind(start(Period::Day))
    .bind(start(Period::Month))
    .fetch_all(connection)
    .await?;
    rows.iter().map(bucket).collect()
}

fn bucket(row: &AnyRow) -> Result<(Period, Held), ApiError> {
    let period: String = row.try_get("period")?;
    let period = period
        .parse()
        .map_err(|()| ApiError::internal(format!("unknown period '{period}'")))?;
    let held = Held {
        used: Amounts {
            tokens: unsigned(row, "tokens")?,
            requests: unsigned(row, "requests")?,
            cost_micro_usd: unsigned(row, "cost_micro_usd")?,
        },
        leased: Amounts {
            tokens: unsigned(row, "leased_tokens")?,
            requests: unsigned(row, "leased_requests")?,
            cost_micro_usd: unsigned(row, "leased_cost_micro_usd")?,
        },
    };
    Ok((period, held))
}

/// A column that the schema keeps from being negative.
fn unsigned(row: &AnyRow, column: &str) -> Result<u64, ApiError> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(ApiError::internal)
}

#[cfg(test)]
mod tests;
