//! POST /api/remote/machines/register: the token that lets a machine in, once.

use std::time::Duration;

use ace_policies::access::{Action, Standing};
use ace_policies::edge::EdgeHeaders;
use ace_policies::secret::{self, TokenKind};
use ace_policies::{Secret, TenantId, UserId};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::App;
use crate::audit::Entry;
use crate::body::Body;
use crate::chance;
use crate::error::ApiError;
use crate::users;
use crate::visitor::Visitor;
use crate::when::When;
use crate::write::Write;

/// How long a token lasts when nothing is said, in seconds.
const TTL_S: i64 = 3_600;

/// The shortest and the longest life that may be asked for, in seconds: long enough to paste a command, and short enough
/// that a forgotten one is worth nothing.
const TTL_BOUNDS_S: std::ops::RangeInclusive<i64> = 60..=86_400;

/// How long a token's row is kept after its end: it answers who registered what.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// What the token is to be for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// The tenant that the machine will belong to.
    #[serde(default = "default_tenant")]
    tenant_id: i64,
    /// Seconds, 60 to 86400; left out, 3600.
    ttl: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Created {
    success: bool,
    /// Registers one machine. Shown this once.
    registration_token: String,
    expires_at: When,
    install_commands: InstallCommands,
}

/// What to run on the machine, with the address that the caller used.
#[derive(Serialize, ToSchema)]
struct InstallCommands {
    linux: String,
    macos: String,
    /// For PowerShell.
    windows: String,
}

/// Makes a registration token, which registers one machine.
#[utoipa::path(post, path = "/api/remote/machines/register", tag = "machines", request_body = Wish,
    responses((status = 200, body = Created), (status = 400, body = crate::error::ErrorBody)))]
pub(super) async fn register(
    State(app): State<App>,
    visitor: Visitor,
    Body(wish): Body<Wish>,
) -> Result<Json<Created>, ApiError> {
    let permit = visitor
        .permit(&app, Action::MachinesRegister, &Standing::default())
        .await?;
    let ttl_s = judge(wish.ttl)?;
    let origin = origin(&visitor.edge)?;
    let token = secret::format(TokenKind::Registration, &chance::bytes());
    let expires_at = When(app.now() + ttl_s * 1000);
    let mut write = app.write(&permit, &visitor.edge).await?;
    users::refuse_unknown_tenant(&mut write, TenantId(wish.tenant_id)).await?;
    store(
        &mut write,
        visitor.actor.user,
        &token,
        TenantId(wish.tenant_id),
        expires_at,
    )
    .await?;
    write.target(target(&secret::hash(token.expose())));
    write.after(&json!({ "tenant_id": wish.tenant_id, "expires_at": expires_at }))?;
    write.commit().await?;
    Ok(Json(Created {
        success: true,
        expires_at,
        install_commands: InstallCommands::with(&origin, &token),
        registration_token: token.expose().to_owned(),
    }))
}

/// How the audit log calls a token, here and where it is used: by the beginning of its hash.
pub(crate) fn target(hash: &str) -> String {
    format!("registration_token:{}", hash.get(..16).unwrap_or(hash))
}

impl App {
    /// Makes a registration token for this program's own use, in a user's name.
    pub async fn issue_registration_token(&self, by: UserId) -> Result<Secret, ApiError> {
        let token = secret::format(TokenKind::Registration, &chance::bytes());
        let mut write = self
            .write_as(Entry::system("demo", Action::MachinesRegister.name()))
            .await?;
        let expires_at = When(self.now() + TTL_S * 1000);
        store(&mut write, by, &token, TenantId::DEFAULT, expires_at).await?;
        write
            .target(target(&secret::hash(token.expose())))
            .after(&json!({ "expires_at": expires_at }))?;
        write.commit().await?;
        Ok(token)
    }
}

async fn store(
    write: &mut Write,
    by: UserId,
    token: &Secret,
    tenant: TenantId,
    expires_at: When,
) -> Result<(), ApiError> {
    let now = write.record().app().now();
    let kept = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
    let forget = sqlx::query("DELETE FROM registration_tokens WHERE expires_at < $1").bind(now - kept);
    forget.execute(write.sql()).await?;
    sqlx::query(
        "INSERT INTO registration_tokens (token_hash, tenant_id, created_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(secret::hash(token.expose()))
    .bind(tenant.0)
    .bind(by.0)
    .bind(now)
    .bind(expires_at.0)
    .execute(write.sql())
    .await?;
    Ok(())
}

fn judge(ttl: Option<i64>) -> Result<i64, ApiError> {
    let (min, max) = (TTL_BOUNDS_S.start(), TTL_BOUNDS_S.end());
    let ttl = ttl.unwrap_or(TTL_S);
    let wrong = || ApiError::field("ttl", format_args!("must be between {min} and {max} seconds"));
    TTL_BOUNDS_S.contains(&ttl).then_some(ttl).ok_or_else(wrong)
}

/// The address that the caller used. It goes into commands that people paste into a shell, so nothing of a shell's may be in it.
fn origin(edge: &EdgeHeaders) -> Result<String, ApiError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if edge.host.is_empty() || !edge.host.chars().all(is_plain) {
        return Err(ApiError::bad(
            "invalid_host",
            "the header Host is no address that a machine could be told",
        ));
    }
    Ok(format!("{}://{}", edge.scheme, edge.host))
}

impl InstallCommands {
    fn with(origin: &str, token: &Secret) -> Self {
        let token = token.expose();
        // A literal IPv6 address has brackets, which shells take for patterns.
        let url = if origin.contains('[') {
            format!("'{origin}'")
        } else {
            origin.to_owned()
        };
        let script = if origin.contains('[') {
            format!("-g '{origin}/api/remote/agent/install.sh'")
        } else {
            format!("{origin}/api/remote/agent/install.sh")
        };
        let unix = format!("curl -fsSL {script} | bash -s -- --server {url} --token {token}");
        Self {
            linux: unix.clone(),
            macos: unix,
            windows: format!(
                "$env:OPENACE_SERVER_URL='{origin}'; $env:OPENACE_REGISTRATION_TOKEN='{token}'; \
                 Invoke-WebRequest -UseBasicParsing -Uri '{origin}/api/remote/agent/install.ps1' | Invoke-Expression"
            ),
        }
    }
}

const fn default_tenant() -> i64 {
    TenantId::DEFAULT.0
}
