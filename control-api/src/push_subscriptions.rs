//! Browsers that want to be pushed what their user is told.

use ace_policies::access::{Action, Standing};
use ace_policies::ssrf::check_url;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::any::AnyRow;
use url::Url;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::{At, Body};
use crate::error::ApiError;
use crate::login::Done;
use crate::notifications::KINDS;
use crate::push::{self, Keys};
use crate::visitor::Visitor;
use crate::webhooks::refused_url;
use crate::when::When;
use crate::write::Write;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(delete))
        .routes(routes!(key))
}

/// How many a user may have at once.
const MAX_PER_USER: i64 = 20;

/// What a browser's `PushSubscription.toJSON()` gives, and what is wanted of it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wish {
    endpoint: String,
    keys: BrowserKeys,
    /// Browsers send it; push services tell when a subscription is over.
    #[serde(default, rename = "expirationTime")]
    #[schema(value_type = Option<f64>)]
    _expiration_time: Option<Value>,
    /// The kinds of notifications to push; left out, all.
    kinds: Option<Vec<String>>,
    /// Push only that there is something, not what: screens are seen by others.
    #[serde(default)]
    private: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BrowserKeys {
    p256dh: String,
    auth: String,
}

/// A browser that is pushed.
#[derive(Serialize, ToSchema)]
struct Subscription {
    id: i64,
    endpoint: String,
    /// The browser that made it, as it calls itself.
    user_agent: String,
    /// `null` is all.
    kinds: Option<Vec<String>>,
    private: bool,
    created_at: When,
    /// Since when pushes to it fail.
    failed_at: Option<When>,
}

#[derive(Serialize, ToSchema)]
struct List {
    success: bool,
    subscriptions: Vec<Subscription>,
}

#[derive(Serialize, ToSchema)]
struct One {
    success: bool,
    subscription: Subscription,
}

#[derive(Serialize, ToSchema)]
struct PublicKey {
    success: bool,
    /// For `pushManager.subscribe` as `applicationServerKey`.
    public_key: String,
    /// What `kinds` may name.
    #[schema(value_type = Vec<String>)]
    kinds: [&'static str; 6],
}

/// Lists the caller's own subscriptions.
#[utoipa::path(get, path = "/api/push-subscriptions", tag = "notifications", responses((status = 200, body = List)))]
async fn list(State(app): State<App>, visitor: Visitor) -> Result<Json<List>, ApiError> {
    visitor
        .permit(&app, Action::NotificationsRead, &Standing::default())
        .await?;
    let rows = sqlx::query("SELECT * FROM push_subscriptions WHERE user_id = $1 ORDER BY id DESC")
        .bind(visitor.actor.user.0)
        .fetch_all(&app.db().read)
        .await?;
    let subscriptions = rows.iter().map(Subscription::read).collect::<Result<_, _>>()?;
    Ok(Json(List {
        success: true,
        subscriptions,
    }))
}

/// Tells the public key that a browser needs to subscribe.
#[utoipa::path(get, path = "/api/push-subscriptions/key", tag = "notifications",
    responses((status = 200, body = PublicKey)))]
async fn key(State(app): State<App>, visitor: Visitor) -> Result<Json<PublicKey>, ApiError> {
    visitor
        .permit(&app, Action::NotificationsRead, &Standing::default())
        .await?;
    Ok(Json(PublicKey {
        success: true,
        public_key: push::public_key(&app).await?,
        kinds: KINDS,
    }))
}

/// Subscribes a browser for the caller. One that was subscribed before, also for somebody else, is so anew.
#[utoipa::path(post, path = "/api/push-subscriptions", tag = "notifications", request_body = Wish,
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody)))]
async fn create(
    State(app): State<App>,
    visitor: Visitor,
    headers: HeaderMap,
    Body(wish): Body<Wish>,
) -> Result<Json<One>, ApiError> {
    let permit = visitor
        .permit(&app, Action::PushSubscriptionsUpdate, &Standing::default())
        .await?;
    let kinds = judge(&app, &wish)?;
    let browser = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let browser: String = browser.chars().take(300).collect();
    let user = visitor.actor.user.0;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let row = sqlx::query(
        "INSERT INTO push_subscriptions (user_id, endpoint, p256dh, auth, user_agent, kinds, is_private, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (endpoint) DO UPDATE SET user_id = excluded.user_id, p256dh = excluded.p256dh,
             auth = excluded.auth, user_agent = excluded.user_agent, kinds = excluded.kinds,
             is_private = excluded.is_private, created_at = excluded.created_at, failed_at = NULL
         RETURNING *",
    )
    .bind(user)
    .bind(&wish.endpoint)
    .bind(&wish.keys.p256dh)
    .bind(&wish.keys.auth)
    .bind(browser)
    .bind(kinds)
    .bind(i64::from(wish.private))
    .bind(app.now())
    .fetch_one(write.sql())
    .await?;
    let subscription = Subscription::read(&row)?;
    refuse_too_many(&mut write, user).await?;
    write
        .target(format_args!("push_subscription:{}", subscription.id))
        .after(&subscription.recorded())?;
    write.commit().await?;
    Ok(Json(One {
        success: true,
        subscription,
    }))
}

