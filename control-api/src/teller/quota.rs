//! Brings what gateways write into `quota_events` among the other events, each once.

use ace_policies::quota::Account;
use ace_policies::{MachineId, SessionId, TenantId, UserId};
use serde_json::{Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use crate::App;
use crate::error::ApiError;
use crate::record::Event;
use crate::when::When;

/// How far back a node looks when it starts: what is older is no news. Less than events are kept, by which doubles are known.
const FIRST_LOOK_MS: i64 = 86_400_000;

/// How far behind the newest one it looks again: gateways write them one after another, and save them in any order.
const LAG_MS: i64 = 60_000;

/// How long it waits between two looks, in milliseconds.
const PAUSE_MS: i64 = 1_000;

/// Where it has got to.
pub(super) struct Bridge {
    since: i64,
    looked_at: i64,
}

impl Bridge {
    pub fn new(app: &App) -> Self {
        Self {
            since: app.now() - FIRST_LOOK_MS,
            looked_at: i64::MIN,
        }
    }

    /// Looks for new ones, and makes events of them.
    pub async fn carry(&mut self, app: &App) -> Result<(), ApiError> {
        let now = app.now();
        if now.saturating_sub(self.looked_at) < PAUSE_MS {
            return Ok(());
        }
        self.looked_at = now;
        let rows = sqlx::query(
            "SELECT * FROM quota_events WHERE at >= $1 AND NOT EXISTS
                (SELECT 1 FROM events WHERE events.cause = 'quota:' || CAST(quota_events.id AS TEXT)) ORDER BY id",
        )
        .bind(self.since)
        .fetch_all(&app.db().read)
        .await?;
        for row in &rows {
            carry_one(app, row).await?;
        }
        self.since = self.since.max(now - LAG_MS);
        Ok(())
    }
}

async fn carry_one(app: &App, row: &AnyRow) -> Result<(), ApiError> {
    let id: i64 = row.try_get("id")?;
    let (kind, of): (String, String) = (row.try_get("account_kind")?, row.try_get("account_id")?);
    let mut record = app.record().await?;
    let whose = match Account::parse(&kind, &of) {
        Some(account) => Whose::find(record.sql(), account).await?,
        None => None,
    };
    // Of somebody who is gone: nobody is left to be told.
    let whose = whose.unwrap_or_default();
    let data = data(row)?;
    record.tell_once(
        Event {
            kind: "quota.threshold",
            tenant: whose.tenant,
            user: whose.user,
            machine: whose.machine,
            session: whose.session,
            data: &data,
        },
        format!("quota:{id}"),
    );
    record.commit().await
}

fn data(row: &AnyRow) -> Result<Value, ApiError> {
    Ok(json!({
        "account_kind": row.try_get::<String, _>("account_kind")?,
        "account_id": row.try_get::<String, _>("account_id")?,
        "limit": row.try_get::<String, _>("limit_name")?,
        "percent": row.try_get::<i64, _>("percent")?,
        "used": row.try_get::<i64, _>("used")?,
        "maximum": row.try_get::<i64, _>("maximum")?,
        "period_start": When(row.try_get("period_start")?),
        "dry_run": row.try_get::<i64, _>("dry_run")? != 0,
    }))
}

/// Whose limit it is.
struct Whose {
    tenant: TenantId,
    user: Option<UserId>,
    machine: Option<MachineId>,
    session: Option<SessionId>,
}

impl Default for Whose {
    fn default() -> Self {
        Self {
            tenant: TenantId::DEFAULT,
            user: None,
            machine: None,
            session: None,
        }
    }
}

impl Whose {
    async fn find(connection: &mut AnyConnection, account: Account) -> Result<Option<Self>, ApiError> {
        let sql = match account {
            Account::Tenant(tenant) => {
                return Ok(Some(Self {
                    tenant,
                    ..Self::default()
                }));
            }
            Account::User(_) => "SELECT tenant_id, id AS user_id FROM users WHERE id = CAST($1 AS BIGINT)",
            Account::Session(_) => "SELECT tenant_id, user_id FROM agent_sessions WHERE session_id = $1",
            Account::Machine(_) => {
                "SELECT tenant_id, CAST(NULL AS BIGINT) AS user_id FROM remote_machines WHERE machine_id = $1"
            }
            Account::ProviderKey(_) => {
                "SELECT tenant_id, CAST(NULL AS BIGINT) AS user_id FROM api_key_store WHERE id = CAST($1 AS BIGINT)"
            }
        };
        let row = sqlx::query(sql).bind(account.id()).fetch_optional(connection).await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Self {
            tenant: TenantId(row.try_get("tenant_id")?),
            user: row.try_get::<Option<i64>, _>("user_id")?.map(UserId),
            machine: if let Account::Machine(id) = account {
                Some(id)
            } else {
                None
            },
            session: if let Account::Session(id) = account {
                Some(id)
            } else {
                None
            },
        }))
    }
}
