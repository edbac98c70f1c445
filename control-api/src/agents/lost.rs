//! Sessions that run as far as is known here, and of which their agent knows nothing: its state was wiped, or restored from long ago.
//!
//! An agent that was started again names only what it has output of, and tells how its sessions are once it is welcome. So what it does not
//! name is wondered about first, and given up when nothing was said of it for long.

use std::time::Duration;

use ace_policies::session::State;
use ace_policies::wire::Held;
use ace_policies::{MachineId, SessionId};
use sqlx::Row;

use super::millis;
use crate::App;
use crate::error::ApiError;
use crate::record::Record;
use crate::sessions;

/// How long an agent that is connected may say nothing of a session. Longer than it gives a CLI to start: then it says nothing either.
const PATIENCE: Duration = Duration::from_secs(300);

/// Begins to wonder about the sessions that live on a machine and that its agent, which has just connected, does not name: not those
/// whose start it is still to be handed. The machine must be locked.
pub(super) async fn wonder(record: &mut Record, machine: MachineId, named: &[Held]) -> Result<(), ApiError> {
    let rows = sqlx::query(
        "SELECT session_id, run FROM agent_sessions
         WHERE remote_machine_id = $1 AND status IN ('starting', 'active', 'paused')
           AND NOT EXISTS (SELECT 1 FROM agent_commands WHERE agent_commands.session_id = agent_sessions.session_id
                           AND agent_commands.run = agent_sessions.run AND type = 'start_session'
                           AND state IN ('queued', 'delivered'))
         ORDER BY session_id",
    )
    .bind(machine.to_string())
    .fetch_all(record.sql())
    .await?;
    let now = record.app().now();
    for row in &rows {
        let (id, run): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        if named
            .iter()
            .any(|held| held.run >= run && held.session_id.to_string() == id)
        {
            continue;
        }
        sqlx::query("UPDATE agent_sessions SET unsure_since = $1 WHERE session_id = $2")
            .bind(now)
            .bind(id)
            .execute(record.sql())
            .await?;
    }
    Ok(())
}

/// Ends what agents that are connected have said nothing of for long. It can be resumed. Any node does it.
pub(super) async fn give_up(app: &App) -> Result<(), ApiError> {
    let rows = sqlx::query(
        "SELECT session_id FROM agent_sessions
         JOIN agent_connections ON agent_connections.machine_id = agent_sessions.remote_machine_id
         WHERE unsure_since <= $1 AND agent_connections.expires_at > $2 ORDER BY session_id",
    )
    .bind(app.now() - millis(PATIENCE))
    .bind(app.now())
    .fetch_all(&app.db().read)
    .await?;
    for row in &rows {
        let id = row.try_get::<String, _>(0)?.parse().map_err(ApiError::internal)?;
        end(app, id).await?;
    }
    Ok(())
}

async fn end(app: &App, id: SessionId) -> Result<(), ApiError> {
    let until = app.now() - millis(PATIENCE);
    let mut record = app.record().await?;
    let row = sessions::lock(&mut record, id).await?;
    let Some(row) = row.filter(|row| row.unsure_since.is_some_and(|since| since <= until)) else {
        return Ok(());
    };
    if row.status.is_live() {
        let why = "the agent on the machine does not know this session any more; a message or a resume starts it again";
        sessions::set_state(&mut record, &row, State::Error, Some(why)).await?;
    }
    sqlx::query("UPDATE agent_sessions SET unsure_since = NULL WHERE session_id = $1")
        .bind(id.to_string())
        .execute(record.sql())
        .await?;
    record.commit().await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agents::round;
    use crate::agents::tests::{Node, hello, machine, of_session, push, session, start, until};
    use crate::testing::{World, worlds};

    async fn time_passes(world: &World) {
        for _ in 0..=PATIENCE.as_secs() / 5 {
            world.clock.advance(Duration::from_secs(5));
            round::go(&world.app).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_an_agent_has_lost_ends_in_an_error_and_the_rest_goes_on() {
        for world in worlds().await {
            let mine = machine(&world, "mine").await;
            let mut ids = Vec::new();
            for _ in 0..4 {
                ids.push(session(&world, &mine, State::Active).await);
            }
            let [lost, named, silent, restored] = ids.try_into().unwrap();
            let starting = session(&world, &mine, State::Starting).await;
            push(&world.app, &mine, Some(starting), &start(starting, 1)).await;
            let node = Node::start(&world.app).await;
            let mut agent = node.open(&mine.token).await.unwrap();
            let mut word = hello(&mine);
            word["sessions"] = json!([{ "session_id": named, "run": 1, "last_seq": 0 },
                                      { "session_id": silent, "run": 0, "last_seq": 7 }]);
            agent.say(word).await;
            let welcome = agent.hear().await;
            assert_eq!(welcome["sessions"].as_array().unwrap().len(), 5);
            let unsure = async |id| of_session::<Option<i64>>(&world, id, "unsure_since").await.is_some();
            assert!(!unsure(starting).await, "its start is still to be handed over");
            assert!(unsure(restored).await && !unsure(named).await);
            let status =
                json!({ "type": "status", "session_id": restored, "run": 1, "state": "running", "busy": false });
            agent.say(status).await;
            until("its word on it", async || !unsure(restored).await).await;
            time_passes(&world).await;
            for (id, expected) in [
                (lost, "error"),
                (named, "active"),
                (silent, "error"),
                (restored, "active"),
            ] {
                assert_eq!(of_session::<String>(&world, id, "status").await, expected);
            }
            let why: String = of_session(&world, lost, "error").await;
            assert!(why.contains("does not know this session any more"), "{why}");
            let chat = json!({ "content": "go on" });
            let path = format!("/api/remote/sessions/{lost}/chat");
            world.run("UPDATE remote_machines SET max_sessions = 9", &[]).await;
            world.admin().await.post(&path, chat).await.ok();
            assert_eq!(of_session::<i64>(&world, lost, "run").await, 2);
            time_passes(&world).await;
            assert_eq!(
                of_session::<String>(&world, lost, "status").await,
                "starting",
                "it is another run"
            );
            node.stop().await;
        }
    }
}
