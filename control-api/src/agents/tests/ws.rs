use std::time::Instant;

use ace_policies::session::State;
use serde_json::json;

use super::*;
use crate::testing::{NOON, worlds};

#[tokio::test]
async fn trap_36_nobody_speaks_for_a_machine_without_its_token() {
    for world in worlds().await {
        let (mine, other) = (machine(&world, "mine").await, machine(&world, "other").await);
        let node = Node::start(&world.app).await;
        assert_eq!(node.open("").await.err(), Some(401));
        assert_eq!(node.open(&other.token[..40]).await.err(), Some(401));
        for body in [
            json!({ "type": "register", "machine_id": mine.id }),
            json!({ "type": "sync" }),
            json!({}),
        ] {
            let nobody = world.nobody();
            nobody
                .post("/api/remote/agent/message", body)
                .await
                .refused(401, "invalid_agent_token");
        }
        let mut liar = node.open(&other.token).await.unwrap();
        liar.say(hello(&mine)).await;
        let (said, code) = liar.closed().await;
        assert_eq!(
            (said[0]["code"].as_str(), said[0]["fatal"].as_bool()),
            (Some("wrong_machine"), Some(true))
        );
        assert_eq!(code, Some(1008));
        assert_eq!(world.number("SELECT COUNT(*) FROM agent_connections").await, 0);
        node.stop().await;
    }
}

#[tokio::test]
async fn without_an_upgrade_there_is_no_websocket() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let answer = client(&world, &mine).get("/api/remote/agent/ws").await;
        answer.refused(426, "upgrade_required");
    }
}

#[tokio::test]
async fn the_first_word_is_connect_in_a_protocol_that_is_spoken() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let node = Node::start(&world.app).await;
        let mut unlike = hello(&mine);
        unlike["protocol"] = json!(99);
        for (word, code) in [
            (json!({ "type": "heartbeat", "active_sessions": 0 }), "connect_first"),
            (json!({ "type": "song" }), "connect_first"),
            (json!({ "type": "connect" }), "invalid_message"),
            (unlike, "unknown_protocol"),
        ] {
            let mut agent = node.open(&mine.token).await.unwrap();
            agent.say(word).await;
            assert_eq!(agent.closed().await.0[0]["code"], code);
        }
        node.stop().await;
    }
}

#[tokio::test]
async fn what_an_agent_says_of_its_machine_is_kept() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let ended = session(&world, &mine, State::Stopped).await;
        let node = Node::start(&world.app).await;
        let mut agent = node.open(&mine.token).await.unwrap();
        let mut word = hello(&mine);
        word["sessions"] = json!([{ "session_id": ended, "run": 1, "last_seq": 7 },
                                  { "session_id": chance::id(), "run": 1, "last_seq": 7 }]);
        agent.say(word).await;
        let welcome = agent.hear().await;
        assert_eq!(
            (&welcome["heartbeat_interval_s"], &welcome["server_time_ms"]),
            (&json!(60), &json!(NOON))
        );
        let known = |session, live| json!({ "session_id": session, "run": 1, "live": live, "last_seq": 0 });
        assert_eq!(welcome["sessions"], json!([known(live, true), known(ended, false)]));
        agent
            .say(json!({ "type": "heartbeat", "active_sessions": 1, "capabilities": { "cpu_cores": 8 } }))
            .await;
        agent.say(json!({ "type": "song", "of": "joy" })).await;
        until("the heartbeat", async || {
            let row = sqlx::query("SELECT hostname, max_sessions, capabilities, dialect FROM remote_machines");
            let row = row.fetch_one(&world.database.db.read).await.unwrap();
            let text = |column: &str| row.try_get::<String, _>(column).unwrap();
            let sessions: i64 = row.try_get(1).unwrap();
            assert_eq!(
                (text("hostname").as_str(), sessions, text("dialect").as_str()),
                ("box", 3, "own")
            );
            text("capabilities").contains("\"cpu_cores\":8")
        })
        .await;
        node.stop().await;
    }
}

#[tokio::test]
async fn a_command_arrives_the_moment_it_is_pushed() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        let mut times = Vec::new();
        for number in 0..100 {
            let begin = Instant::now();
            let id = push(&world.app, &mine, Some(live), &message(live, &number.to_string())).await;
            let heard = agent.hear().await;
            times.push(begin.elapsed());
            assert_eq!(
                (&heard["command_id"], &heard["command"]["content"]),
                (&json!(id), &json!(number.to_string()))
            );
            agent.say(json!({ "type": "ack", "command_id": id })).await;
        }
        times.sort();
        println!(
            "{:?}: push to frame, median {:?}, worst {:?}",
            world.database.engine(),
            times[50],
            times[99]
        );
        assert!(times[50] < AT_ONCE, "{:?}", times[50]);
        node.stop().await;
    }
}

#[tokio::test]
async fn a_chat_reaches_the_agent_at_once() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let node = Node::start(&world.app).await;
        let ((mut agent, _), admin) = (node.connect(&mine).await, world.admin().await);
        let path = format!("/api/remote/sessions/{live}/chat");
        let mut times = Vec::new();
        for number in 0..60 {
            let begin = Instant::now();
            let said = json!({ "content": format!("say {number}") });
            let (answer, heard) = tokio::join!(admin.post(&path, said), agent.hear());
            times.push(begin.elapsed());
            assert_eq!(heard["command_id"], answer.ok().json["command_id"]);
            agent
                .say(json!({ "type": "done", "command_id": heard["command_id"] }))
                .await;
        }
        times.sort();
        println!(
            "{:?}: chat to frame, median {:?}, worst {:?}",
            world.database.engine(),
            times[30],
            times[59]
        );
        assert!(times[30] < AT_ONCE, "{:?}", times[30]);
        node.stop().await;
    }
}

