//! Who asks: finds the user behind a login or a personal API token, and refuses writes that another site makes with
//! somebody's cookie.

use ace_policies::access::{self, Action, Actor, Permit, Role, Scope, Standing};
use ace_policies::edge::EdgeHeaders;
use ace_policies::secret::{self, TokenKind};
use ace_policies::{TenantId, UserId};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use sqlx::Row;
use sqlx::any::AnyRow;
use url::Url;

use crate::App;
use crate::audit::Entry;
use crate::error::ApiError;

/// The cookie of a login.
pub(crate) const COOKIE: &str = "session_token";

/// How stale the time of a personal token's last use may be: not every request is worth a write.
const LAST_USE_PRECISION_MS: i64 = 60_000;

/// Somebody who has proved who they are.
pub(crate) struct Visitor {
    pub actor: Actor,
    pub edge: EdgeHeaders,
    /// The row of the login; `None` for a personal token.
    pub login: Option<i64>,
}

impl Visitor {
    /// The proof that the visitor may do something. That somebody tried a change which they may not make is recorded.
    pub async fn permit(&self, app: &App, action: Action, standing: &Standing) -> Result<Permit, ApiError> {
        match access::check(&self.actor, action, standing) {
            Ok(permit) => Ok(permit),
            Err(denied) => {
                if action.changes() {
                    let entry = Entry::denied(&self.actor, action, &self.edge, denied.code());
                    app.write_as(entry).await?.commit().await?;
                }
                Err(denied.into())
            }
        }
    }
}

impl FromRequestParts<App> for Visitor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let edge = origin(parts)?;
        let Credential { token, by_cookie } = Credential::of(&parts.headers).ok_or_else(ApiError::unauthenticated)?;
        if by_cookie {
            refuse_other_sites(&parts.method, &parts.headers, &edge)?;
        }
        match secret::kind_of(&token) {
            Some(TokenKind::Login) => by_login(app, &token, edge).await,
            Some(TokenKind::PersonalToken) => by_personal_token(app, &token, edge).await,
            _ => Err(ApiError::unauthenticated()),
        }
    }
}

/// Where the request comes from, for handlers that anybody may call.
pub(crate) struct Origin(pub EdgeHeaders);

impl FromRequestParts<App> for Origin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, ApiError> {
        origin(parts).map(Self)
    }
}

/// Refuses a write that a page of another site makes a browser send.
///
/// Both headers come from browsers alone; curl sends neither. The scheme counts only against `http`: TLS may end before
/// the gateway, but a page that was fetched in the clear has no business with one that was not.
pub(crate) fn refuse_other_sites(method: &Method, headers: &HeaderMap, edge: &EdgeHeaders) -> Result<(), ApiError> {
    if method.is_safe() {
        return Ok(());
    }
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site_is_ours = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let origin_is_ours = text("origin").is_none_or(|origin| is_ours(origin, edge));
    if site_is_ours && origin_is_ours {
        return Ok(());
    }
    Err(ApiError::forbidden(
        "cross_site",
        "this came from a page of another site",
    ))
}

fn is_ours(origin: &str, edge: &EdgeHeaders) -> bool {
    let (Ok(theirs), Ok(ours)) = (
        Url::parse(origin),
        Url::parse(&format!("{}://{}", edge.scheme, edge.host)),
    ) else {
        return false;
    };
    // A proxy that ends TLS leaves the host as it was: the port, when none is written, is the scheme's own.
    let upgraded = theirs.scheme() == "https" && ours.scheme() == "http";
    theirs.host() == ours.host()
        && (theirs.scheme() == ours.scheme() || upgraded)
        && (theirs.port() == ours.port() || theirs.port_or_known_default() == ours.port_or_known_default())
}

fn origin(parts: &Parts) -> Result<EdgeHeaders, ApiError> {
    parts
        .extensions
        .get::<EdgeHeaders>()
        .cloned()
        .ok_or_else(|| ApiError::internal("a route is outside the door"))
}

struct Credential {
    token: String,
    by_cookie: bool,
}

impl Credential {
    /// A header wins over a cookie: it was put there on purpose.
    fn of(headers: &HeaderMap) -> Option<Self> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            let token = token.trim().to_owned();
            return scheme.eq_ignore_ascii_case("bearer").then_some(Self {
                token,
                by_cookie: false,
            });
        }
        cookie(headers).map(|token| Self { token, by_cookie: true })
    }
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let pairs = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, v)| v.to_owned())
}

