//! Proxy tokens: what a tool shows the gateway instead of a provider key.

use std::time::Duration;

use ace_policies::access::{Action, Standing};
use ace_policies::edge::EdgeHeaders;
use ace_policies::token::{self, Claims};
use ace_policies::{MachineId, Provider, SessionId, TenantId, UserId};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::Body;
use crate::chance;
use crate::error::ApiError;
use crate::visitor::Visitor;
use crate::when::When;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create))
}

/// The tool of a token that names none.
const DEFAULT_TOOL: &str = "api";

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// `openai`, `anthropic` or `google`; left out, the request's path decides.
    provider: Option<String>,
    /// Seconds; left out, and at most, what the operator set (five minutes by default).
    ttl: Option<u64>,
    /// The tool that will use it, for the request log.
    tool: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Created {
    success: bool,
    token: String,
    expires_at: When,
    base_urls: BaseUrls,
}

/// Where tools find this gateway: what goes into `OPENAI_BASE_URL` and its like.
#[derive(Serialize, ToSchema)]
struct BaseUrls {
    openai: String,
    anthropic: String,
    google: String,
}

/// What a token is asked for.
#[derive(Clone, Debug)]
pub struct TokenWish {
    pub user: UserId,
    /// The session it is for, and the machine that session runs on: it ends with them. `None` is a token of the user's own.
    pub session: Option<(SessionId, MachineId)>,
    pub provider: Option<Provider>,
    pub tool: String,
    pub ttl: Duration,
}

/// A signed token.
pub struct IssuedToken {
    pub token: String,
    /// UTC seconds.
    pub expires_at: i64,
}

impl App {
    /// Signs a proxy token. How long it may last is left to the caller.
    ///
    /// Errors: 404 where there is no such user, or where the session is not live, not the user's, or not on the machine.
    pub async fn issue_proxy_token(&self, wish: &TokenWish) -> Result<IssuedToken, ApiError> {
        let (tenant, generation) = match wish.session {
            None => self.standing_of(wish.user).await?,
            Some((session, machine)) => self.standing_in(wish.user, session, machine).await?,
        };
        let iat = self.now() / 1000;
        let claims = Claims {
            session: wish.session.map(|(session, _)| session),
            user: wish.user,
            tenant,
            machine: wish.session.map(|(_, machine)| machine),
            provider: wish.provider,
            tool: wish.tool.clone(),
            models: None,
            iat,
            exp: iat.saturating_add(i64::try_from(wish.ttl.as_secs()).unwrap_or(i64::MAX)),
            jti: chance::id(),
            generation,
        };
        let token = token::sign(&claims, &self.signing_key().await?).map_err(ApiError::internal)?;
        Ok(IssuedToken {
            token,
            expires_at: claims.exp,
        })
    }

    async fn standing_of(&self, user: UserId) -> Result<(TenantId, i64), ApiError> {
        let row = sqlx::query("SELECT tenant_id, token_generation FROM users WHERE id = $1 AND is_active = 1");
        let row = row.bind(user.0).fetch_optional(&self.db().read).await?;
        let row = row.ok_or_else(|| ApiError::not_found("user"))?;
        Ok((TenantId(row.try_get(0)?), row.try_get(1)?))
    }

    /// The same within a session: whichever of the two is counted up revokes the token.
    async fn standing_in(
        &self,
        user: UserId,
        session: SessionId,
        machine: MachineId,
    ) -> Result<(TenantId, i64), ApiError> {
        let row = sqlx::query(
            "SELECT users.tenant_id, users.token_generation + agent_sessions.token_generation
             FROM users JOIN agent_sessions ON agent_sessions.user_id = users.id
             WHERE users.id = $1 AND users.is_active = 1 AND session_id = $2 AND remote_machine_id = $3
               AND status IN ('starting', 'active', 'paused')",
        )
        .bind(user.0)
        .bind(session.to_string())
        .bind(machine.to_string())
        .fetch_optional(&self.db().read)
        .await?;
        let row = row.ok_or_else(|| ApiError::not_found("session"))?;
        Ok((TenantId(row.try_get(0)?), row.try_get(1)?))
    }
}

/// Makes a proxy token for the caller.
#[utoipa::path(post, path = "/api/proxy-tokens", tag = "proxy-tokens", request_body = Wish,
    responses((status = 200, body = Created), (status = 400, body = crate::error::ErrorBody)))]
async fn create(State(app): State<App>, visitor: Visitor, Body(wish): Body<Wish>) -> Result<Json<Created>, ApiError> {
    let permit = visitor
        .permit(&app, Action::ProxyTokensCreate, &Standing::default())
        .await?;
    let wish = judge(&app, visitor.actor.user, wish)?;
    let issued = app.issue_proxy_token(&wish).await?;
    let expires_at = When::from_seconds(issued.expires_at);
    let mut write = app.write(&permit, &visitor.edge).await?;
    write.target(format_args!("user:{}", wish.user));
    write.after(&serde_json::json!({ "provider": wish.provider, "tool": wish.tool, "expires_at": expires_at }))?;
    write.commit().await?;
    let base_urls = base_urls(&visitor.edge);
    Ok(Json(Created {
        success: true,
        token: issued.token,
        expires_at,
        base_urls,
    }))
}

fn judge(app: &App, user: UserId, wish: Wish) -> Result<TokenWish, ApiError> {
    let provider = wish.provider.map(|provider| provider.parse()).transpose();
    let provider = provider.map_err(|error| ApiError::bad("unknown_provider", format!("provider: {error}")))?;
    let max = app.config().token_ttl_max;
    let ttl = wish.ttl.map_or(app.config().token_ttl, Duration::from_secs);
    if ttl.is_zero() || ttl > max {
        return Err(ApiError::field(
            "ttl",
            format_args!("must be between 1 and {} seconds", max.as_secs()),
        ));
    }
    let tool = wish.tool.unwrap_or_else(|| DEFAULT_TOOL.to_owned());
    if !(1..=64).contains(&tool.len()) || !tool.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ApiError::field(
            "tool",
            "1 to 64 visible ASCII characters without spaces are allowed",
        ));
    }
    Ok(TokenWish {
        user,
        session: None,
        provider,
        tool,
        ttl,
    })
}

/// The native paths, at the address that the caller used.
fn base_urls(edge: &EdgeHeaders) -> BaseUrls {
    let origin = format!("{}://{}", edge.scheme, edge.host);
    BaseUrls {
        openai: format!("{origin}/v1"),
        anthropic: origin.clone(),
        google: origin,
    }
}

#[cfg(test)]
mod tests;
