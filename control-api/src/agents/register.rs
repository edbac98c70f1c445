//! POST /api/remote/agent/register: a registration token becomes a machine.

mod grant;
mod store;

use ace_policies::secret::{self, TokenKind};
use ace_policies::{MachineId, Secret, UserId};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::App;
use crate::audit::{Entry, act};
use crate::body::{Body, SecretText};
use crate::chance;
use crate::error::ApiError;
use crate::lockout::Registrar;
use crate::machines::{self, token_target};
use crate::record::Event;
use crate::visitor::Origin;
use crate::wakeups::Wakeup;
use crate::write::Write;

use grant::{Grant, Spent};
use store::Stored;

/// The longest text about a machine, in characters.
const MAX_TEXT: usize = 255;

/// The most that a machine may tell of what it can do, in bytes of JSON.
const MAX_CAPABILITIES: usize = 64 << 10;

/// Who registers. Agents of other versions may say more.
#[derive(Deserialize, ToSchema)]
pub(super) struct Wish {
    registration_token: SecretText,
    /// A UUID that the agent made and keeps.
    machine_id: String,
    machine_name: String,
    hostname: String,
    /// `linux`, `macos` or `windows`.
    os_type: String,
    os_version: String,
    /// What the machine can do: an object of at most 64 KiB.
    #[schema(value_type = Object)]
    capabilities: Map<String, Value>,
    agent_version: String,
    /// Left out, the address that the request came from.
    ip_address: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Registered {
    success: bool,
    machine: Credentials,
}

/// What an agent is told of its machine.
#[derive(Serialize, ToSchema)]
struct Credentials {
    machine_id: String,
    machine_name: String,
    /// `offline` until the agent connects.
    #[schema(value_type = String)]
    status: &'static str,
    tenant_id: i64,
    /// The agent's token. Shown this once.
    agent_token: String,
}

/// Registers a machine with a one-time token. The same machine keeps its id, assignments and history.
///
/// A lost answer is not a lost machine: for ten minutes, and until the agent's first message, the same token and machine id are
/// answered again, with a fresh agent token.
#[utoipa::path(post, path = "/api/remote/agent/register", tag = "agents", request_body = Wish, security(()),
    responses((status = 200, body = Registered), (status = 400, body = crate::error::ErrorBody),
              (status = 401, body = crate::error::ErrorBody), (status = 409, body = crate::error::ErrorBody),
              (status = 429, body = crate::error::ErrorBody)))]
pub(super) async fn register(
    State(app): State<App>,
    Origin(edge): Origin,
    Body(wish): Body<Wish>,
) -> Result<Json<Registered>, ApiError> {
    let registrar = Registrar::enter(&app, edge.client).await?;
    let machine = judge(&wish)?;
    let token_hash = token_hash(&wish.registration_token.0);
    let entry = Entry::unproved("agent", act::REGISTER_MACHINE, &edge);
    let mut write = app.write_as(entry.clone()).await?;
    let granted = match &token_hash {
        Some(hash) => grant::take(&mut write, hash, machine).await?,
        None => Err(Spent::Unknown),
    };
    let grant = match granted {
        Ok(grant) => grant,
        Err(spent) => {
            drop(write);
            registrar.failed(&app).await?;
            return Err(refuse(&app, entry, token_hash.as_deref(), machine, spent).await?);
        }
    };
    let token = secret::format(TokenKind::Agent, &chance::bytes());
    let stored = store::machine(&mut write, &wish, machine, &grant, &token, &edge).await?;
    store::creator(&mut write, machine, &grant, &stored).await?;
    tell(&mut write, machine, &wish, &grant, &stored, token_hash.as_deref())?;
    write.commit().await?;
    Ok(Json(Registered {
        success: true,
        machine: Credentials {
            machine_id: machine.to_string(),
            machine_name: wish.machine_name,
            status: "offline",
            tenant_id: grant.tenant.0,
            agent_token: token.expose().to_owned(),
        },
    }))
}

