//! What a node looks after every few seconds: that the connections it holds stay its own, and that those of nobody lapse.

use std::collections::HashMap;
use std::time::Duration;

use ace_policies::MachineId;
use sqlx::Row;
use uuid::Uuid;

use super::links::Held;
use super::{LEASE, connections, lost, millis};
use crate::App;
use crate::error::ApiError;
use crate::machines::seen_since;
use crate::queue;
use crate::wakeups::Wakeup;

/// Between two rounds. A third of the lease: one may fail.
const PERIOD: Duration = Duration::from_secs(5);

/// Goes its rounds until the program ends.
pub(crate) async fn run(app: App) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = go(&app).await {
            tracing::warn!(%error, "the agents' connections could not be renewed");
        }
    }
}

/// One round.
pub(crate) async fn go(app: &App) -> Result<(), ApiError> {
    renew(app).await?;
    wake(app).await?;
    lapse(app).await?;
    lost::give_up(app).await?;
    queue::expire(app).await
}

/// Renews this node's rows, those that still have a connection, with one statement.
async fn renew(app: &App) -> Result<(), ApiError> {
    let held = app.links().held();
    if held.is_empty() {
        return Ok(());
    }
    let now = app.now();
    let mut record = app.record().await?;
    let rows = sqlx::query(
        "UPDATE agent_connections SET seen_at = $1, expires_at = $2 WHERE node_id = $3 AND transport = 'ws' AND expires_at > seen_at
         RETURNING connection_id",
    )
    .bind(now)
    .bind(now + millis(LEASE))
    .bind(app.node_id().to_string())
    .fetch_all(record.sql())
    .await?;
    for row in rows {
        let id: String = row.try_get(0)?;
        if !id.parse::<Uuid>().is_ok_and(|id| held.contains_key(&id)) {
            // The connection ended, and that could not be written down.
            sqlx::query("UPDATE agent_connections SET expires_at = seen_at WHERE connection_id = $1")
                .bind(id)
                .execute(record.sql())
                .await?;
        }
    }
    record.commit().await
}

/// Wakes the connections of this node that have something to look at: commands that are due, another holder, another token. Each
/// was woken when it came about; this is the net.
async fn wake(app: &App) -> Result<(), ApiError> {
    let held = app.links().held();
    if held.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(
        "SELECT connection_id, agent_token_hash, next_agent_token_hash,
                (SELECT COUNT(*) FROM agent_commands WHERE agent_commands.machine_id = agent_connections.machine_id
                 AND (state = 'queued' OR (state = 'delivered' AND leased_until <= $1))) AS due
         FROM agent_connections JOIN remote_machines ON remote_machines.machine_id = agent_connections.machine_id
         WHERE node_id = $2",
    )
    .bind(app.now())
    .bind(app.node_id().to_string())
    .fetch_all(&app.db().read)
    .await?;
    let mut calm = HashMap::new();
    for row in &rows {
        let tokens: [Option<String>; 2] = [row.try_get(1)?, row.try_get(2)?];
        let due: i64 = row.try_get("due")?;
        if due == 0 {
            calm.insert(row.try_get::<String, _>(0)?, tokens);
        }
    }
    let is_calm = |id: &Uuid, held: &Held| {
        let tokens = calm.get(&id.to_string());
        tokens.is_some_and(|tokens| tokens.iter().flatten().any(|hash| *hash == held.token_hash))
    };
    for (id, held) in &held {
        if !is_calm(id, held) {
            app.wakeups().ring(Wakeup::Machine(held.machine));
        }
    }
    Ok(())
}

/// Tells of machines that gave no sign for long. Any node does it; the row is there for one of them.
async fn lapse(app: &App) -> Result<(), ApiError> {
    let until = seen_since(app.now());
    let rows = sqlx::query("SELECT machine_id FROM agent_connections WHERE seen_at <= $1")
        .bind(until)
        .fetch_all(&app.db().read)
        .await?;
    for row in rows {
        let machine: MachineId = row
            .try_get::<String, _>(0)?
            .parse()
            .map_err(|error: uuid::Error| ApiError::internal(error))?;
        connections::lapse(app, machine, until).await?;
    }
    Ok(())
}
