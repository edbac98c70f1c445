use ace_migrations::Engine;
use ace_policies::session::State;
use ace_policies::token::Keyring;

use super::*;
use crate::agents::round;
use crate::testing::{NOON, worlds};

#[tokio::test]
async fn trap_38_what_is_acknowledged_never_comes_again_and_an_abort_never_twice() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let node = Node::start(&world.app).await;
        let [acked, done, aborted, lost] = [
            push(&world.app, &mine, Some(live), &message(live, "acked")).await,
            push(&world.app, &mine, Some(live), &message(live, "done")).await,
            push(&world.app, &mine, Some(live), &abort(live)).await,
            push(&world.app, &mine, Some(live), &message(live, "lost")).await,
        ];
        let (mut agent, _) = node.connect(&mine).await;
        for id in [acked, done, aborted, lost] {
            assert_eq!(agent.hear().await["command_id"], json!(id), "in the order of pushing");
        }
        agent.say(json!({ "type": "ack", "command_id": acked })).await;
        agent.say(json!({ "type": "done", "command_id": done })).await;
        until("done", async || state(&world, done).await == "done").await;
        let (mut again, _) = node.connect(&mine).await;
        assert_eq!(again.hear().await["command_id"], json!(lost));
        again.hears_nothing().await;
        world.clock.advance(Duration::from_secs(29));
        round::go(&world.app).await.unwrap();
        again.hears_nothing().await;
        world.clock.advance(Duration::from_secs(1));
        round::go(&world.app).await.unwrap();
        assert_eq!(again.hear().await["command_id"], json!(lost), "its lease was over");
        world.clock.advance(Duration::from_secs(31));
        round::go(&world.app).await.unwrap();
        again.hears_nothing().await;
        assert_eq!(state(&world, aborted).await, "expired");
        assert_eq!(state(&world, lost).await, "expired");
        again.say(json!({ "type": "done", "command_id": lost })).await;
        again
            .say(json!({ "type": "done", "command_id": done, "error": { "code": "failed", "message": "x" } }))
            .await;
        node.stop().await;
        assert_eq!(
            [state(&world, lost).await, state(&world, done).await],
            ["expired", "done"]
        );
    }
}

#[tokio::test]
async fn trap_28_a_start_carries_a_token_of_its_session_that_no_table_holds() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Starting).await;
        let node = Node::start(&world.app).await;
        let id = push(&world.app, &mine, Some(live), &start(live, 1)).await;
        let (mut agent, _) = node.connect(&mine).await;
        let token = agent.hear().await["command"]["proxy_token"]
            .as_str()
            .unwrap()
            .to_owned();
        let keys = Keyring::new(vec![world.app.signing_key().await.unwrap()]);
        let claims = keys.verify(&token, NOON / 1000).unwrap();
        assert_eq!(
            (claims.session, claims.machine, claims.generation),
            (Some(live), Some(mine.id), 0)
        );
        assert_eq!((claims.exp, claims.tool.as_str()), (NOON / 1000 + 300, "claude-code"));
        let kept = "SELECT COUNT(*) FROM agent_commands WHERE payload LIKE '%eyJ%'";
        assert_eq!(world.number(kept).await, 0);
        agent
            .say(json!({ "type": "status", "session_id": live, "run": 1, "state": "running", "resume_id": "r" }))
            .await;
        agent.say(json!({ "type": "done", "command_id": id })).await;
        until("active", async || {
            of_session::<String>(&world, live, "status").await == "active"
        })
        .await;
        assert_eq!(of_session::<String>(&world, live, "resume_id").await, "r");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_start_that_nobody_wants_any_more_is_not_handed_over() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let (ended, anew) = (
            session(&world, &mine, State::Stopped).await,
            session(&world, &mine, State::Starting).await,
        );
        let old = push(&world.app, &mine, Some(ended), &start(ended, 1)).await;
        let overtaken = push(&world.app, &mine, Some(anew), &start(anew, 0)).await;
        let wanted = push(&world.app, &mine, Some(anew), &start(anew, 1)).await;
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        assert_eq!(agent.hear().await["command_id"], json!(wanted));
        assert_eq!(
            [state(&world, old).await, state(&world, overtaken).await],
            ["expired", "expired"]
        );
        node.stop().await;
    }
}

