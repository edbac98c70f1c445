//! What runs beside the requests: telling, delivering, cleaning up. Every node runs all of it; what must happen once is claimed in the
//! database.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::agents::round;
use crate::error::ApiError;
use crate::meta::VERSION;
use crate::record::Record;
use crate::wakeups::relay;
use crate::{App, cleanup, teller, webhooks};

/// How often a node says that it is there.
const PRESENCE: Duration = Duration::from_secs(10);

/// After how long without a word a node counts as dead, in milliseconds.
pub(crate) const NODE_LEASE_MS: i64 = 30_000;

/// How long tasks are given to finish what they have in hand when the program ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// The tasks of a node. They end with [`App::closing`].
pub(crate) struct Background(JoinSet<()>);

/// Starts them.
pub(crate) fn start(app: &App) -> Background {
    let mut tasks = JoinSet::new();
    tasks.spawn(teller::run(app.clone()));
    tasks.spawn(webhooks::deliver_all(app.clone()));
    tasks.spawn(cleanup::run(app.clone()));
    tasks.spawn(until_closing(app.clone(), cleanup::leftovers(app.clone())));
    tasks.spawn(be_present(app.clone()));
    tasks.spawn(until_closing(app.clone(), relay::run(app.clone())));
    tasks.spawn(until_closing(app.clone(), round::run(app.clone())));
    Background(tasks)
}

impl Background {
    /// Waits for them to end; what does not in time is dropped, and taken up by another node or at the next start.
    pub async fn end(mut self) {
        let ended = async { while self.0.join_next().await.is_some() {} };
        let _ended_or_dropped = tokio::time::timeout(FAREWELL, ended).await;
    }
}

/// Runs what has no end of its own.
async fn until_closing(app: App, task: impl Future<Output = ()>) {
    tokio::select! {
        () = app.closing().cancelled() => {}
        () = task => {}
    }
}

/// Waits; false when the program ends.
pub(crate) async fn pause(app: &App, pause: Duration) -> bool {
    tokio::select! {
        () = app.closing().cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}

/// Makes this the only transaction, on any node, that has the lock of this name.
pub(crate) async fn lock(record: &mut Record, name: &str) -> Result<(), ApiError> {
    let (now, node) = (record.app().now(), record.app().node_id().to_string());
    sqlx::query(
        "INSERT INTO task_leases (name, node_id, expires_at) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET node_id = excluded.node_id, expires_at = excluded.expires_at",
    )
    .bind(name)
    .bind(node)
    .bind(now)
    .execute(record.sql())
    .await?;
    Ok(())
}

/// Whether it is this node's turn to do a task for all; if so, it is nobody else's until the lease ends.
pub(crate) async fn lease(app: &App, name: &str, lease: Duration) -> Result<bool, ApiError> {
    let lease = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    let mut record = app.record().await?;
    let taken = sqlx::query(
        "INSERT INTO task_leases (name, node_id, expires_at) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET node_id = excluded.node_id, expires_at = excluded.expires_at
         WHERE task_leases.expires_at <= $4 OR task_leases.node_id = excluded.node_id",
    )
    .bind(name)
    .bind(app.node_id().to_string())
    .bind(app.now().saturating_add(lease))
    .bind(app.now())
    .execute(record.sql())
    .await?;
    record.commit().await?;
    Ok(taken.rows_affected() > 0)
}

/// Lets `/api/status` tell which nodes there are.
async fn be_present(app: App) {
    let started_at = app.now();
    loop {
        if let Err(error) = say(&app, started_at).await {
            tracing::warn!(%error, "this node could not say that it is there");
        }
        if !pause(&app, PRESENCE).await {
            break;
        }
    }
    let gone = sqlx::query("DELETE FROM control_nodes WHERE node_id = $1").bind(app.node_id().to_string());
    let _lapses_anyway = gone.execute(&app.db().write).await;
}

pub(crate) async fn say(app: &App, started_at: i64) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    sqlx::query(
        "INSERT INTO control_nodes (node_id, version, started_at, seen_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (node_id) DO UPDATE SET seen_at = excluded.seen_at",
    )
    .bind(app.node_id().to_string())
    .bind(VERSION)
    .bind(started_at)
    .bind(app.now())
    .execute(record.sql())
    .await?;
    record.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, master, worlds};

    #[tokio::test]
    async fn one_node_at_a_time_has_a_task_until_its_lease_ends() {
        for world in worlds().await {
            let (db, clock) = (world.database.db.clone(), world.clock.clone());
            let other = App::open(db, &master(1), config(), clock).await.unwrap();
            let minute = Duration::from_secs(60);
            assert!(lease(&world.app, "x", minute).await.unwrap());
            assert!(
                lease(&world.app, "x", minute).await.unwrap(),
                "its own lease it may renew"
            );
            assert!(!lease(&other, "x", minute).await.unwrap());
            assert!(lease(&other, "y", minute).await.unwrap());
            world.clock.advance(minute);
            assert!(lease(&other, "x", minute).await.unwrap());
            assert!(!lease(&world.app, "x", minute).await.unwrap());
        }
    }
}