/// The hash of what can be a registration token at all.
fn token_hash(token: &Secret) -> Option<String> {
    let is_one = secret::kind_of(token.expose()) == Some(TokenKind::Registration);
    is_one.then(|| secret::hash(token.expose()))
}

fn judge(wish: &Wish) -> Result<MachineId, ApiError> {
    let wrong_id = |_| ApiError::field("machine_id", "must be a UUID");
    let machine = wish.machine_id.parse().map_err(wrong_id)?;
    machines::machine_name(&wish.machine_name)?;
    for (field, text) in [
        ("hostname", &wish.hostname),
        ("os_type", &wish.os_type),
        ("os_version", &wish.os_version),
        ("agent_version", &wish.agent_version),
    ] {
        if text.chars().count() > MAX_TEXT {
            let problem = format_args!("at most {MAX_TEXT} characters are allowed");
            return Err(ApiError::field(field, problem));
        }
    }
    let capabilities = serde_json::to_vec(&wish.capabilities).map_err(ApiError::internal)?;
    if capabilities.len() > MAX_CAPABILITIES {
        let problem = format_args!("at most {MAX_CAPABILITIES} bytes are allowed");
        return Err(ApiError::field("capabilities", problem));
    }
    Ok(machine)
}

/// Says in the audit log and to those who follow live what was registered.
fn tell(
    write: &mut Write,
    machine: MachineId,
    wish: &Wish,
    grant: &Grant,
    stored: &Stored,
    token_hash: Option<&str>,
) -> Result<(), ApiError> {
    let again = stored.before.is_some();
    let data = json!({ "machine_name": wish.machine_name, "hostname": wish.hostname, "again": again });
    write.tell(Event {
        kind: "machine.registered",
        tenant: grant.tenant,
        user: None,
        machine: Some(machine),
        session: None,
        data: &data,
    });
    if let Some(before) = &stored.before {
        write.before(before)?;
    }
    let with = token_hash.map(token_target);
    write
        .target(format_args!("machine:{machine}"))
        .tenant(grant.tenant)
        .after(&json!({ "machine": stored.after, "with": with, "on_behalf_of_user": grant.creator, "retry": grant.is_retry }))?
        // Whoever is connected with the token before is not any more.
        .ring(Wakeup::Machine(machine));
    Ok(())
}

/// The answer to a token that does not register this machine. What is known of the token stands in the audit log, not in the answer.
async fn refuse(
    app: &App,
    entry: Entry,
    token_hash: Option<&str>,
    machine: MachineId,
    spent: Spent,
) -> Result<ApiError, ApiError> {
    if let (Some(hash), true) = (token_hash, spent != Spent::Unknown) {
        let mut entry = entry;
        entry.result = "denied";
        entry.target = token_target(hash);
        entry.after = Some(json!({ "code": spent.code(), "machine_id": machine.to_string() }).to_string());
        app.write_as(entry).await?.commit().await?;
    }
    if spent == Spent::OfAnotherTenant {
        return Ok(of_another_tenant());
    }
    let message = "the registration token is unknown, expired or used";
    let refusal = ApiError::new(StatusCode::UNAUTHORIZED, "invalid_registration_token", message);
    Ok(refusal.hint("an admin can make a new one; each registers one machine"))
}

/// The one refusal that says what it knows: the token is good, and stays so.
fn of_another_tenant() -> ApiError {
    let message = "this machine is registered in another tenant; unregister it there first";
    ApiError::conflict(Spent::OfAnotherTenant.code(), message).hint("the registration token is not spent")
}

impl Grant {
    /// Whether the one who made the token is to be assigned: nothing crosses tenants.
    fn assigns(&self) -> Option<UserId> {
        (self.creator_tenant == self.tenant).then_some(self.creator)
    }
}

#[cfg(test)]
mod tests;
