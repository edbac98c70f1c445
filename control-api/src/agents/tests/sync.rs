use std::time::Instant;

use ace_policies::session::State;

use super::*;
use crate::testing::worlds;
use crate::wakeups::Wakeup;

const PATH: &str = "/api/remote/agent/message";

fn exchange(connection: Uuid, messages: Value, wait_ms: u64) -> Value {
    json!({ "type": "sync", "connection_id": connection, "messages": messages, "wait_ms": wait_ms })
}

#[tokio::test]
async fn a_long_poll_carries_the_same_conversation() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let (agent, id) = (client(&world, &mine), chance::id());
        let unknown = agent.post(PATH, exchange(id, json!([]), 0)).await.ok();
        assert_eq!(unknown.json["messages"][0]["code"], "not_connected");
        let welcome = agent.post(PATH, exchange(id, json!([hello(&mine)]), 25_000)).await.ok();
        assert_eq!(welcome.json["messages"][0]["type"], "welcome", "at once");
        assert_eq!(welcome.json["success"], true);
        let command = push(&world.app, &mine, Some(live), &message(live, "hi")).await;
        let line = json!({ "seq": 1, "stream": "stdout", "at": 5, "data": "x" });
        let output = json!({ "type": "output", "session_id": live, "lines": [line] });
        let acked = agent
            .post(PATH, exchange(id, json!([output, { "type": "song" }]), 0))
            .await
            .ok();
        let ack = json!([{ "type": "output_ack", "session_id": live, "last_seq": 1 }]);
        assert_eq!(acked.json["messages"], ack, "commands are for those who wait");
        let heard = agent.post(PATH, exchange(id, json!([]), 25_000)).await.ok();
        assert_eq!(heard.json["messages"][0]["command_id"], json!(command));
        let ack = json!([{ "type": "ack", "command_id": command }]);
        let begin = Instant::now();
        let nothing = agent.post(PATH, exchange(id, ack, 300)).await.ok();
        assert_eq!(nothing.json["messages"], json!([]));
        assert!(begin.elapsed() >= Duration::from_millis(300));
        assert_eq!(state(&world, command).await, "acked");
        assert_eq!(told(&world).await, ["machine.online"]);
    }
}

#[tokio::test]
async fn a_long_poll_ends_the_moment_there_is_something() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let (agent, id) = (client(&world, &mine), chance::id());
        agent.post(PATH, exchange(id, json!([hello(&mine)]), 0)).await.ok();
        let waiting = tokio::spawn({
            let agent = agent.clone();
            async move { agent.post(PATH, exchange(id, json!([]), 25_000)).await.ok().json }
        });
        until("waiting", async || {
            world.app.wakeups().is_heard(Wakeup::Machine(mine.id))
        })
        .await;
        let begin = Instant::now();
        let command = push(&world.app, &mine, Some(live), &message(live, "hi")).await;
        let heard = timeout(SOON, waiting).await.unwrap().unwrap();
        assert_eq!(heard["messages"][0]["command_id"], json!(command));
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        let waiting = tokio::spawn(async move { agent.post(PATH, exchange(id, json!([]), 25_000)).await.ok().json });
        until("waiting", async || {
            world.app.wakeups().is_heard(Wakeup::Machine(mine.id))
        })
        .await;
        client(&world, &mine)
            .post(PATH, exchange(chance::id(), json!([hello(&mine)]), 0))
            .await
            .ok();
        let replaced = timeout(SOON, waiting).await.unwrap().unwrap();
        assert_eq!(replaced["messages"][0]["code"], "replaced");
    }
}

#[tokio::test]
async fn a_backlog_comes_in_pieces_that_get_through() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let (agent, id) = (client(&world, &mine), chance::id());
        agent.post(PATH, exchange(id, json!([hello(&mine)]), 0)).await.ok();
        let large = "x".repeat(400 << 10);
        for _ in 0..3 {
            push(&world.app, &mine, Some(live), &message(live, &large)).await;
        }
        for _ in 0..40 {
            push(&world.app, &mine, Some(live), &message(live, "small")).await;
        }
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let heard = agent.post(PATH, exchange(id, json!([]), 25_000)).await.ok();
            assert!(heard.text.len() < (1 << 20) + (64 << 10), "{}", heard.text.len());
            sizes.push(heard.json["messages"].as_array().unwrap().len());
        }
        assert_eq!(sizes, [2, 32, 9], "in order: what does not fit any more waits");
        let left = "SELECT COUNT(*) FROM agent_commands WHERE state = 'queued'";
        assert_eq!(world.number(left).await, 0);
    }
}

#[tokio::test]
async fn what_is_no_exchange_is_refused_by_name() {
    for world in worlds().await {
        let agent = client(&world, &machine(&world, "mine").await);
        agent
            .post(PATH, json!({ "type": "sync" }))
            .await
            .refused(400, "invalid_message");
        agent.post(PATH, json!([])).await.refused(400, "type_required");
        let nonsense = agent.send("POST", PATH, "{".into()).await;
        nonsense.refused(400, "invalid_body");
        let long = agent.send("POST", PATH, "x".repeat((2 << 20) + 1).into()).await;
        long.refused(413, "body_too_large");
    }
}
