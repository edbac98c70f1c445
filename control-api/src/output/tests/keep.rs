use std::time::Duration;

use ace_policies::session::Report;
use ace_policies::wire::{Data, Line, Stream};
use serde_json::json;

use crate::output::forget::forget;
use crate::output::{append, clear_leftovers, forget_old};
use crate::sessions::tests::at;
use crate::testing::{NOON, World, config, master, worlds};
use crate::{App, Clock, ControlConfig};

const DAY: Duration = Duration::from_secs(86_400);

/// Worlds that keep 64 KiB of each session.
async fn small() -> Vec<World> {
    let mut small = Vec::new();
    for world in worlds().await {
        let clock = Clock::set_to(NOON);
        let config = ControlConfig {
            session_output_bytes: 64 << 10,
            ..config()
        };
        let app = App::open(world.database.db.clone(), &master(1), config, clock.clone()).await;
        small.push(World {
            app: app.unwrap(),
            clock,
            database: world.database,
        });
    }
    small
}

#[tokio::test]
async fn a_session_keeps_its_newest_output() {
    for world in small().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        for first in (1..=400).step_by(10) {
            let line = |seq| Line {
                seq,
                stream: Stream::Stdout,
                at: 0,
                data: Data(vec![b'x'; 1000]),
            };
            let lines: Vec<Line> = (first..first + 10).map(line).collect();
            let mut record = world.app.record().await.unwrap();
            append(&mut record, session, machine, &lines).await.unwrap();
            record.commit().await.unwrap();
            let kept = world
                .number("SELECT CAST(SUM(LENGTH(data)) AS BIGINT) FROM session_output")
                .await;
            assert_eq!(kept, world.number("SELECT output_bytes FROM agent_sessions").await);
            assert!(kept <= 64 << 10, "{kept}");
        }
        let seen = alice.sees(session).await;
        let first = seen["first_seq"].as_i64().unwrap();
        assert!(first > 300 && seen["last_seq"] == 400, "{first}");
        assert_eq!(
            (&seen["output"][0]["seq"], &seen["output_truncated"]),
            (&json!(first), &json!(false))
        );
        // One line that is larger than everything that may be kept stays alone.
        let large = Line {
            seq: 401,
            stream: Stream::Stdout,
            at: 0,
            data: Data(vec![b'y'; 100_000]),
        };
        let mut record = world.app.record().await.unwrap();
        append(&mut record, session, machine, &[large]).await.unwrap();
        record.commit().await.unwrap();
        assert_eq!(world.number("SELECT COUNT(*) FROM session_output").await, 1);
        assert_eq!(alice.sees(session).await["first_seq"], 401);
    }
}

#[tokio::test]
async fn long_after_its_end_a_session_is_forgotten_and_can_still_go_on() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let (old, live) = (alice.starts(machine).await, alice.starts(machine).await);
        for session in [old, live] {
            alice.says(session, "hi").await.ok();
            world.prints(session, machine, 1, &["one\n", "two\n"]).await;
        }
        alice.act(old, "/stop").await.ok();
        world.clock.advance(89 * DAY);
        assert_eq!(forget_old(&world.app).await.unwrap(), 0);
        world.clock.advance(2 * DAY);
        assert_eq!(forget_old(&world.app).await.unwrap(), 1);
        assert_eq!(forget_old(&world.app).await.unwrap(), 0);
        let alice = world.logged_in(ace_policies::UserId(2)).await;
        let seen = alice.sees(old).await;
        assert_eq!(
            (&seen["first_seq"], &seen["last_seq"], &seen["output"]),
            (&json!(0), &json!(2), &json!([]))
        );
        assert_eq!(alice.get(&at(old, "/messages")).await.ok().json["messages"], json!([]));
        assert_eq!(
            alice.sees(live).await["output"].as_array().unwrap().len(),
            2,
            "one that runs keeps everything"
        );
        alice.act(old, "/resume").await.ok();
        world.prints(old, machine, 3, &["three\n"]).await;
        let seen = alice.sees(old).await;
        assert_eq!(
            (&seen["first_seq"], &seen["output"][0]["data"]),
            (&json!(3), &json!("three\n"))
        );
        world.reports(old, 2, Report::Completed, None).await;
        world.clock.advance(91 * DAY);
        assert_eq!(forget_old(&world.app).await.unwrap(), 1, "and once more");
        assert_eq!(world.number("SELECT COUNT(*) FROM session_output").await, 2);
    }
}