async fn by_login(app: &App, token: &str, edge: EdgeHeaders) -> Result<Visitor, ApiError> {
    let row = sqlx::query(
        "SELECT logins.id AS credential, users.* FROM logins JOIN users ON users.id = logins.user_id
         WHERE logins.token_hash = $1 AND logins.revoked_at IS NULL AND logins.expires_at > $2 AND users.is_active = 1",
    )
    .bind(secret::hash(token))
    .bind(app.now())
    .fetch_optional(&app.db().read)
    .await?
    .ok_or_else(ApiError::unauthenticated)?;
    Ok(Visitor {
        actor: actor(&row, None)?,
        edge,
        login: Some(row.try_get("credential")?),
    })
}

async fn by_personal_token(app: &App, token: &str, edge: EdgeHeaders) -> Result<Visitor, ApiError> {
    let row = sqlx::query(
        "SELECT personal_tokens.id AS credential, scopes, last_used_at, users.*
         FROM personal_tokens JOIN users ON users.id = personal_tokens.user_id
         WHERE token_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2) AND is_active = 1",
    )
    .bind(secret::hash(token))
    .bind(app.now())
    .fetch_optional(&app.db().read)
    .await?
    .ok_or_else(ApiError::unauthenticated)?;
    let scopes: Option<String> = row.try_get("scopes")?;
    let scopes: Vec<Scope> = match scopes {
        Some(scopes) => serde_json::from_str(&scopes).map_err(ApiError::internal)?,
        None => vec![Scope::Full],
    };
    note_use(app, &row).await?;
    Ok(Visitor {
        actor: actor(&row, Some(scopes))?,
        edge,
        login: None,
    })
}

/// Notes when the token was used. Not worth refusing a request for.
async fn note_use(app: &App, row: &AnyRow) -> Result<(), ApiError> {
    let last_used_at: Option<i64> = row.try_get("last_used_at")?;
    if last_used_at.is_some_and(|at| app.now() - at < LAST_USE_PRECISION_MS) {
        return Ok(());
    }
    let note = sqlx::query("UPDATE personal_tokens SET last_used_at = $1 WHERE id = $2")
        .bind(app.now())
        .bind(row.try_get::<i64, _>("credential")?);
    if let Err(error) = note.execute(&app.db().write).await {
        tracing::warn!(%error, "the use of a personal token was not noted");
    }
    Ok(())
}

fn actor(row: &AnyRow, scopes: Option<Vec<Scope>>) -> Result<Actor, ApiError> {
    Ok(Actor {
        user: UserId(row.try_get("id")?),
        username: row.try_get("username")?,
        tenant: TenantId(row.try_get("tenant_id")?),
        role: row
            .try_get::<String, _>("role")?
            .parse::<Role>()
            .map_err(ApiError::internal)?,
        must_change_password: row.try_get::<i64, _>("must_change_password")? != 0,
        scopes,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(scheme: &str, host: &str, origin: Option<&'static str>, site: Option<&'static str>, allowed: bool) {
        let edge = EdgeHeaders {
            client: [127, 0, 0, 1].into(),
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            request_id: String::new(),
            time: 0,
        };
        let mut headers = HeaderMap::new();
        origin.map(|origin| headers.insert("origin", HeaderValue::from_static(origin)));
        site.map(|site| headers.insert("sec-fetch-site", HeaderValue::from_static(site)));
        assert_eq!(
            refuse_other_sites(&Method::POST, &headers, &edge).is_ok(),
            allowed,
            "{origin:?} {site:?}"
        );
        assert!(refuse_other_sites(&Method::GET, &headers, &edge).is_ok());
    }

    #[test]
    fn only_our_own_pages_write_with_a_cookie() {
        check("http", "localhost:5000", None, None, true);
        check(
            "http",
            "localhost:5000",
            Some("http://localhost:5000"),
            Some("same-origin"),
            true,
        );
        check("http", "localhost:5000", None, Some("none"), true);
        check("http", "localhost:5000", Some("http://localhost:5001"), None, false);
        check("http", "localhost:5000", Some("http://evil.example"), None, false);
        check("http", "localhost:5000", Some("null"), None, false);
        check("http", "localhost:5000", None, Some("cross-site"), false);
        check("http", "localhost:5000", None, Some("same-site"), false);
        check(
            "http",
            "localhost:5000",
            Some("http://localhost:5000"),
            Some("cross-site"),
            false,
        );
    }

    #[test]
    fn tls_may_end_before_the_gateway() {
        check("http", "ace.example.com", Some("https://ace.example.com"), None, true);
        check(
            "https",
            "ace.example.com",
            Some("https://ace.example.com:443"),
            None,
            true,
        );
        check("https", "ace.example.com", Some("http://ace.example.com"), None, false);
        check(
            "http",
            "ace.example.com",
            Some("https://other.example.com"),
            None,
            false,
        );
    }
}