#[tokio::test]
async fn a_start_that_fails_or_waits_too_long_ends_its_session_in_an_error() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let (fails, waits) = (
            session(&world, &mine, State::Starting).await,
            session(&world, &mine, State::Starting).await,
        );
        let failed = push(&world.app, &mine, Some(fails), &start(fails, 1)).await;
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        assert_eq!(agent.hear().await["command_id"], json!(failed));
        let error = json!({ "code": "unsupported", "message": "claude is not installed" });
        agent
            .say(json!({ "type": "done", "command_id": failed, "error": error }))
            .await;
        until("error", async || {
            of_session::<String>(&world, fails, "status").await == "error"
        })
        .await;
        assert_eq!(
            of_session::<String>(&world, fails, "error").await,
            "claude is not installed"
        );
        agent.leave().await;
        push(&world.app, &mine, Some(waits), &start(waits, 1)).await;
        world.clock.advance(Duration::from_secs(61));
        round::go(&world.app).await.unwrap();
        assert_eq!(of_session::<String>(&world, waits, "status").await, "error");
        node.stop().await;
    }
}

#[tokio::test]
async fn trap_35_a_rotation_hands_a_new_token_over_until_it_is_used() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        sqlx::query("UPDATE remote_machines SET rotation_id = 'r1'")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let rotate = Command::RotateToken {
            rotation_id: "r1".to_owned(),
            new_token: String::new(),
        };
        let id = push(&world.app, &mine, None, &rotate).await;
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        let first = agent.hear().await["command"]["new_token"].as_str().unwrap().to_owned();
        let (mut agent, _) = node.connect(&mine).await;
        let second = agent.hear().await["command"]["new_token"].as_str().unwrap().to_owned();
        assert_eq!(
            node.open(&first).await.err(),
            Some(401),
            "it may have been lost on the way"
        );
        let token = second;
        let renewed = Machine { id: mine.id, token };
        let (mut renewed, _) = node.connect(&renewed).await;
        assert_eq!(agent.closed().await.0[0]["type"], "error");
        renewed.hears_nothing().await;
        assert_eq!(state(&world, id).await, "done", "the new token was used");
        assert_eq!(node.open(&mine.token).await.err(), Some(401), "the old one is over");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_start_that_can_get_no_token_ends_its_session_in_an_error() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Starting).await;
        let id = push(&world.app, &mine, Some(live), &start(live, 1)).await;
        sqlx::query("UPDATE users SET is_active = 0 WHERE id = 1")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let node = Node::start(&world.app).await;
        let (agent, _) = node.connect(&mine).await;
        until("failed", async || state(&world, id).await == "failed").await;
        assert_eq!(of_session::<String>(&world, live, "status").await, "error");
        let why = of_session::<String>(&world, live, "error").await;
        assert!(why.contains("its owner is disabled"), "{why}");
        agent.leave().await;
        node.stop().await;
    }
}

#[tokio::test]
async fn what_is_not_handed_over_any_more_keeps_nothing_of_what_was_said() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let node = Node::start(&world.app).await;
        let [acked, done] = [
            push(&world.app, &mine, Some(live), &message(live, "a secret plan")).await,
            push(&world.app, &mine, Some(live), &message(live, "a secret plan")).await,
        ];
        let (mut agent, _) = node.connect(&mine).await;
        agent.hear().await;
        agent.hear().await;
        agent.say(json!({ "type": "ack", "command_id": acked })).await;
        agent.say(json!({ "type": "done", "command_id": done })).await;
        until("done", async || state(&world, done).await == "done").await;
        agent.leave().await;
        let kept = "SELECT COUNT(*) FROM agent_commands WHERE payload LIKE '%secret%'";
        assert_eq!(world.number(kept).await, 0);
        let expired = push(&world.app, &mine, Some(live), &message(live, "a secret plan")).await;
        world.clock.advance(Duration::from_secs(61));
        round::go(&world.app).await.unwrap();
        assert_eq!(state(&world, expired).await, "expired");
        push(&world.app, &mine, Some(live), &message(live, "a secret plan")).await;
        let admin = world.admin().await;
        admin
            .post(&format!("/api/remote/sessions/{live}/stop"), json!({}))
            .await
            .ok();
        assert_eq!(world.number(kept).await, 0);
        node.stop().await;
    }
}

