//! The gateway's side of the database: one thread with one runtime that keeps the snapshot fresh and writes the ledger.
//! The hot path never waits for it, except where a token names something that the snapshot does not know yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ace_migrations::Db;
use ace_policies::quota::{Account, Limit};
use ace_policies::token::{Keyring, SigningKey};
use ace_policies::vault::{Sealed, Vault, api_key_aad, signing_key_aad};
use ace_policies::{KeyId, Provider, SessionId, TenantId, UserId};
use arc_swap::ArcSwap;
use sqlx::Row;
use sqlx::any::AnyRow;
use tokio::sync::{mpsc, oneshot};
use url::Url;

use crate::clock::now_ms;
use crate::engine::connect::Origin;
use crate::keys::ProviderKey;
use crate::snapshot::{Limits, SessionState, Snapshot, UserState};

/// The shortest time between two reloads that were asked for, however many ask.
const RELOAD_PAUSE: Duration = Duration::from_millis(20);
/// How long somebody who asked for a reload waits for it.
const RELOAD_WAIT: Duration = Duration::from_secs(2);

/// Reads the current [`Snapshot`] and asks for newer ones.
#[derive(Clone)]
pub struct Store {
    snapshot: Arc<ArcSwap<Snapshot>>,
    checked_at_ms: Arc<AtomicI64>,
    reloads: mpsc::Sender<oneshot::Sender<()>>,
}

impl Store {
    /// The current view.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// How long ago the database last confirmed the view.
    pub fn staleness(&self) -> Duration {
        let age = now_ms().saturating_sub(self.checked_at_ms.load(Ordering::Relaxed));
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    /// Waits, for a bounded time, for a view that is read after this call.
    pub async fn reload(&self) {
        let (done, wait) = oneshot::channel();
        if self.reloads.try_send(done).is_ok() {
            let _ = tokio::time::timeout(RELOAD_WAIT, wait).await;
        }
    }
}

/// Keeps the snapshot fresh; runs on the store's runtime.
pub struct Refresher {
    db: Db,
    vault: Vault,
    interval: Duration,
    store: Store,
    requests: mpsc::Receiver<oneshot::Sender<()>>,
    versions: Vec<(String, i64)>,
    keyring: Vec<(String, Vec<u8>)>,
    /// When the next signing key ends, UTC milliseconds: time alone changes nothing in the database.
    next_retirement: i64,
}

impl Refresher {
    /// Reads the first snapshot. An error here is one at the start: the database must be there then.
    pub async fn start(db: Db, vault: Vault, interval: Duration) -> Result<(Store, Self), LoadError> {
        let (reloads, requests) = mpsc::channel(1024);
        let store = Store {
            snapshot: Arc::default(),
            checked_at_ms: Arc::new(AtomicI64::new(0)),
            reloads,
        };
        let mut refresher = Self {
            db,
            vault,
            interval,
            store: store.clone(),
            requests,
            versions: Vec::new(),
            keyring: Vec::new(),
            next_retirement: i64::MAX,
        };
        refresher.reload().await?;
        Ok((store, refresher))
    }

    /// Polls for changes and serves requests for reloads, for ever.
    pub async fn run(mut self) {
        loop {
            let asked = tokio::select! {
                asked = self.requests.recv() => asked,
                () = tokio::time::sleep(self.interval) => None,
            };
            let result = match asked {
                Some(first) => self.serve(first).await,
                None => self.poll().await,
            };
            if let Err(error) = result {
                tracing::warn!(%error, stale_ms = self.store.staleness().as_millis() as u64, "the database cannot be read");
                tokio::time::sleep(self.interval).await;
            }
        }
    }

    async fn serve(&mut self, first: oneshot::Sender<()>) -> Result<(), LoadError> {
        let mut waiting = vec![first];
        while let Ok(more) = self.requests.try_recv() {
            waiting.push(more);
        }
        self.poll().await?;
        for waiter in waiting {
            let _ = waiter.send(());
        }
        tokio::time::sleep(RELOAD_PAUSE).await;
        Ok(())
    }

    /// Reads everything where something has changed. Whoever changes something raises its version with it, so that asking is
    /// cheap: anybody can ask, by a token of a key that nobody knows.
    async fn poll(&mut self) -> Result<(), LoadError> {
        if now_ms() >= self.next_retirement || self.read_versions().await? != self.versions {
            return self.reload().await;
        }
        self.store.checked_at_ms.store(now_ms(), Ordering::Relaxed);
        Ok(())
    }

