//! What a registration token allows: one machine, once; and for a while the same machine again, in case its answer was lost.

use ace_policies::access::Role;
use ace_policies::{MachineId, TenantId, UserId};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::error::ApiError;
use crate::write::Write;

/// How long a registration may be repeated, in milliseconds.
const RETRY_MS: i64 = 600_000;

/// A token that was good for this machine. It is consumed with the transaction.
pub(super) struct Grant {
    pub tenant: TenantId,
    /// Who made the token.
    pub creator: UserId,
    pub creator_tenant: TenantId,
    pub is_retry: bool,
}

/// Why a token registers nothing. People are told the reason only in the audit log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spent {
    /// There is no such token.
    Unknown,
    Expired,
    /// Used, and not to be repeated.
    Used,
    /// Its maker is not a system admin any more.
    MakerGone,
    /// The machine is registered elsewhere.
    OfAnotherTenant,
}

impl Spent {
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_token",
            Self::Expired => "token_expired",
            Self::Used => "token_used",
            Self::MakerGone => "token_maker_gone",
            Self::OfAnotherTenant => "machine_of_another_tenant",
        }
    }
}

/// Consumes a token for a machine. The token's row is locked first: of many who come with it at once, one finds it unused.
pub(super) async fn take(write: &mut Write, hash: &str, machine: MachineId) -> Result<Result<Grant, Spent>, ApiError> {
    let now = write.record().app().now();
    let Some(token) = lock(write, hash).await? else {
        return Ok(Err(Spent::Unknown));
    };
    let (grant, consumed_at) = (token.grant(), token.consumed_at);
    if !token.maker_is_admin {
        return Ok(Err(Spent::MakerGone));
    }
    if !belongs(write, machine, grant.tenant).await? {
        return Ok(Err(Spent::OfAnotherTenant));
    }
    match consumed_at {
        None if token.expires_at <= now => Ok(Err(Spent::Expired)),
        None => {
            consume(write, hash, machine, now).await?;
            Ok(Ok(grant))
        }
        Some(at) if token.machine.as_deref() == Some(&machine.to_string()) && now - at < RETRY_MS => {
            let may = may_repeat(write, hash, machine, at).await?;
            Ok(may.then_some(grant).ok_or(Spent::Used))
        }
        Some(_) => Ok(Err(Spent::Used)),
    }
}

struct Token {
    tenant: TenantId,
    expires_at: i64,
    consumed_at: Option<i64>,
    machine: Option<String>,
    creator: UserId,
    creator_tenant: TenantId,
    maker_is_admin: bool,
}

async fn lock(write: &mut Write, hash: &str) -> Result<Option<Token>, ApiError> {
    let lock = sqlx::query("UPDATE registration_tokens SET expires_at = expires_at WHERE token_hash = $1").bind(hash);
    lock.execute(write.sql()).await?;
    let row = sqlx::query(
        "SELECT registration_tokens.*, users.tenant_id AS creator_tenant, users.role, users.is_active
         FROM registration_tokens JOIN users ON users.id = registration_tokens.created_by WHERE token_hash = $1",
    )
    .bind(hash)
    .fetch_optional(write.sql())
    .await?;
    Ok(row.as_ref().map(Token::read).transpose()?)
}

impl Token {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let is_active = row.try_get::<i64, _>("is_active")? != 0;
        Ok(Self {
            tenant: TenantId(row.try_get("tenant_id")?),
            expires_at: row.try_get("expires_at")?,
            consumed_at: row.try_get("consumed_at")?,
            machine: row.try_get("machine_id")?,
            creator: UserId(row.try_get("created_by")?),
            creator_tenant: TenantId(row.try_get("creator_tenant")?),
            maker_is_admin: is_active && row.try_get::<String, _>("role")? == Role::Admin.as_str(),
        })
    }

    const fn grant(&self) -> Grant {
        Grant {
            tenant: self.tenant,
            creator: self.creator,
            creator_tenant: self.creator_tenant,
            is_retry: self.consumed_at.is_some(),
        }
    }
}

/// Whether a machine of this id is the tenant's, or nobody's yet. It is held still.
async fn belongs(write: &mut Write, machine: MachineId, tenant: TenantId) -> Result<bool, ApiError> {
    let row = sqlx::query("UPDATE remote_machines SET tenant_id = tenant_id WHERE machine_id = $1 RETURNING tenant_id")
        .bind(machine.to_string())
        .fetch_optional(write.sql())
        .await?;
    let theirs = row.map(|row| row.try_get(0).map(TenantId)).transpose()?;
    Ok(theirs.is_none_or(|theirs| theirs == tenant))
}

async fn consume(write: &mut Write, hash: &str, machine: MachineId, now: i64) -> Result<(), ApiError> {
    sqlx::query("UPDATE registration_tokens SET consumed_at = $1, machine_id = $2 WHERE token_hash = $3")
        .bind(now)
        .bind(machine.to_string())
        .bind(hash)
        .execute(write.sql())
        .await?;
    Ok(())
}

/// Whether the machine still is as this token left it: its agent has not spoken yet, its token was not revoked, and no other
/// registration came after.
async fn may_repeat(write: &mut Write, hash: &str, machine: MachineId, consumed_at: i64) -> Result<bool, ApiError> {
    let row = sqlx::query(
        "SELECT COUNT(*) FROM remote_machines
         WHERE machine_id = $1 AND authenticated_at IS NULL AND agent_token_hash IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM registration_tokens
                           WHERE machine_id = $1 AND token_hash <> $2 AND consumed_at >= $3)",
    )
    .bind(machine.to_string())
    .bind(hash)
    .bind(consumed_at)
    .fetch_one(write.sql())
    .await?;
    Ok(row.try_get::<i64, _>(0)? == 1)
}