/// What changes several commands of a machine at once.
const CHANGES: [&str; 5] = ["deliver", "redeliver", "drop_waiting", "drop_rotations", "drop_all"];

async fn change(app: &App, machine: MachineId, session: SessionId, name: &str) {
    let mut record = app.record().await.unwrap();
    match name {
        "deliver" => queue::deliver(&mut record, machine, None).await.map(drop),
        "redeliver" => queue::redeliver(&mut record, machine).await,
        "drop_waiting" => queue::drop_waiting(&mut record, &[session]).await,
        "drop_rotations" => queue::drop_rotations(&mut record, machine).await,
        _ => queue::drop_all(&mut record, machine).await,
    }
    .unwrap();
    record.commit().await.unwrap();
}

#[tokio::test]
async fn who_waits_for_the_first_of_several_commands_holds_none_of_the_others() {
    for world in worlds().await {
        // SQLite has one writer.
        if world.database.engine() == Engine::Sqlite {
            continue;
        }
        for name in CHANGES {
            let mine = machine(&world, name).await;
            let live = session(&world, &mine, State::Active).await;
            let rotate = Command::RotateToken {
                rotation_id: "r".to_owned(),
                new_token: String::new(),
            };
            let command = if name == "drop_rotations" {
                rotate
            } else {
                message(live, "hi")
            };
            let mut ids = Vec::new();
            for _ in 0..5 {
                ids.push(push(&world.app, &mine, Some(live), &command).await);
            }
            if name == "redeliver" {
                change(&world.app, mine.id, live, "deliver").await;
            }
            let mut other = world.app.record().await.unwrap();
            // Its row lies behind the others from now on: whoever takes them as they lie comes to it last.
            hold(&mut other, ids[0], "").await;
            let holder: i64 = sqlx::query_scalar("SELECT CAST(pg_backend_pid() AS BIGINT)")
                .fetch_one(other.sql())
                .await
                .unwrap();
            let (app, machine) = (world.another_node().await, mine.id);
            let changing = tokio::spawn(async move { change(&app, machine, live, name).await });
            until("it waits", async || {
                let waiting =
                    "SELECT COUNT(*) FROM pg_stat_activity WHERE CAST($1 AS INTEGER) = ANY (pg_blocking_pids(pid))";
                let count = sqlx::query_scalar::<_, i64>(waiting).bind(holder);
                count.fetch_one(&world.database.db.read).await.unwrap() > 0
            })
            .await;
            for id in &ids[1..] {
                hold(&mut other, *id, " NOWAIT").await;
            }
            other.commit().await.unwrap();
            timeout(SOON, changing).await.unwrap().unwrap();
        }
    }
}

/// Locks a command, and moves its row.
async fn hold(record: &mut crate::record::Record, command: Uuid, how: &str) {
    let lock = format!("SELECT id FROM agent_commands WHERE command_id = $1 FOR UPDATE{how}");
    sqlx::query(sqlx::AssertSqlSafe(lock))
        .bind(command.to_string())
        .execute(record.sql())
        .await
        .unwrap();
    sqlx::query("UPDATE agent_commands SET attempts = attempts WHERE command_id = $1")
        .bind(command.to_string())
        .execute(record.sql())
        .await
        .unwrap();
}