#[tokio::test]
async fn a_backlog_is_leased_no_faster_than_it_gets_through() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let large = "x".repeat(900 << 10);
        let mut pushed = Vec::new();
        for _ in 0..4 {
            pushed.push(push(&world.app, &mine, Some(live), &message(live, &large)).await);
        }
        let node = Node::start(&world.app).await;
        // More than the socket holds: until this agent reads, the first is on its way.
        let (mut agent, _) = node.connect(&mine).await;
        until("the first", async || state(&world, pushed[0]).await == "delivered").await;
        assert_eq!(state(&world, pushed[3]).await, "queued");
        for id in &pushed {
            assert_eq!(agent.hear().await["command_id"], json!(id), "in order");
            agent.say(json!({ "type": "ack", "command_id": id })).await;
        }
        until("the last", async || state(&world, pushed[3]).await == "acked").await;
        node.stop().await;
    }
}

#[tokio::test]
async fn output_is_acknowledged_up_to_what_is_stored() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        let lines = |from: i64, to: i64| {
            let line = |seq| json!({ "seq": seq, "stream": "stdout", "at": 5, "data": format!("{seq}\u{0}\n") });
            json!({ "type": "output", "session_id": live, "lines": (from..=to).map(line).collect::<Vec<_>>() })
        };
        for (from, to, stored) in [(1, 3, 3), (2, 5, 5), (7, 9, 5), (6, 9, 9)] {
            agent.say(lines(from, to)).await;
            let ack = json!({ "type": "output_ack", "session_id": live, "last_seq": stored });
            assert_eq!(agent.hear().await, ack);
        }
        assert_eq!(world.number("SELECT COUNT(*) FROM session_output").await, 9);
        node.stop().await;
    }
}

#[tokio::test]
async fn trap_37_an_agent_writes_its_own_machines_sessions_alone() {
    for world in worlds().await {
        let (mine, other) = (machine(&world, "mine").await, machine(&world, "other").await);
        let theirs = session(&world, &other, State::Active).await;
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        for session in [theirs, SessionId(chance::id())] {
            let line = json!({ "seq": 1, "stream": "stdout", "at": 5, "data": "x" });
            agent
                .say(json!({ "type": "output", "session_id": session, "lines": [line] }))
                .await;
            assert_eq!(agent.hear().await["type"], "output_ack", "it need not keep them");
            assert_eq!(agent.hear().await["code"], "not_this_machine");
            for word in [
                json!({ "type": "status", "session_id": session, "run": 1, "state": "error" }),
                json!({ "type": "approval", "session_id": session, "run": 1, "request_id": "1", "tool_name": "x", "input": {} }),
                json!({ "type": "approval_cancelled", "session_id": session, "request_id": "1" }),
            ] {
                agent.say(word).await;
                let refused = agent.hear().await;
                assert_eq!(
                    (&refused["code"], &refused["fatal"]),
                    (&json!("not_this_machine"), &json!(false))
                );
            }
            agent
                .say(json!({ "type": "token_request", "session_id": session, "run": 1 }))
                .await;
            assert_eq!(agent.hear().await["code"], "no_such_run");
        }
        let command = push(&world.app, &other, Some(theirs), &message(theirs, "hi")).await;
        agent.say(json!({ "type": "ack", "command_id": command })).await;
        agent
            .say(json!({ "type": "done", "command_id": command, "error": { "code": "failed", "message": "no" } }))
            .await;
        agent.say(json!({ "type": "ack" })).await;
        assert_eq!(agent.hear().await["code"], "invalid_message");
        assert_eq!(state(&world, command).await, "queued");
        assert_eq!(of_session::<String>(&world, theirs, "status").await, "active");
        assert_eq!(world.number("SELECT COUNT(*) FROM session_output").await, 0);
        assert_eq!(world.number("SELECT COUNT(*) FROM session_approvals").await, 0);
        node.stop().await;
    }
}

#[tokio::test]
async fn trap_31_what_is_said_of_an_earlier_run_changes_nothing() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let old = push(&world.app, &mine, Some(live), &start(live, 1)).await;
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        assert_eq!(agent.hear().await["command_id"], json!(old));
        sqlx::query("UPDATE agent_sessions SET run = 2")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        agent
            .say(json!({ "type": "status", "session_id": live, "run": 1, "state": "error" }))
            .await;
        agent
            .say(json!({ "type": "done", "command_id": old, "error": { "code": "failed", "message": "old" } }))
            .await;
        agent
            .say(json!({ "type": "token_request", "session_id": live, "run": 1 }))
            .await;
        assert_eq!(agent.hear().await["code"], "no_such_run");
        assert_eq!(state(&world, old).await, "failed");
        assert_eq!(of_session::<String>(&world, live, "status").await, "active");
        assert_eq!(of_session::<i64>(&world, live, "token_generation").await, 0);
        agent
            .say(json!({ "type": "token_request", "session_id": live, "run": 2 }))
            .await;
        let token = agent.hear().await;
        assert_eq!(
            (&token["type"], &token["expires_at_s"]),
            (&json!("token"), &json!(NOON / 1000 + 300))
        );
        agent
            .say(json!({ "type": "status", "session_id": live, "run": 2, "state": "error", "message": "gone" }))
            .await;
        until("the end", async || {
            of_session::<i64>(&world, live, "token_generation").await == 1
        })
        .await;
        assert_eq!(of_session::<String>(&world, live, "status").await, "error");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_message_has_a_limit() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        let _refused = agent.socket.send(Message::text("x".repeat((1 << 20) + 1))).await;
        agent.closed().await;
        node.stop().await;
    }
}
