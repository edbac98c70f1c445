use std::time::Instant;

use ace_policies::wire::{Data, Line, Stream};
use ace_policies::{MachineId, SessionId};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;
use uuid::Uuid;

use crate::output::{append, append_next};
use crate::sessions::tests::at;
use crate::testing::{World, worlds};

fn line(seq: i64, text: &str) -> Line {
    Line {
        seq,
        stream: Stream::Stdout,
        at: seq,
        data: Data(text.as_bytes().to_vec()),
    }
}

async fn send(world: &World, session: SessionId, machine: MachineId, lines: &[Line]) -> i64 {
    let mut record = world.app.record().await.unwrap();
    let last = append(&mut record, session, machine, lines).await.unwrap();
    record.commit().await.unwrap();
    last
}

/// What an agent with all lines of a session in its spool may send: any piece of it, twice, out of order, or with lines left out.
fn batches() -> impl Strategy<Value = Vec<Vec<i64>>> {
    let piece = (1i64..=60, 0i64..=25).prop_map(|(first, count)| (first..first + count).collect());
    let holed = prop::collection::btree_set(1i64..=60, 0..20).prop_map(|seqs| seqs.into_iter().collect());
    prop::collection::vec(prop_oneof![4 => piece, 1 => holed], 1..25)
}

#[tokio::test]
async fn trap_39_whatever_is_sent_each_line_is_stored_once_in_order() {
    let mut runner = TestRunner::deterministic();
    for world in worlds().await {
        let machine = world.host(7).await;
        world.run("UPDATE remote_machines SET max_sessions = 1000", &[]).await;
        let alice = world.assigned("alice", machine, "user").await;
        for _ in 0..24 {
            let session = alice.starts(machine).await;
            let mut expected = 0;
            for batch in batches().new_tree(&mut runner).unwrap().current() {
                let lines: Vec<Line> = batch.iter().map(|seq| line(*seq, &format!("line {seq}\n"))).collect();
                for seq in &batch {
                    if *seq == expected + 1 {
                        expected += 1;
                    }
                }
                assert_eq!(send(&world, session, machine, &lines).await, expected, "{batch:?}");
            }
            let seen = alice.sees(session).await;
            let output = seen["output"].as_array().unwrap();
            assert_eq!(
                (seen["last_seq"].as_i64(), output.len()),
                (Some(expected), expected as usize)
            );
            for (number, line) in (1..).zip(output) {
                assert_eq!(
                    (&line["seq"], &line["data"]),
                    (&json!(number), &json!(format!("line {number}\n")))
                );
            }
        }
    }
}

#[tokio::test]
async fn trap_39_a_restart_of_the_server_loses_no_line() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        send(&world, session, machine, &[line(1, "one"), line(2, "two")]).await;
        // A batch that was under way is not saved, and the agent heard nothing: it sends it again.
        let mut lost = world.app.record().await.unwrap();
        assert_eq!(
            append(&mut lost, session, machine, &[line(3, "three")]).await.unwrap(),
            3
        );
        drop(lost);
        let db = world.database.open_again().await;
        let keys = crate::testing::master(1);
        let app = crate::App::open(db, &keys, crate::testing::config(), world.clock.clone()).await;
        let again = World {
            app: app.unwrap(),
            clock: world.clock.clone(),
            database: world.database,
        };
        assert_eq!(
            send(&again, session, machine, &[line(2, "two"), line(3, "three")]).await,
            3
        );
        let seen = again.logged_in(ace_policies::UserId(2)).await.sees(session).await;
        let data: Vec<&str> = seen["output"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line["data"].as_str().unwrap())
            .collect();
        assert_eq!(data, ["one", "two", "three"]);
        assert_eq!(seen["status"], "starting", "and the session goes on");
    }
}

#[tokio::test]
async fn trap_50_the_first_line_is_line_one() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        assert_eq!(send(&world, session, machine, &[line(0, "before the first")]).await, 0);
        assert_eq!(send(&world, session, machine, &[line(1, "the first")]).await, 1);
        let page = alice.get(&at(session, "?after=0")).await.ok().json["session"].clone();
        assert_eq!(page["output"][0]["data"], "the first");
        assert_eq!(page["first_seq"], 1);
    }
}

#[tokio::test]
async fn trap_37_no_machine_writes_another_ones_session() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        let mut record = world.app.record().await.unwrap();
        let other = MachineId(Uuid::from_u128(8));
        let refused = append(&mut record, session, other, &[line(1, "x")]).await.unwrap_err();
        assert_eq!(refused.code(), "not_this_machine");
        let nobodys = SessionId(Uuid::from_u128(1));
        let unknown = append(&mut record, nobodys, machine, &[line(1, "x")])
            .await
            .unwrap_err();
        assert_eq!(unknown.code(), "session_not_found");
    }
}

#[tokio::test]
async fn lines_without_numbers_get_them() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        for first in [1, 3] {
            let mut record = world.app.record().await.unwrap();
            let lines = ["a\n", "b\n"].map(|text| (Stream::Stderr, Data(text.into())));
            assert_eq!(
                append_next(&mut record, session, machine, lines.to_vec())
                    .await
                    .unwrap(),
                first + 1
            );
            record.commit().await.unwrap();
        }
        let seen = alice.sees(session).await;
        assert_eq!(
            (&seen["last_seq"], &seen["output"][3]["stream"]),
            (&json!(4), &json!("stderr"))
        );
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_come_back_as_they_were() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        let raw = |seq, data: &[u8]| Line {
            data: Data(data.to_vec()),
            ..line(seq, "")
        };
        send(
            &world,
            session,
            machine,
            &[raw(1, b"a\0b\n"), raw(2, b"\xff\n"), raw(3, b"")],
        )
        .await;
        let seen = alice.sees(session).await;
        assert_eq!(seen["output"][0]["data"], "a\0b\n");
        assert_eq!(seen["output"][1]["data_base64"], "/wo=");
        assert_eq!(seen["output"][2]["data"], "");
    }
}

#[tokio::test]
async fn trap_40_thousands_of_lines_a_second_are_stored() {
    const LINES: i64 = 20_000;
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        let text = format!("{}\n", json!({ "type": "stream_event", "text": "x".repeat(150) }));
        let lines: Vec<Line> = (1..=LINES).map(|seq| line(seq, &text)).collect();
        let begun = Instant::now();
        for batch in lines.chunks(500) {
            send(&world, session, machine, batch).await;
        }
        let took = begun.elapsed();
        let rate = LINES as f64 / took.as_secs_f64();
        println!(
            "{:?}: {rate:.0} lines a second in batches of 500",
            world.database.engine()
        );
        // Unoptimised and beside other tests; by itself it is many times this.
        assert!(rate > 2_500.0, "{rate}");
        assert_eq!(alice.sees(session).await["last_seq"], LINES);
    }
}
