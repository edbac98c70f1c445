//! What a dead process has left: the rows of its journal where there is one, else the requests that the database was told of; and its
//! leases, which are free again after that.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::journal::{self, Opened, Orphan, Recovered};
use super::leases::{LeaseError, Leases, claim, forget_open, release_all};
use super::row::{Entry, Row};
use super::sql::database_now;
use super::writer::record;
use ace_migrations::Db;

/// Rows of one transaction.
const BATCH: usize = 512;
/// How long the rows of past minutes are kept.
const MINUTES_KEPT: Duration = Duration::from_secs(600);

/// Writes what the journals of dead processes in `folder` hold, gives their leases back and deletes them. Returns how many requests were
/// recovered.
pub async fn recover(db: &Db, folder: &Path, gateway_id: &str) -> Result<usize, LeaseError> {
    let path = folder.to_owned();
    let orphans = match tokio::task::spawn_blocking(move || journal::orphans(&path)).await {
        Ok(Ok(orphans)) => orphans,
        Ok(Err(error)) => {
            tracing::error!(%error, folder = %folder.display(), "journals of dead processes cannot be read");
            return Ok(0);
        }
        Err(_) => return Ok(0),
    };
    let mut requests = 0;
    for orphan in orphans {
        requests += settle(db, orphan, gateway_id).await?;
    }
    Ok(requests)
}

async fn settle(db: &Db, orphan: Orphan, gateway_id: &str) -> Result<usize, LeaseError> {
    let instance = orphan.instance().to_string();
    let (orphan, rows) = match tokio::task::spawn_blocking(move || read(orphan)).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => {
            tracing::error!(%error, instance, "the journal of a dead process cannot be read; it is left where it is");
            return Ok(0);
        }
        Err(_) => return Ok(0),
    };
    for chunk in rows.chunks(BATCH) {
        let mut transaction = db.begin_write().await?;
        record(db, &mut transaction, chunk, gateway_id).await?;
        transaction.commit().await?;
    }
    let mut transaction = db.begin_write().await?;
    claim(&mut transaction, &instance, i64::MAX).await?;
    forget_open(&mut transaction, &instance).await?;
    release_all(&mut transaction, &instance).await?;
    transaction.commit().await?;
    let _ = tokio::task::spawn_blocking(move || orphan.remove()).await;
    tracing::info!(
        instance,
        requests = rows.len(),
        "the journal of a process that died was recovered"
    );
    Ok(rows.len())
}

/// Reads a journal. One that ends in a record that was being written is whole without it.
fn read(orphan: Orphan) -> io::Result<(Orphan, Vec<Row>)> {
    let mut rows = Vec::new();
    for recovered in orphan.records() {
        rows.extend(entry(&recovered?).map(bare));
    }
    Ok((orphan, rows))
}

/// Charges what the database was told of a dead process with its estimates, and gives its leases back.
pub async fn give_up(leases: &Leases, instance: &str) -> Result<(), LeaseError> {
    let db = leases.db();
    let mut transaction = db.begin_write().await?;
    let before = leases.latest_sign(&mut transaction, leases.ttl()).await?;
    let Some(gateway_id) = claim(&mut transaction, instance, before).await? else {
        return Ok(());
    };
    let opened: Vec<String> =
        sqlx::query_scalar("SELECT opened FROM open_requests WHERE instance_id = $1 ORDER BY request_id")
            .bind(instance.to_owned())
            .fetch_all(&mut *transaction)
            .await?;
    let rows: Vec<Row> = opened
        .iter()
        .filter_map(|opened| serde_json::from_str::<Opened>(opened).ok())
        .map(|opened| bare(Entry::lost(&opened)))
        .collect();
    for chunk in rows.chunks(BATCH) {
        record(db, &mut transaction, chunk, &gateway_id).await?;
    }
    forget_open(&mut transaction, instance).await?;
    release_all(&mut transaction, instance).await?;
    transaction.commit().await?;
    tracing::warn!(
        instance,
        requests = rows.len(),
        "a process is gone with its journal; its open requests are charged as estimated"
    );
    Ok(())
}

/// Deletes what is left of minutes that have passed.
pub async fn clear_old_minutes(db: &Db) -> Result<(), LeaseError> {
    let mut transaction = db.begin_write().await?;
    let now = database_now(db, &mut transaction).await?;
    let text = "DELETE FROM quota_usage WHERE period = 'minute' AND period_start < $1
                   AND leased_tokens = 0 AND leased_requests = 0 AND leased_cost_micro_usd = 0";
    sqlx::query(text)
        .bind(now - i64::try_from(MINUTES_KEPT.as_millis()).unwrap_or(0))
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}

/// The entry of a journal's records; `None` where only the end is left, which is in the database then.
fn entry(recovered: &Recovered) -> Option<Entry> {
    let opened = recovered.opened.as_ref()?;
    Some(match &recovered.settled {
        Some(settled) => Entry::of(opened, settled),
        None => Entry::lost(opened),
    })
}

/// A row that no lease of this process covers.
fn bare(entry: Entry) -> Row {
    Row {
        entry: Box::new(entry),
        charges: Vec::new(),
        seat: None,
    }
}
