//! Logging in and out, and one's own account.

use ace_policies::access::{Action, Standing};
use ace_policies::edge::EdgeHeaders;
use ace_policies::secret::{self, TokenKind};
use ace_policies::{TenantId, UserId, quota};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::audit::{Entry, act};
use crate::body::{Body, SecretText};
use crate::error::ApiError;
use crate::lockout::Attempt;
use crate::quotas::{self, LimitState};
use crate::users::{self, User};
use crate::visitor::{COOKIE, Origin, Visitor, refuse_other_sites};
use crate::write::{Topic, Write};
use crate::{chance, password};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .routes(routes!(logout))
        .routes(routes!(check))
        .routes(routes!(me))
        .routes(routes!(change_password))
}

/// The longest name that can belong to anybody; longer ones are not looked up.
const MAX_NAME: usize = 256;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Credentials {
    username: String,
    password: SecretText,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    current_password: SecretText,
    new_password: SecretText,
}

/// An account, as its owner sees it.
#[derive(Serialize, ToSchema)]
struct Account {
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
    user: User,
    /// Every limit of the user, and what is left of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<Vec<LimitState>>,
}

#[derive(Serialize, ToSchema)]
struct Checked {
    authenticated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User>,
}

/// The answer to an act that has nothing else to tell.
#[derive(Serialize, ToSchema)]
pub(crate) struct Done {
    success: bool,
}

impl Done {
    pub(crate) const YES: Json<Self> = Json(Self { success: true });
}

/// Logs a user in and sets the cookie `session_token`.
#[utoipa::path(post, path = "/api/auth/login", tag = "auth", request_body = Credentials, security(()),
    responses((status = 200, body = Account), (status = 401, body = crate::error::ErrorBody),
              (status = 429, body = crate::error::ErrorBody)))]
async fn login(
    State(app): State<App>,
    Origin(edge): Origin,
    headers: HeaderMap,
    Body(credentials): Body<Credentials>,
) -> Result<Response, ApiError> {
    refuse_other_sites(&Method::POST, &headers, &edge)?;
    let Credentials {
        username,
        password: SecretText(password),
    } = credentials;
    if username.is_empty() || password.expose().is_empty() {
        return Err(ApiError::bad("missing_field", "username and password are needed"));
    }
    if username.len() > MAX_NAME {
        return Err(wrong_credentials());
    }
    let attempt = Attempt::begin(&app, &username, edge.client).await?;
    let found = users::by_name(&app, &username).await?;
    let hash = found
        .as_ref()
        .filter(|found| found.user.is_active)
        .map(|found| found.password_hash.clone());
    let matches = app.passwords().matches(hash, password).await?;
    match found {
        Some(found) if matches => enter(&app, &edge, &headers, &attempt, found.user).await,
        found => Err(refuse(&app, &edge, found.as_ref().map(|found| found.user.username.as_str())).await?),
    }
}

/// Ends the login. Also answers well when there is none.
#[utoipa::path(post, path = "/api/auth/logout", tag = "auth", security(()), responses((status = 200, body = Done)))]
async fn logout(State(app): State<App>, visitor: Result<Visitor, ApiError>) -> Result<Response, ApiError> {
    match visitor {
        Ok(visitor) => revoke_login(&app, &visitor).await?,
        Err(nobody) if nobody.status() == StatusCode::UNAUTHORIZED => {}
        Err(error) => return Err(error),
    }
    Ok(with_cookie(
        Done::YES,
        &format!("{COOKIE}=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0"),
    ))
}

/// Tells whether the caller is logged in. Never answers 401.
#[utoipa::path(get, path = "/api/auth/check", tag = "auth", security(()), responses((status = 200, body = Checked)))]
async fn check(State(app): State<App>, visitor: Result<Visitor, ApiError>) -> Result<Json<Checked>, ApiError> {
    match visitor {
        Ok(visitor) => {
            let user = Some(users::by_id(&app, visitor.actor.user).await?);
            Ok(Json(Checked {
                authenticated: true,
                user,
            }))
        }
        Err(nobody) if nobody.status() == StatusCode::UNAUTHORIZED => Ok(Json(Checked {
            authenticated: false,
            user: None,
        })),
        Err(error) => Err(error),
    }
}

/// Shows the caller's own account, with limits and what is left of them.
#[utoipa::path(get, path = "/api/auth/me", tag = "auth", responses((status = 200, body = Account)))]
async fn me(State(app): State<App>, visitor: Visitor) -> Result<Json<Account>, ApiError> {
    visitor.permit(&app, Action::AccountRead, &Standing::default()).await?;
    let user = visitor.actor.user;
    let mut connection = app.db().read.acquire().await?;
    let calendar = &app.config().calendar;
    let quota = quotas::states(&mut connection, quota::Account::User(user), calendar, app.now()).await?;
    // Given back before the next is asked for: a pool may hold no more than one.
    drop(connection);
    Ok(Json(Account {
        success: None,
        user: users::by_id(&app, user).await?,
        quota: Some(quota),
    }))
}

/// Changes the caller's own password. All other logins and all proxy tokens of the user end.
#[utoipa::path(post, path = "/api/auth/change-password", tag = "auth", request_body = NewPassword,
    responses((status = 200, body = Done)))]
