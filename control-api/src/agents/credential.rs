//! Which machine an agent speaks for: the one that its token is bound to, on every message.

use ace_policies::edge::EdgeHeaders;
use ace_policies::secret::{self, TokenKind};
use ace_policies::{MachineId, TenantId};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::App;
use crate::error::ApiError;
use crate::visitor::Origin;
use crate::wakeups::Wakeup;

/// An agent that has proved which machine's it is, with `Authorization: Bearer acea_…`.
///
/// The first use of a rotation's new token makes it the machine's token, and the old one worthless. Errors: 401
/// `invalid_agent_token`; 401 `machine_unregistered` where the machine was taken off the list.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub machine: MachineId,
    pub tenant: TenantId,
    pub machine_name: String,
    /// `own` or `python`, as it spoke last.
    pub dialect: String,
    /// Whether its sessions' proxy tokens may live as long as they do.
    pub allow_long_tokens: bool,
    /// What [`verdict`] is asked with while a connection lasts.
    pub token_hash: String,
    pub edge: EdgeHeaders,
}

/// What has become of the token that a connection was opened with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is the machine's, or a rotation's new one.
    Good,
    /// Revoked, or replaced. The connection is to be closed.
    Ended,
    /// The machine was taken off the list: the agent is to end its CLIs and to forget this server.
    Unregistered,
}

impl FromRequestParts<App> for Agent {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Origin(edge) = Origin::from_request_parts(parts, app).await?;
        let hash = bearer(&parts.headers).ok_or_else(invalid)?;
        let Some(row) = find(app, &hash).await? else {
            return Err(refusal(app, &hash).await?);
        };
        let agent = Self::read(&row, hash, edge)?;
        agent.note_use(app, &row).await?;
        Ok(agent)
    }
}

impl Agent {
    fn read(row: &AnyRow, token_hash: String, edge: EdgeHeaders) -> Result<Self, ApiError> {
        let machine: String = row.try_get("machine_id")?;
        Ok(Self {
            machine: machine
                .parse()
                .map_err(|error: uuid::Error| ApiError::internal(error))?,
            tenant: TenantId(row.try_get("tenant_id")?),
            machine_name: row.try_get("machine_name")?,
            dialect: row.try_get("dialect")?,
            allow_long_tokens: row.try_get::<i64, _>("allow_long_tokens")? != 0,
            token_hash,
            edge,
        })
    }

    /// Does what the first use of a token does, before anything else is done with it. Errors: 401 when the token ended meanwhile.
    async fn note_use(&self, app: &App, row: &AnyRow) -> Result<(), ApiError> {
        let current: Option<String> = row.try_get("agent_token_hash")?;
        let is_next = current.as_ref() != Some(&self.token_hash);
        if !is_next && row.try_get::<Option<i64>, _>("authenticated_at")?.is_some() {
            return Ok(());
        }
        let mut record = app.record().await?;
        let noted = sqlx::query(if is_next { TAKE_OVER } else { FIRST_USE })
            .bind(app.now())
            .bind(self.machine.to_string())
            .bind(&self.token_hash)
            .execute(record.sql())
            .await?;
        if noted.rows_affected() == 0 {
            drop(record);
            // Another message of this agent was faster, or the token has just ended.
            return match verdict(app, self.machine, &self.token_hash).await? {
                Verdict::Good => Ok(()),
                Verdict::Ended | Verdict::Unregistered => Err(invalid()),
            };
        }
        if is_next {
            // Whoever is connected with the old token is not any more.
            record.ring(Wakeup::Machine(self.machine));
        }
        record.commit().await
    }
}

const FIRST_USE: &str = "UPDATE remote_machines SET authenticated_at = $1
                         WHERE machine_id = $2 AND agent_token_hash = $3 AND authenticated_at IS NULL";

const TAKE_OVER: &str =
    "UPDATE remote_machines SET agent_token_hash = next_agent_token_hash, next_agent_token_hash = NULL,
                                rotation_id = NULL, token_version = token_version + 1, authenticated_at = $1
                         WHERE machine_id = $2 AND next_agent_token_hash = $3";

/// Whether a connection that was opened with this token may go on. To be asked when [`Wakeup::Machine`] rings, and now and then.
pub(crate) async fn verdict(app: &App, machine: MachineId, token_hash: &str) -> Result<Verdict, ApiError> {
    let row = find(app, token_hash).await?;
    let id = row.map(|row| row.try_get::<String, _>("machine_id")).transpose()?;
    Ok(match id {
        Some(id) if id == machine.to_string() => Verdict::Good,
        _ if is_unregistered(app, token_hash).await? => Verdict::Unregistered,
        _ => Verdict::Ended,
    })
}

async fn find(app: &App, hash: &str) -> Result<Option<AnyRow>, sqlx::Error> {
    sqlx::query("SELECT * FROM remote_machines WHERE agent_token_hash = $1 OR next_agent_token_hash = $1")
        .bind(hash)
        .fetch_optional(&app.db().read)
        .await
}

async fn refusal(app: &App, hash: &str) -> Result<ApiError, ApiError> {
    if is_unregistered(app, hash).await? {
        return Ok(unregistered());
    }
    Ok(invalid())
}

async fn is_unregistered(app: &App, hash: &str) -> Result<bool, ApiError> {
    let row = sqlx::query("SELECT machine_id FROM unregistered_agents WHERE token_hash = $1").bind(hash);
    Ok(row.fetch_optional(&app.db().read).await?.is_some())
}

/// What the agent of a machine that was taken off the list is told, whenever it comes.
pub(super) fn unregistered() -> ApiError {
    let message = "this machine was unregistered; end its sessions and forget this server";
    ApiError::new(StatusCode::UNAUTHORIZED, "machine_unregistered", message)
        .hint("an admin can make a new registration token")
}

/// One answer for a token that is missing, unknown or revoked.
fn invalid() -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "invalid_agent_token",
        "the agent token is missing, unknown or revoked",
    )
    .hint("register the machine again with a new registration token")
}

/// The hash of the agent token, where there is one.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let is_ours = scheme.eq_ignore_ascii_case("bearer") && secret::kind_of(token) == Some(TokenKind::Agent);
    is_ours.then(|| secret::hash(token))
}

#[cfg(test)]
pub(in crate::agents) mod tests;