/// Ends one of the caller's own subscriptions.
#[utoipa::path(delete, path = "/api/push-subscriptions/{id}", tag = "notifications", params(("id" = i64, Path)),
    responses((status = 200, body = Done), (status = 404, body = crate::error::ErrorBody)))]
async fn delete(State(app): State<App>, visitor: Visitor, At(id): At<i64>) -> Result<Json<Done>, ApiError> {
    let permit = visitor
        .permit(&app, Action::PushSubscriptionsUpdate, &Standing::default())
        .await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let gone = sqlx::query("DELETE FROM push_subscriptions WHERE id = $1 AND user_id = $2")
        .bind(id)
        .bind(visitor.actor.user.0)
        .execute(write.sql())
        .await?;
    if gone.rows_affected() == 0 {
        return Err(ApiError::not_found("push subscription"));
    }
    write.target(format_args!("push_subscription:{id}"));
    write.commit().await?;
    Ok(Done::YES)
}

/// Returns the kinds as they are stored.
fn judge(app: &App, wish: &Wish) -> Result<Option<String>, ApiError> {
    if wish.endpoint.len() > 2000 {
        return Err(ApiError::field("endpoint", "must not be longer than 2000 characters"));
    }
    check_url(&wish.endpoint, &app.config().notify.allow).map_err(|error| refused_url("endpoint", &error))?;
    let keys = Keys::parse(&wish.keys.p256dh, &wish.keys.auth);
    if !keys.is_some_and(|keys| keys.are_good()) {
        let form = format!(
            "p256dh must be a point of the curve P-256 and auth {} bytes, both in base64url",
            push::AUTH_BYTES
        );
        return Err(ApiError::field("keys", form));
    }
    let Some(kinds) = &wish.kinds else { return Ok(None) };
    if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        let problem = format!("there is no '{unknown}'; there are {}", KINDS.join(", "));
        return Err(ApiError::field("kinds", problem));
    }
    serde_json::to_string(kinds).map(Some).map_err(ApiError::internal)
}

async fn refuse_too_many(write: &mut Write, user: i64) -> Result<(), ApiError> {
    let count = sqlx::query("SELECT COUNT(*) FROM push_subscriptions WHERE user_id = $1")
        .bind(user)
        .fetch_one(write.sql())
        .await?;
    if count.try_get::<i64, _>(0)? > MAX_PER_USER {
        let message = format!("{MAX_PER_USER} browsers are subscribed already; delete one of them");
        return Err(ApiError::conflict("too_many_subscriptions", message));
    }
    Ok(())
}

impl Subscription {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let kinds: Option<String> = row.try_get("kinds")?;
        Ok(Self {
            id: row.try_get("id")?,
            endpoint: row.try_get("endpoint")?,
            user_agent: row.try_get("user_agent")?,
            kinds: kinds
                .map(|kinds| serde_json::from_str(&kinds))
                .transpose()
                .map_err(ApiError::internal)?,
            private: row.try_get::<i64, _>("is_private")? != 0,
            created_at: When(row.try_get("created_at")?),
            failed_at: row.try_get::<Option<i64>, _>("failed_at")?.map(When),
        })
    }

    /// For the audit log: whoever knows the whole endpoint can push there.
    fn recorded(&self) -> Value {
        let host = Url::parse(&self.endpoint).ok();
        json!({
            "host": host.as_ref().and_then(Url::host_str),
            "user_agent": self.user_agent,
            "kinds": self.kinds,
            "private": self.private,
        })
    }
}

#[cfg(test)]
mod tests;