    /// Versions are read first: what changes while the rest is read changes them again.
    async fn reload(&mut self) -> Result<(), LoadError> {
        let versions = self.read_versions().await?;
        let at = now_ms();
        let (keyring, keyring_version) = self.load_keyring().await?;
        let (users, sessions) = (self.load_users().await?, self.load_sessions().await?);
        let snapshot = Snapshot {
            keyring,
            keyring_version,
            users,
            sessions,
            keys: self.load_keys().await?,
            limits: Arc::new(self.load_limits().await?),
        };
        self.store.snapshot.store(Arc::new(snapshot));
        self.store.checked_at_ms.store(at, Ordering::Relaxed);
        self.versions = versions;
        Ok(())
    }

    async fn read_versions(&self) -> Result<Vec<(String, i64)>, LoadError> {
        Ok(sqlx::query_as("SELECT topic, version FROM wakeups ORDER BY topic")
            .fetch_all(&self.db.read)
            .await?)
    }

    async fn load_keyring(&mut self) -> Result<(Keyring, u64), LoadError> {
        let rows: Vec<(String, String, Vec<u8>, Option<i64>)> = sqlx::query_as(
            "SELECT kid, key_id, sealed, retired_at FROM signing_keys WHERE retired_at IS NULL OR retired_at > $1 ORDER BY kid",
        )
        .bind(now_ms())
        .fetch_all(&self.db.read)
        .await?;
        self.next_retirement = rows
            .iter()
            .filter_map(|(_, _, _, retired_at)| *retired_at)
            .min()
            .unwrap_or(i64::MAX);
        let mut version = self.store.snapshot().keyring_version;
        let seen: Vec<_> = rows
            .iter()
            .map(|(kid, _, sealed, _)| (kid.clone(), sealed.clone()))
            .collect();
        if seen != self.keyring {
            self.keyring = seen;
            version += 1;
        }
        let keys = rows
            .into_iter()
            .filter_map(|(kid, key_id, bytes, _)| self.open_signing_key(&kid, &Sealed { key_id, bytes }));
        Ok((Keyring::new(keys.collect()), version))
    }

    fn open_signing_key(&self, kid: &str, sealed: &Sealed) -> Option<SigningKey> {
        let opened = self
            .vault
            .open(&signing_key_aad(kid), sealed)
            .map_err(|error| error.to_string());
        match opened.and_then(|secret| SigningKey::new(kid, &secret).map_err(|error| error.to_string())) {
            Ok(key) => Some(key),
            Err(error) => {
                tracing::error!(
                    kid,
                    error,
                    "a signing key cannot be opened; was the encryption key changed?"
                );
                None
            }
        }
    }

    async fn load_users(&self) -> Result<HashMap<UserId, UserState>, LoadError> {
        let rows: Vec<(i64, i64, i64)> =
            sqlx::query_as("SELECT id, tenant_id, token_generation FROM users WHERE is_active = 1")
                .fetch_all(&self.db.read)
                .await?;
        let state = |(id, tenant, generation)| {
            (
                UserId(id),
                UserState {
                    tenant: TenantId(tenant),
                    generation,
                },
            )
        };
        Ok(rows.into_iter().map(state).collect())
    }

    async fn load_sessions(&self) -> Result<HashMap<SessionId, SessionState>, LoadError> {
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT session_id, user_id, token_generation FROM agent_sessions WHERE status IN ('starting', 'active', 'paused')",
        )
        .fetch_all(&self.db.read)
        .await?;
        let state = |(id, user, generation): (String, i64, i64)| {
            Some((
                id.parse().ok()?,
                SessionState {
                    user: UserId(user),
                    generation,
                },
            ))
        };
        Ok(rows.into_iter().filter_map(state).collect())
    }

    async fn load_keys(&self) -> Result<HashMap<(TenantId, Provider), Vec<Arc<ProviderKey>>>, LoadError> {
        let rows = sqlx::query(
            "SELECT id, tenant_id, provider, key_name, key_id, sealed, base_url, models, priority, weight
               FROM api_key_store WHERE is_active = 1 ORDER BY tenant_id, provider, priority DESC, id",
        )
        .fetch_all(&self.db.read)
        .await?;
        let mut keys: HashMap<_, Vec<_>> = HashMap::new();
        for row in rows {
            match self.read_key(&row) {
                Ok((owner, key)) => keys.entry(owner).or_default().push(Arc::new(key)),
                Err(error) => tracing::error!(
                    error,
                    key = row.try_get::<i64, _>("id").unwrap_or(0),
                    "a provider key cannot be used"
                ),
            }
        }
        Ok(keys)
    }

    async fn load_limits(&self) -> Result<Limits, LoadError> {
        let rows: Vec<(String, String, String, i64, i64)> =
            sqlx::query_as("SELECT account_kind, account_id, name, maximum, dry_run FROM quota_limits ORDER BY account_kind, account_id, name")
                .fetch_all(&self.db.read)
                .await?;
        let limit = |(kind, id, name, maximum, dry_run): (String, String, String, i64, i64)| {
            let (Some(account), Ok(name)) = (Account::parse(&kind, &id), name.parse()) else {
                tracing::error!(
                    kind,
                    id,
                    name,
                    "a limit is not known to this version; it is not enforced"
                );
                return None;
            };
            let maximum = u64::try_from(maximum).unwrap_or(0);
            Some((
                account,
                Limit {
                    name,
                    maximum,
                    dry_run: dry_run != 0,
                },
            ))
        };
        Ok(rows.into_iter().filter_map(limit).collect())
    }