#[tokio::test]
async fn what_is_forgotten_is_gone_at_once_and_cleared_later() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        alice.says(session, "hi").await.ok();
        let said = r#"{"type":"assistant","message":{"content":"hello"}}"#;
        world.prints(session, machine, 1, &[said, "two\n"]).await;
        world
            .run(
                "INSERT INTO session_approvals (session_id, request_id, run, tool_name, input, created_at, version)
                 VALUES ($1, 'q', 1, 'Bash', '{}', 0, 1)",
                &[&session.to_string()],
            )
            .await;
        alice.act(session, "/stop").await.ok();
        world.clock.advance(91 * DAY);
        let alice = world.logged_in(ace_policies::UserId(2)).await;
        // The program ends right after that.
        forget(&world.app, session).await.unwrap();
        assert_eq!(world.number("SELECT COUNT(*) FROM session_output").await, 2);
        for span in ["", "?after=0", "?before=2"] {
            let seen = alice.get(&at(session, span)).await.ok().json["session"].clone();
            assert_eq!(seen["output"], json!([]), "{span}");
        }
        let messages = at(session, "/messages");
        assert_eq!(alice.get(&messages).await.ok().json["messages"], json!([]));
        for format in ["md", "jsonl"] {
            let transcript = alice
                .get(&at(session, &format!("/transcript?format={format}")))
                .await
                .ok();
            assert!(
                !transcript.text.contains("hello") && !transcript.text.contains("hi\n"),
                "{transcript}"
            );
        }
        alice.act(session, "/resume").await.ok();
        world.prints(session, machine, 3, &["three\n"]).await;
        alice.says(session, "again").await.ok();
        assert_eq!(forget_old(&world.app).await.unwrap(), 0);
        let seen = alice.sees(session).await;
        assert_eq!(
            (&seen["first_seq"], &seen["output"][0]["data"]),
            (&json!(3), &json!("three\n"))
        );
        assert_eq!(alice.get(&messages).await.ok().json["messages"][0]["content"], "again");
        for (count, left) in [
            ("SELECT COUNT(*) FROM session_output", 1),
            ("SELECT COUNT(*) FROM session_messages", 1),
            ("SELECT COUNT(*) FROM session_leftovers", 0),
            ("SELECT COUNT(*) FROM session_approvals", 0),
            // The stop is not done yet; the new start and message are not either.
            ("SELECT COUNT(*) FROM agent_commands WHERE run = 1", 1),
            ("SELECT COUNT(*) FROM agent_commands WHERE run = 2", 2),
        ] {
            assert_eq!(world.number(count).await, left, "{count}");
        }
    }
}

#[tokio::test]
async fn of_a_deleted_session_only_its_end_is_still_told() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        alice.says(session, "a secret plan").await.ok();
        world
            .run("UPDATE agent_commands SET state = 'delivered', leased_until = 0", &[])
            .await;
        alice.act(session, "/stop").await.ok();
        alice.delete(&at(session, "")).await.ok();
        assert!(!clear_leftovers(&world.app).await);
        let left = "SELECT COUNT(*) FROM agent_commands WHERE type = 'stop_session' AND session_id IS NULL AND state = 'queued'";
        assert_eq!(world.number(left).await, 1);
        assert_eq!(world.number("SELECT COUNT(*) FROM agent_commands").await, 1);
        assert_eq!(world.number("SELECT COUNT(*) FROM session_leftovers").await, 0);
    }
}
