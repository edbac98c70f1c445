//! Brings wake-ups to the other nodes: on PostgreSQL with NOTIFY, in the transaction that they tell of. SQLite has one node.

use std::collections::BTreeSet;
use std::time::Duration;

use ace_migrations::Engine;
use sqlx::AnyConnection;
use sqlx::postgres::PgListener;

use super::Wakeup;
use crate::App;
use crate::error::ApiError;

const CHANNEL: &str = "ace_wakeups";

/// Wake-ups in one notification: PostgreSQL takes 8,000 bytes, and one has 37.
const MAX_TOLD: usize = 150;

/// After the connection could not be made.
const RETRY: Duration = Duration::from_secs(1);

/// Tells the other nodes, once the transaction is saved. Only ids are told: who may listen to a database may read it.
pub(crate) async fn notify(
    app: &App,
    connection: &mut AnyConnection,
    rings: &BTreeSet<Wakeup>,
) -> Result<(), ApiError> {
    if app.db().engine == Engine::Sqlite {
        return Ok(());
    }
    let rings: Vec<String> = rings.iter().map(Wakeup::to_string).collect();
    for told in rings.chunks(MAX_TOLD) {
        // As a table, since the function's own type is one that this driver does not read.
        sqlx::query("SELECT CAST(1 AS BIGINT) FROM pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(format!("{} {}", app.node_id(), told.join(" ")))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Rings here what other nodes tell, until the program ends.
pub(crate) async fn run(app: App) {
    if app.db().engine == Engine::Sqlite {
        return;
    }
    loop {
        match app.db().listen(CHANNEL).await {
            Ok(Some(listener)) => hear(&app, listener).await,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot hear what other nodes tell; looking every few seconds instead")
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn hear(app: &App, mut listener: PgListener) {
    // What was told before this connection was not heard.
    app.wakeups().ring_all();
    loop {
        match listener.try_recv().await {
            Ok(Some(told)) => ring(app, told.payload()),
            // The connection broke and is there again.
            Ok(None) => app.wakeups().ring_all(),
            Err(error) => {
                tracing::warn!(%error, "the database does not tell of other nodes any more");
                return;
            }
        }
    }
}

fn ring(app: &App, told: &str) {
    let mut words = told.split(' ');
    if words.next().and_then(|node| node.parse().ok()) == Some(app.node_id()) {
        return;
    }
    words
        .filter_map(|word| word.parse().ok())
        .for_each(|wakeup| app.wakeups().ring(wakeup));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ace_policies::MachineId;
    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;
    use crate::testing::worlds;

    /// Long enough for a machine that is busy.
    const SOON: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_one_node_saves_another_hears() {
        for world in worlds().await {
            if world.database.engine() == Engine::Sqlite {
                continue;
            }
            let other = world.another_node().await;
            let wakeup = Wakeup::Machine(MachineId(Uuid::from_u128(7)));
            let mut bell = other.wakeups().listen(wakeup);
            let relay = tokio::spawn(run(other.clone()));
            // The relay rings everybody as it begins to listen.
            timeout(SOON, bell.rung()).await.unwrap();
            let mut record = world.app.record().await.unwrap();
            record.ring(wakeup);
            record.ring(Wakeup::Events);
            record.commit().await.unwrap();
            timeout(SOON, bell.rung()).await.unwrap();
            let mut record = world.app.record().await.unwrap();
            record.ring(wakeup);
            drop(record);
            let heard = timeout(Duration::from_millis(200), bell.rung()).await;
            assert!(heard.is_err(), "what was not saved was told");
            relay.abort();
        }
    }

    #[tokio::test]
    async fn everybody_looks_again_after_the_connection_broke() {
        for world in worlds().await {
            if world.database.engine() == Engine::Sqlite {
                continue;
            }
            let mut bell = world.app.wakeups().listen(Wakeup::Command(Uuid::from_u128(1)));
            let mut listener = world.app.db().listen(CHANNEL).await.unwrap().unwrap();
            let id: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
                .fetch_one(&mut listener)
                .await
                .unwrap();
            let app = world.app.clone();
            let relay = tokio::spawn(async move {
                hear(&app, listener).await;
                run(app).await;
            });
            timeout(SOON, bell.rung()).await.unwrap();
            sqlx::query("SELECT CAST(1 AS BIGINT) FROM pg_terminate_backend($1)")
                .bind(id)
                .execute(&world.database.db.write)
                .await
                .unwrap();
            timeout(SOON, bell.rung()).await.unwrap();
            relay.abort();
        }
    }
}
