//! Whose request it is: by a token, or by the name of a user and a session.

use ace_policies::session::State;
use ace_policies::token::{Claims, Keyring, SigningKey};
use ace_policies::vault::{Sealed, signing_key_aad};
use ace_policies::{MachineId, Provider, SessionId, TenantId, UserId};
use serde_json::json;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Check, Question};
use crate::App;
use crate::error::ApiError;
use crate::when::When;

/// What is known of the one who asks.
pub(super) struct Who {
    pub user: UserId,
    pub tenant: TenantId,
    pub session: Option<SessionId>,
    pub machine: Option<MachineId>,
    pub provider: Option<Provider>,
    pub models: Option<Vec<String>>,
}

/// Finds it out. `None` where the question leads to nobody; then a check says so.
pub(super) async fn find(app: &App, question: &Question, checks: &mut Vec<Check>) -> Result<Option<Who>, ApiError> {
    match (&question.token, question.user_id) {
        (Some(_), Some(_)) => Err(ApiError::field("user_id", "give either user_id or token")),
        (Some(_), None) if question.session_id.is_some() => Err(ApiError::field(
            "session_id",
            "goes with user_id; a token says it itself",
        )),
        (Some(token), None) => by_token(app, token.0.expose(), checks).await,
        (None, Some(user)) => by_name(app, UserId(user), question.session_id.as_deref(), checks).await,
        (None, None) => Err(ApiError::field("user_id", "is missing; or give a token")),
    }
}

async fn by_token(app: &App, token: &str, checks: &mut Vec<Check>) -> Result<Option<Who>, ApiError> {
    let claims = match keyring(app).await?.verify(token.trim(), app.now() / 1000) {
        Ok(claims) => claims,
        Err(error) => {
            checks.push(Check::no("token", 401, format!("the token is not good: {error}")));
            return Ok(None);
        }
    };
    let until = When::from_seconds(claims.exp);
    checks.push(Check::yes(
        "token",
        format!("it is signed by a key of ours, and good until {until}"),
    ));
    let user = user(app, claims.user, checks).await?;
    let session = match claims.session {
        Some(session) => find_session(app, session, claims.user, checks).await?,
        None => None,
    };
    let Some(user) = user else { return Ok(None) };
    judge_generation(&claims, &user, session.as_ref(), checks)?;
    Ok(Some(Who {
        user: claims.user,
        tenant: claims.tenant,
        session: claims.session,
        machine: claims.machine,
        provider: claims.provider,
        models: claims.models,
    }))
}

/// Generations are counted up to revoke what was signed before.
fn judge_generation(
    claims: &Claims,
    user: &AnyRow,
    session: Option<&AnyRow>,
    checks: &mut Vec<Check>,
) -> Result<(), ApiError> {
    let of_session: i64 = match session {
        Some(session) => session.try_get("token_generation")?,
        None => 0,
    };
    let current = user.try_get::<i64, _>("token_generation")? + of_session;
    if claims.tenant.0 != user.try_get::<i64, _>("tenant_id")? {
        checks.push(Check::no("token", 401, "the user is of another tenant by now"));
    } else if claims.generation != current {
        checks.push(Check::no("token", 401, "the token was revoked"));
    }
    Ok(())
}

async fn by_name(
    app: &App,
    id: UserId,
    session: Option<&str>,
    checks: &mut Vec<Check>,
) -> Result<Option<Who>, ApiError> {
    let session = session
        .map(|session| session.parse::<SessionId>())
        .transpose()
        .map_err(|_| ApiError::field("session_id", "must be a UUID"))?;
    let row = user(app, id, checks).await?;
    let found = match session {
        Some(session) => find_session(app, session, id, checks).await?,
        None => None,
    };
    let Some(row) = row else { return Ok(None) };
    let machine = match &found {
        Some(found) => found.try_get::<Option<String>, _>("remote_machine_id")?,
        None => None,
    };
    Ok(Some(Who {
        user: id,
        tenant: TenantId(row.try_get("tenant_id")?),
        session,
        machine: machine.and_then(|machine| machine.parse().ok()),
        provider: None,
        models: None,
    }))
}

async fn user(app: &App, id: UserId, checks: &mut Vec<Check>) -> Result<Option<AnyRow>, ApiError> {
    let row = sqlx::query("SELECT * FROM users WHERE id = $1")
        .bind(id.0)
        .fetch_optional(&app.db().read)
        .await?;
    let Some(row) = row else {
        checks.push(Check::no("user", 401, format!("there is no user {id}")));
        return Ok(None);
    };
    let name: String = row.try_get("username")?;
    checks.push(match row.try_get::<i64, _>("is_active")? {
        0 => Check::no("user", 401, format!("{name} is disabled")),
        _ => Check::yes("user", format!("{name} is active")),
    });
    Ok(Some(row))
}

async fn find_session(
    app: &App,
    id: SessionId,
    user: UserId,
    checks: &mut Vec<Check>,
) -> Result<Option<AnyRow>, ApiError> {
    let row = sqlx::query("SELECT * FROM agent_sessions WHERE session_id = $1")
        .bind(id.to_string())
        .fetch_optional(&app.db().read)
        .await?;
    let Some(row) = row else {
        checks.push(Check::no("session", 401, "there is no such session"));
        return Ok(None);
    };
    let status: String = row.try_get("status")?;
    let is_live = status.parse::<State>().is_ok_and(State::is_live);
    let check = if row.try_get::<i64, _>("user_id")? != user.0 {
        Check::no("session", 401, "the session is somebody else's")
    } else if is_live {
        Check::yes("session", format!("the session is {status}"))
    } else {
        Check::no(
            "session",
            401,
            format!("the session is {status}, and its tokens with it"),
        )
    };
    checks.push(check.with(json!({ "status": status })));
    Ok(Some(row))
}

/// The keys that verify tokens now.
async fn keyring(app: &App) -> Result<Keyring, ApiError> {
    let rows = sqlx::query("SELECT * FROM signing_keys WHERE retired_at IS NULL OR retired_at > $1")
        .bind(app.now())
        .fetch_all(&app.db().read)
        .await?;
    let open = |row: &AnyRow| {
        let kid: String = row.try_get("kid")?;
        let sealed = Sealed {
            key_id: row.try_get("key_id")?,
            bytes: row.try_get("sealed")?,
        };
        let secret = app.vault().open(&signing_key_aad(&kid), &sealed);
        SigningKey::new(kid, &secret.map_err(ApiError::internal)?).map_err(ApiError::internal)
    };
    let keys = rows.iter().map(open).collect::<Result<_, ApiError>>()?;
    Ok(Keyring::new(keys))
}