    fn read_key(&self, row: &AnyRow) -> Result<((TenantId, Provider), ProviderKey), String> {
        let tenant = TenantId(get(row, "tenant_id")?);
        let provider: Provider = get::<String>(row, "provider")?
            .parse()
            .map_err(|_| "unknown provider")?;
        let name: String = get(row, "key_name")?;
        let sealed = Sealed {
            key_id: get(row, "key_id")?,
            bytes: get(row, "sealed")?,
        };
        let secret = self
            .vault
            .open(&api_key_aad(tenant, provider, &name), &sealed)
            .map_err(|error| error.to_string())?;
        let base_url: Option<String> = get(row, "base_url")?;
        let base_url = base_url
            .as_deref()
            .filter(|url| !url.is_empty())
            .unwrap_or(provider.default_base_url());
        let base_url = Url::parse(base_url).map_err(|error| error.to_string())?;
        let origin = Origin::of_url(&base_url, tenant.0).ok_or("the base URL has no host")?;
        let models = match get::<Option<String>>(row, "models")? {
            Some(models) => serde_json::from_str(&models).map_err(|error| error.to_string())?,
            None => None,
        };
        let (priority, weight) = (get(row, "priority")?, get(row, "weight")?);
        Ok((
            (tenant, provider),
            ProviderKey {
                id: KeyId(get(row, "id")?),
                secret,
                base_url,
                origin,
                models,
                priority,
                weight,
            },
        ))
    }
}

fn get<'r, T: sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>>(row: &'r AnyRow, column: &str) -> Result<T, String> {
    row.try_get(column).map_err(|error| error.to_string())
}

/// The database could not be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LoadError(#[from] sqlx::Error);

#[cfg(test)]
mod tests {
    use ace_migrations::testing::test_databases;
    use ace_policies::vault::MasterKey;

    use super::*;

    /// Many intervals, on a machine that does other things.
    const LATE: Duration = Duration::from_secs(20);

    async fn run(db: &Db, sql: &'static str) {
        sqlx::query(sql).execute(&db.write).await.expect(sql);
    }

    async fn insert_user(db: &Db) {
        run(
            db,
            "INSERT INTO users (tenant_id, username, password_hash, role, is_active, must_change_password, token_generation, created_at, updated_at)
             VALUES (1, 'alice', 'x', 'user', 1, 0, 4, 0, 0)",
        )
        .await;
    }

    async fn start(db: &Db, interval: Duration) -> Store {
        let vault = Vault::new(&MasterKey::from_bytes([7; 32]));
        let (store, refresher) = Refresher::start(db.clone(), vault, interval).await.expect("readable");
        tokio::spawn(refresher.run());
        store
    }

    #[tokio::test]
    async fn a_change_is_learnt_within_an_interval_and_at_once_when_asked_for() {
        for database in test_databases().await {
            let db = &database.db;
            let store = start(db, Duration::from_millis(50)).await;
            insert_user(db).await;
            assert!(store.snapshot().users.is_empty());
            let before = store.snapshot().clone();
            store.reload().await;
            assert!(
                Arc::ptr_eq(&before, &store.snapshot()),
                "no version was raised: nothing is read"
            );
            run(db, "UPDATE wakeups SET version = version + 1 WHERE topic = 'auth'").await;
            store.reload().await;
            let state = *store.snapshot().users.values().next().expect("alice");
            assert_eq!(
                state,
                UserState {
                    tenant: TenantId(1),
                    generation: 4
                }
            );

            run(db, "UPDATE users SET token_generation = 5").await;
            run(db, "UPDATE wakeups SET version = version + 1 WHERE topic = 'auth'").await;
            let changed = std::time::Instant::now();
            while store.snapshot().users.values().any(|user| user.generation != 5) {
                assert!(changed.elapsed() < LATE, "{:?}", database.engine());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(store.staleness() < LATE);
        }
    }

    #[tokio::test]
    async fn a_database_that_is_away_makes_the_view_stale_and_keeps_it() {
        for database in test_databases().await {
            insert_user(&database.db).await;
            let own = database.open_again().await;
            let store = start(&own, Duration::from_millis(10)).await;
            own.close().await;
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert!(
                store.staleness() >= Duration::from_millis(100),
                "{:?}",
                database.engine()
            );
            assert_eq!(store.snapshot().users.len(), 1);
        }
    }
}