async fn change_password(
    State(app): State<App>,
    visitor: Visitor,
    Body(NewPassword {
        current_password: SecretText(current),
        new_password: SecretText(new),
    }): Body<NewPassword>,
) -> Result<Json<Done>, ApiError> {
    let permit = visitor
        .permit(&app, Action::AccountChangePassword, &Standing::default())
        .await?;
    let actor = &visitor.actor;
    password::judge("new_password", &new, &actor.username)?;
    if new.expose() == current.expose() {
        return Err(ApiError::bad(
            "same_password",
            "new_password: must differ from current_password",
        ));
    }
    let attempt = Attempt::begin(&app, &actor.username, visitor.edge.client).await?;
    let hash = users::password_hash(&app, actor.user).await?;
    if !app.passwords().matches(Some(hash), current).await? {
        let message = "current_password: this is not your password";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "wrong_password", message));
    }
    let hash = app.passwords().hash(new).await?;
    let now = app.now();
    let mut write = app.write(&permit, &visitor.edge).await?;
    attempt.succeeded(write.sql()).await?;
    users::set_password(&mut write, actor.user, &hash, false, now).await?;
    users::revoke_logins(&mut write, actor.user, visitor.login, now).await?;
    write.target(format_args!("user:{}", actor.user)).wake(Topic::Auth);
    write.commit().await?;
    Ok(Done::YES)
}

async fn enter(
    app: &App,
    edge: &EdgeHeaders,
    headers: &HeaderMap,
    attempt: &Attempt,
    user: User,
) -> Result<Response, ApiError> {
    let token = secret::format(TokenKind::Login, &chance::bytes());
    let tenant = Some(TenantId(user.tenant_id));
    let entry = Entry {
        tenant,
        ..Entry::unproved(&user.username, act::LOGIN, edge)
    };
    let mut write = app.write_as(entry).await?;
    attempt.succeeded(write.sql()).await?;
    insert_login(app, &mut write, &user, &secret::hash(token.expose()), edge, headers).await?;
    write
        .actor(UserId(user.id), &user.username)
        .target(format_args!("user:{}", user.id));
    write.commit().await?;
    let seconds = app.config().login_ttl.as_secs();
    let secure = if edge.scheme == "https" { "; Secure" } else { "" };
    let cookie = format!(
        "{COOKIE}={}; HttpOnly; SameSite=Lax; Path=/; Max-Age={seconds}{secure}",
        token.expose()
    );
    Ok(with_cookie(
        Json(Account {
            success: Some(true),
            user,
            quota: None,
        }),
        &cookie,
    ))
}

async fn insert_login(
    app: &App,
    write: &mut Write,
    user: &User,
    token_hash: &str,
    edge: &EdgeHeaders,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    let now = app.now();
    let ttl = i64::try_from(app.config().login_ttl.as_millis()).unwrap_or(i64::MAX);
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default();
    // Nobody asks for the ended ones; without this the table would only grow.
    sqlx::query("DELETE FROM logins WHERE expires_at <= $1")
        .bind(now)
        .execute(write.sql())
        .await?;
    sqlx::query(
        "INSERT INTO logins (token_hash, user_id, created_at, expires_at, ip, user_agent)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(token_hash)
    .bind(user.id)
    .bind(now)
    .bind(now.saturating_add(ttl))
    .bind(edge.client.to_string())
    .bind(agent.chars().take(256).collect::<String>())
    .execute(write.sql())
    .await?;
    let last_login = sqlx::query("UPDATE users SET last_login_at = $1 WHERE id = $2")
        .bind(now)
        .bind(user.id);
    last_login.execute(write.sql()).await?;
    Ok(())
}

/// Records the failure, and answers the same whatever was wrong. A name that is nobody's is not written down: people
/// type passwords into the wrong field.
async fn refuse(app: &App, edge: &EdgeHeaders, known_as: Option<&str>) -> Result<ApiError, ApiError> {
    let entry = Entry {
        result: "failed",
        ..Entry::unproved(known_as.unwrap_or("unknown"), act::LOGIN, edge)
    };
    app.write_as(entry).await?.commit().await?;
    Ok(wrong_credentials())
}

fn wrong_credentials() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "wrong_credentials",
        "wrong username or password",
    )
}

async fn revoke_login(app: &App, visitor: &Visitor) -> Result<(), ApiError> {
    let Some(login) = visitor.login else { return Ok(()) };
    let mut entry = Entry::unproved(&visitor.actor.username, act::LOGOUT, &visitor.edge);
    entry.tenant = Some(visitor.actor.tenant);
    let mut write = app.write_as(entry).await?;
    let revoke = sqlx::query("UPDATE logins SET revoked_at = $1 WHERE id = $2")
        .bind(app.now())
        .bind(login);
    revoke.execute(write.sql()).await?;
    write
        .actor(visitor.actor.user, &visitor.actor.username)
        .target(format_args!("user:{}", visitor.actor.user));
    write.commit().await
}

fn with_cookie(answer: impl IntoResponse, cookie: &str) -> Response {
    let mut response = answer.into_response();
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests;
