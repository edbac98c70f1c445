//! PUT /api/quota/{kind}/{id}.

use std::collections::BTreeMap;

use ace_policies::access::{Action, Standing};
use ace_policies::quota::{Account, Limit, LimitName};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::account::{self, Named};
use super::{Quota, limits};
use crate::App;
use crate::body::Body;
use crate::error::ApiError;
use crate::visitor::Visitor;
use crate::write::{Topic, Write};

/// The limits to set; those that are left out stay.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Changes {
    /// By name: a maximum (0 blocks), `null` for none, or an object.
    #[schema(value_type = BTreeMap<String, Wish>)]
    limits: Map<String, Value>,
}

/// A limit as it is set; a bare number is one that is not a dry run. Tokens and requests in ones, cost in millionths of a US dollar.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// `null` removes the limit, 0 blocks.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(value_type = Option<i64>, minimum = 0)]
    maximum: Option<Value>,
    /// Decide and tell, but refuse nothing.
    #[serde(default)]
    dry_run: bool,
}

/// A limit as the audit log keeps it.
#[derive(Serialize)]
struct Recorded {
    maximum: u64,
    dry_run: bool,
}

/// Sets limits on a user, tenant, session, machine or provider key. Gateways follow within a second or so.
#[utoipa::path(put, path = "/api/quota/{kind}/{id}", tag = "quota", params(Named), request_body = Changes,
    responses((status = 200, body = Quota), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn change(
    State(app): State<App>,
    visitor: Visitor,
    named: Named,
    Body(changes): Body<Changes>,
) -> Result<Json<Quota>, ApiError> {
    let permit = visitor.permit(&app, Action::QuotaUpdate, &Standing::default()).await?;
    let account = named.account()?;
    let wishes = wishes(changes.limits)?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    account::lock(write.sql(), account).await?;
    let before = recorded(&mut write, account).await?;
    store(&mut write, account, &wishes, app.now()).await?;
    let after = recorded(&mut write, account).await?;
    let quota = Quota::read(&app, write.sql(), account).await?;
    write
        .target(format_args!("{}:{}", account.kind(), account.id()))
        .before(&before)?
        .after(&after)?
        .wake(Topic::Quota);
    write.commit().await?;
    Ok(Json(quota))
}

/// Removes all limits of an account that is going to be deleted.
pub(crate) async fn forget(write: &mut Write, account: Account) -> Result<(), ApiError> {
    sqlx::query("DELETE FROM quota_limits WHERE account_kind = $1 AND account_id = $2")
        .bind(account.kind())
        .bind(account.id())
        .execute(write.sql())
        .await?;
    write.wake(Topic::Quota);
    Ok(())
}

/// What is asked for, limit by limit; `None` removes it.
fn wishes(limits: Map<String, Value>) -> Result<BTreeMap<LimitName, Option<Limit>>, ApiError> {
    limits.into_iter().map(|(name, value)| wish(&name, value)).collect()
}

fn wish(name: &str, value: Value) -> Result<(LimitName, Option<Limit>), ApiError> {
    let field = format!("limits.{name}");
    let known = || LimitName::ALL.map(LimitName::as_str).join(", ");
    let name = name
        .parse::<LimitName>()
        .map_err(|_| ApiError::field(&field, "there is no such limit").hint(format!("the limits are {}", known())))?;
    let (maximum, dry_run) = match value {
        Value::Object(_) => {
            let wish: Wish = serde_json::from_value(value).map_err(|error| ApiError::field(&field, error))?;
            (wish.maximum.unwrap_or_default(), wish.dry_run)
        }
        bare => (bare, false),
    };
    let limit = maximum_of(&field, &maximum)?.map(|maximum| Limit { name, maximum, dry_run });
    Ok((name, limit))
}

/// A maximum as tables can hold it.
fn maximum_of(field: &str, value: &Value) -> Result<Option<u64>, ApiError> {
    if value.is_null() {
        return Ok(None);
    }
    let problem = || {
        ApiError::field(
            field,
            format_args!("must be null or a whole number between 0 and {}", i64::MAX),
        )
    };
    let number = value.as_i64().ok_or_else(problem)?;
    u64::try_from(number).map(Some).map_err(|_| problem())
}

async fn recorded(write: &mut Write, account: Account) -> Result<BTreeMap<&'static str, Recorded>, ApiError> {
    let limits = limits(write.sql(), account).await?.into_iter();
    let recorded = |limit: Limit| Recorded {
        maximum: limit.maximum,
        dry_run: limit.dry_run,
    };
    Ok(limits.map(|limit| (limit.name.as_str(), recorded(limit))).collect())
}

async fn store(
    write: &mut Write,
    account: Account,
    wishes: &BTreeMap<LimitName, Option<Limit>>,
    now: i64,
) -> Result<(), ApiError> {
    for (name, limit) in wishes {
        match limit {
            Some(limit) => set(write, account, limit, now).await?,
            None => remove(write, account, *name).await?,
        }
    }
    Ok(())
}

async fn set(write: &mut Write, account: Account, limit: &Limit, now: i64) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO quota_limits (account_kind, account_id, name, maximum, dry_run, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (account_kind, account_id, name) DO UPDATE
         SET maximum = excluded.maximum, dry_run = excluded.dry_run, updated_at = excluded.updated_at",
    )
    .bind(account.kind())
    .bind(account.id())
    .bind(limit.name.as_str())
    .bind(i64::try_from(limit.maximum).unwrap_or(i64::MAX))
    .bind(i64::from(limit.dry_run))
    .bind(now)
    .execute(write.sql())
    .await?;
    Ok(())
}

async fn remove(write: &mut Write, account: Account, name: LimitName) -> Result<(), ApiError> {
    sqlx::query("DELETE FROM quota_limits WHERE account_kind = $1 AND account_id = $2 AND name = $3")
        .bind(account.kind())
        .bind(account.id())
        .bind(name.as_str())
        .execute(write.sql())
        .await?;
    Ok(())
}
