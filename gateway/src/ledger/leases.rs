//! Leases in the database: what this process holds of each bucket, and what becomes of those of a process that died.
//!
//! A bucket's row in `quota_usage` is locked before anything about it is read, and buckets are locked in their own order, so that
//! settled + leased never passes a limit and nobody waits in a circle.

use std::collections::HashMap;
use std::time::Duration;

use ace_migrations::Db;
use ace_policies::quota::{Amounts, Bucket, Limit, slice};
use sqlx::AnyConnection;

use super::book::{Denial, Idle, Want};
use super::sql::{BUCKET, bind_amounts, bind_bucket, database_now, read_amounts, read_bucket, read_limit, signed};

/// The leases of one process.
pub struct Leases {
    db: Db,
    instance: String,
    gateway_id: String,
    ttl: Duration,
}

/// What several requests want of one bucket.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// All of them together.
    pub want: Want,
    /// The least of them.
    pub least: Amounts,
}

/// What the database says to a demand.
pub struct Answer {
    /// The bucket that was asked about.
    pub want: Want,
    /// What was leased.
    pub granted: Amounts,
    /// Limits that have not enough left.
    pub denials: Vec<Denial>,
}

/// Why leases are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Others took this process for dead and shared out what it held.
    #[error("this process was taken for dead; its leases are others' by now")]
    Dead,
    /// The database did not answer.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Leases {
    /// The leases of the process `instance`, good for `ttl` after each sign of life.
    pub fn new(db: Db, instance: String, gateway_id: String, ttl: Duration) -> Self {
        Self {
            db,
            instance,
            gateway_id,
            ttl,
        }
    }

    /// Which gateway it is.
    pub fn gateway_id(&self) -> &str {
        &self.gateway_id
    }

    /// How long leases are good without a sign of life.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Joins those who hold leases.
    pub async fn join(&self) -> Result<(), LeaseError> {
        let mut transaction = self.db.begin_write().await?;
        let now = database_now(&self.db, &mut transaction).await?;
        let text =
            "INSERT INTO ledger_instances (instance_id, gateway_id, started_at, expires_at) VALUES ($1, $2, $3, $4)
                    ON CONFLICT (instance_id) DO UPDATE SET expires_at = excluded.expires_at";
        sqlx::query(text)
            .bind(self.instance.clone())
            .bind(self.gateway_id.clone())
            .bind(now)
            .bind(self.until(now))
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Gives a sign of life.
    pub async fn beat(&self) -> Result<(), LeaseError> {
        let mut transaction = self.db.begin_write().await?;
        self.beat_in(&mut transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// A sign of life in a transaction: it holds off whoever would declare this process dead. Gives the database's time.
    async fn beat_in(&self, connection: &mut AnyConnection) -> Result<i64, LeaseError> {
        let now = database_now(&self.db, connection).await?;
        let beaten = sqlx::query("UPDATE ledger_instances SET expires_at = $1 WHERE instance_id = $2")
            .bind(self.until(now))
            .bind(self.instance.clone())
            .execute(connection)
            .await?;
        if beaten.rows_affected() == 0 {
            return Err(LeaseError::Dead);
        }
        Ok(now)
    }

    fn until(&self, now: i64) -> i64 {
        now.saturating_add(i64::try_from(self.ttl.as_millis()).unwrap_or(i64::MAX))
    }

    /// Takes leases for what is wanted, one demand for each bucket, as far as the limits have it.
    pub async fn ask(&self, mut demands: Vec<Demand>) -> Result<Vec<Answer>, LeaseError> {
        demands.sort_by_key(|demand| demand.want.bucket);
        let mut transaction = self.db.begin_write().await?;
        let now = self.beat_in(&mut transaction).await?;
        let holders: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM ledger_instances WHERE expires_at > $1")
            .bind(now)
            .fetch_one(&mut *transaction)
            .await?;
        let holders = u64::try_from(holders).unwrap_or(1);
        let mut answers = Vec::with_capacity(demands.len());
        for demand in demands {
            answers.push(self.answer(&mut transaction, demand, holders, now).await?);
        }
        transaction.commit().await?;
        Ok(answers)
    }

    async fn answer(
        &self,
        connection: &mut AnyConnection,
        demand: Demand,
        holders: u64,
        now: i64,
    ) -> Result<Answer, sqlx::Error> {
        let bucket = demand.want.bucket;
        let text = format!(
            "INSERT INTO quota_usage ({BUCKET}, updated_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT ({BUCKET}) DO UPDATE SET updated_at = excluded.updated_at
             RETURNING tokens, requests, cost_micro_usd, leased_tokens, leased_requests, leased_cost_micro_usd"
        );
        let locked = bind_bucket(sqlx::query(sqlx::AssertSqlSafe(text)), &bucket).bind(now);
        let row = locked.fetch_one(&mut *connection).await?;
        let (used, leased) = (read_amounts(&row, 0)?, read_amounts(&row, 3)?);
        let (mut granted, mut denials) = (demand.want.need, Vec::new());
        for limit in limits_of(connection, &bucket).await? {
            let metric = limit.name.metric();
            let (used, reserved) = (used.of(metric), leased.of(metric));
            let left = limit.maximum.saturating_sub(used).saturating_sub(reserved);
            let share = share(left, demand.want.need.of(metric), demand.least.of(metric), holders);
            if share.is_none() {
                let (account, resets_ms) = (bucket.account, demand.want.ends_ms);
                denials.push(Denial {
                    account,
                    limit,
                    used,
                    reserved,
                    left,
                    resets_ms,
                });
            }
            *granted.of_mut(metric) = match share {
                Some(share) => share,
                None if limit.dry_run => left,
                None => 0,
            };
        }
        if !granted.is_zero() {
            self.lease(connection, &bucket, &granted).await?;
        }
        Ok(Answer {
            want: demand.want,
            granted,
            denials,
        })
    }

    async fn lease(
        &self,
        connection: &mut AnyConnection,
        bucket: &Bucket,
        granted: &Amounts,
    ) -> Result<(), sqlx::Error> {
        change_leased(connection, bucket, granted, 1).await?;
        let text = format!(
            "INSERT INTO quota_leases (instance_id, {BUCKET}, tokens, requests, cost_micro_usd) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (instance_id, {BUCKET}) DO UPDATE SET tokens = quota_leases.tokens + excluded.tokens,
                 requests = quota_leases.requests + excluded.requests,
                 cost_micro_usd = quota_leases.cost_micro_usd + excluded.cost_micro_usd"
        );
        let query = bind_bucket(
            sqlx::query(sqlx::AssertSqlSafe(text)).bind(self.instance.clone()),
            bucket,
        );
        bind_amounts(query, granted).execute(connection).await.map(drop)
    }

    /// Has the lease on a bucket cover what was used, as far as it goes. The bucket's row is locked already. Gives what it covered.
    pub async fn cover(
        &self,
        connection: &mut AnyConnection,
        bucket: &Bucket,
        used: Amounts,
    ) -> Result<Amounts, sqlx::Error> {
        let covered = self.held(connection, bucket).await?.at_most(used);
        if !covered.is_zero() {
            self.shrink(connection, bucket, &covered).await?;
        }
        Ok(covered)
    }

    /// Gives rests back.
    pub async fn release(&self, rests: &[Idle]) -> Result<(), LeaseError> {
        let mut sorted: Vec<_> = rests.to_vec();
        sorted.sort_by_key(|idle| idle.bucket);
        let mut transaction = self.db.begin_write().await?;
        for Idle { bucket, rest } in sorted {
            lock(&mut transaction, &bucket).await?;
            let rest = self.held(&mut transaction, &bucket).await?.at_most(rest);
            self.shrink(&mut transaction, &bucket, &rest).await?;
        }
        let empty =
            "DELETE FROM quota_leases WHERE instance_id = $1 AND tokens = 0 AND requests = 0 AND cost_micro_usd = 0";
        sqlx::query(empty)
            .bind(self.instance.clone())
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    async fn held(&self, connection: &mut AnyConnection, bucket: &Bucket) -> Result<Amounts, sqlx::Error> {
        let text = "SELECT tokens, requests, cost_micro_usd FROM quota_leases
                     WHERE instance_id = $1 AND account_kind = $2 AND account_id = $3 AND period = $4 AND period_start = $5";
        let query = bind_bucket(sqlx::query(text).bind(self.instance.clone()), bucket);
        let row = query.fetch_optional(connection).await?;
        row.as_ref().map_or(Ok(Amounts::default()), |row| read_amounts(row, 0))
    }

    async fn shrink(&self, connection: &mut AnyConnection, bucket: &Bucket, by: &Amounts) -> Result<(), sqlx::Error> {
        change_leased(connection, bucket, by, -1).await?;
        let text = "UPDATE quota_leases SET tokens = tokens - $1, requests = requests - $2, cost_micro_usd = cost_micro_usd - $3
                     WHERE instance_id = $4 AND account_kind = $5 AND account_id = $6 AND period = $7 AND period_start = $8";
        let query = bind_amounts(sqlx::query(text), by).bind(self.instance.clone());
        bind_bucket(query, bucket).execute(connection).await.map(drop)
    }

    /// Everything that this process holds.
    pub async fn all(&self) -> Result<HashMap<Bucket, Amounts>, LeaseError> {
        let text =
            format!("SELECT {BUCKET}, tokens, requests, cost_micro_usd FROM quota_leases WHERE instance_id = $1");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(self.instance.clone())
            .fetch_all(&self.db.write)
            .await?;
        let leases = rows.iter().map(|row| Ok((read_bucket(row)?, read_amounts(row, 4)?)));
        Ok(leases.collect::<Result<_, sqlx::Error>>()?)
    }

    /// Gives everything back and leaves.
    pub async fn leave(&self) -> Result<(), LeaseError> {
        let mut transaction = self.db.begin_write().await?;
        claim(&mut transaction, &self.instance, i64::MAX).await?;
        forget_open(&mut transaction, &self.instance).await?;
        release_all(&mut transaction, &self.instance).await?;
        Ok(transaction.commit().await?)
    }

    /// Processes that have given no sign of life for `grace` longer than their leases are good.
    pub async fn dead(&self, grace: Duration) -> Result<Vec<String>, LeaseError> {
        let mut connection = self.db.write.acquire().await?;
        let before = self.latest_sign(&mut connection, grace).await?;
        let text = "SELECT instance_id FROM ledger_instances WHERE expires_at < $1 AND instance_id <> $2 ORDER BY instance_id LIMIT 100";
        let found = sqlx::query_scalar(text).bind(before).bind(self.instance.clone());
        Ok(found.fetch_all(&mut *connection).await?)
    }

    /// Until when a sign of life would have had to come.
    pub async fn latest_sign(&self, connection: &mut AnyConnection, grace: Duration) -> Result<i64, sqlx::Error> {
        let now = database_now(&self.db, connection).await?;
        Ok(now - i64::try_from(grace.as_millis()).unwrap_or(0))
    }

    /// The database.
    pub fn db(&self) -> &Db {
        &self.db
    }
}

/// What is given of `left` to those who want `total` together, the most modest of them `least`: a slice for all of them, else everything
/// that is left where at least one can go with it.
fn share(left: u64, total: u64, least: u64, holders: u64) -> Option<u64> {
    match slice(left, total, holders) {
        Some(_) if total == 0 => Some(0),
        Some(slice) => Some(slice),
        None => (least <= left).then_some(left),
    }
}

async fn limits_of(connection: &mut AnyConnection, bucket: &Bucket) -> Result<Vec<Limit>, sqlx::Error> {
    let rows =
        sqlx::query("SELECT name, maximum, dry_run FROM quota_limits WHERE account_kind = $1 AND account_id = $2")
            .bind(bucket.account.kind())
            .bind(bucket.account.id())
            .fetch_all(connection)
            .await?;
    let mut limits = Vec::with_capacity(rows.len());
    for row in &rows {
        limits.extend(read_limit(row, 0)?.filter(|limit| limit.name.period() == bucket.period));
    }
    Ok(limits)
}

/// Locks a bucket's row until the transaction ends.
async fn lock(connection: &mut AnyConnection, bucket: &Bucket) -> Result<(), sqlx::Error> {
    let text = "UPDATE quota_usage SET updated_at = updated_at
                 WHERE account_kind = $1 AND account_id = $2 AND period = $3 AND period_start = $4";
    bind_bucket(sqlx::query(text), bucket)
        .execute(connection)
        .await
        .map(drop)
}

async fn change_leased(
    connection: &mut AnyConnection,
    bucket: &Bucket,
    by: &Amounts,
    sign: i64,
) -> Result<(), sqlx::Error> {
    let text = "UPDATE quota_usage SET leased_tokens = leased_tokens + $1, leased_requests = leased_requests + $2,
                       leased_cost_micro_usd = leased_cost_micro_usd + $3
                 WHERE account_kind = $4 AND account_id = $5 AND period = $6 AND period_start = $7";
    let query = sqlx::query(text)
        .bind(sign * signed(by.tokens))
        .bind(sign * signed(by.requests))
        .bind(sign * signed(by.cost_micro_usd));
    bind_bucket(query, bucket).execute(connection).await.map(drop)
}

/// Strikes a process out that has given no sign of life since `before`: of several who try, one succeeds, and gets the gateway's id.
pub async fn claim(connection: &mut AnyConnection, instance: &str, before: i64) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("DELETE FROM ledger_instances WHERE instance_id = $1 AND expires_at < $2 RETURNING gateway_id")
        .bind(instance.to_owned())
        .bind(before)
        .fetch_optional(connection)
        .await
}

/// Forgets which requests of a process are under way.
pub async fn forget_open(connection: &mut AnyConnection, instance: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM open_requests WHERE instance_id = $1")
        .bind(instance.to_owned())
        .execute(connection)
        .await
        .map(drop)
}

/// Gives back everything that a process holds.
pub async fn release_all(connection: &mut AnyConnection, instance: &str) -> Result<(), sqlx::Error> {
    let text = format!("SELECT {BUCKET} FROM quota_leases WHERE instance_id = $1");
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(instance.to_owned())
        .fetch_all(&mut *connection)
        .await?;
    let mut buckets = rows.iter().map(read_bucket).collect::<Result<Vec<_>, _>>()?;
    buckets.sort();
    for bucket in buckets {
        lock(connection, &bucket).await?;
        let text = "DELETE FROM quota_leases
                     WHERE instance_id = $1 AND account_kind = $2 AND account_id = $3 AND period = $4 AND period_start = $5
                    RETURNING tokens, requests, cost_micro_usd";
        let query = bind_bucket(sqlx::query(text).bind(instance.to_owned()), &bucket);
        if let Some(row) = query.fetch_optional(&mut *connection).await? {
            change_leased(connection, &bucket, &read_amounts(&row, 0)?, -1).await?;
        }
    }
    Ok(())
}
