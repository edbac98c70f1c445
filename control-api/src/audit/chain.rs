//! The chain of hashes, and how an entry is put at its end.

use std::collections::HashMap;

use ace_policies::vault::{MasterKey, Subkey, purpose};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::Entry;

/// The keys of the chain: the current one makes entries, the older ones verify those of before a change of master key.
pub(crate) struct Keys {
    current: String,
    keys: HashMap<String, Subkey>,
}

impl Keys {
    /// Takes the master keys, the current one first.
    pub fn new<'a>(masters: impl Iterator<Item = &'a MasterKey>) -> Self {
        let all: Vec<_> = masters
            .map(|master| (master.key_id(), master.subkey(purpose::AUDIT)))
            .collect();
        let current = all.first().map(|(id, _)| id.clone()).unwrap_or_default();
        Self {
            current,
            keys: all.into_iter().collect(),
        }
    }

    pub fn get(&self, key_id: &str) -> Option<&Subkey> {
        self.keys.get(key_id)
    }
}

/// Puts an entry at the end of the chain.
pub(crate) async fn append(
    connection: &mut AnyConnection,
    entry: &Entry,
    keys: &Keys,
    now: i64,
) -> Result<(), sqlx::Error> {
    let previous_hash = lock(connection).await?;
    let link = Link {
        at: now,
        actor_user_id: entry.actor.map(|user| user.0),
        actor_name: entry.actor_name.clone(),
        tenant_id: entry.tenant.map(|tenant| tenant.0),
        action: entry.action.to_owned(),
        target: entry.target.clone(),
        before: entry.before.clone(),
        after: entry.after.clone(),
        ip: entry.ip.clone(),
        request_id: entry.request_id.clone(),
        result: entry.result.to_owned(),
        key_id: keys.current.clone(),
        previous_hash,
    };
    let hash = link.hash(&keys.keys[&keys.current]);
    insert(connection, &link, &hash).await?;
    advance(connection, &hash).await
}

/// Lets one transaction at a time add to the chain, and returns the hash it ends with. The entry's number is given out
/// under this lock, so numbers follow the chain.
async fn lock(connection: &mut AnyConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("UPDATE audit_head SET entries = entries + 1 WHERE id = 1 RETURNING hash")
        .fetch_one(connection)
        .await
}

async fn advance(connection: &mut AnyConnection, hash: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE audit_head SET hash = $1 WHERE id = 1")
        .bind(hash)
        .execute(connection)
        .await
        .map(drop)
}

async fn insert(connection: &mut AnyConnection, link: &Link, hash: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO audit_log (at, actor_user_id, actor_name, tenant_id, action, target, before, after, ip,
                                request_id, result, key_id, previous_hash, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(link.at)
    .bind(link.actor_user_id)
    .bind(&link.actor_name)
    .bind(link.tenant_id)
    .bind(&link.action)
    .bind(&link.target)
    .bind(&link.before)
    .bind(&link.after)
    .bind(&link.ip)
    .bind(&link.request_id)
    .bind(&link.result)
    .bind(&link.key_id)
    .bind(&link.previous_hash)
    .bind(hash)
    .execute(connection)
    .await
    .map(drop)
}

/// What an entry's hash is made of: every column but the number and the hash itself.
pub(super) struct Link {
    at: i64,
    actor_user_id: Option<i64>,
    actor_name: String,
    tenant_id: Option<i64>,
    action: String,
    target: String,
    before: Option<String>,
    after: Option<String>,
    ip: String,
    request_id: String,
    result: String,
    pub key_id: String,
    pub previous_hash: String,
}

impl Link {
    pub fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            at: row.try_get("at")?,
            actor_user_id: row.try_get("actor_user_id")?,
            actor_name: row.try_get("actor_name")?,
            tenant_id: row.try_get("tenant_id")?,
            action: row.try_get("action")?,
            target: row.try_get("target")?,
            before: row.try_get("before")?,
            after: row.try_get("after")?,
            ip: row.try_get("ip")?,
            request_id: row.try_get("request_id")?,
            result: row.try_get("result")?,
            key_id: row.try_get("key_id")?,
            previous_hash: row.try_get("previous_hash")?,
        })
    }

    /// The hash, in hexadecimal. The key gives each field its length, so no two entries read alike.
    pub fn hash(&self, key: &Subkey) -> String {
        let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
        // NULL and the empty text are two things.
        let text = |text: &Option<String>| text.as_ref().map_or("-".to_owned(), |text| format!("+{text}"));
        let (at, actor, tenant) = (self.at.to_string(), number(self.actor_user_id), number(self.tenant_id));
        let (before, after) = (text(&self.before), text(&self.after));
        let fields = [
            "audit-v1",
            &self.previous_hash,
            &at,
            &actor,
            &self.actor_name,
            &tenant,
            &self.action,
            &self.target,
            &before,
            &after,
            &self.ip,
            &self.request_id,
            &self.result,
            &self.key_id,
        ];
        hex::encode(key.mac(&fields.map(str::as_bytes)))
    }
}
