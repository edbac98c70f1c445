use std::time::Duration;

use ace_policies::SessionId;
use ace_policies::session::Report;
use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::approvals;
use crate::sessions::tests::at;
use crate::sessions::{self};
use crate::testing::{Client, World, worlds};

/// One event.
#[derive(Debug)]
struct Event {
    name: String,
    id: Option<i64>,
    data: Value,
}

/// Somebody who follows a session.
struct Viewer {
    body: BodyDataStream,
    text: String,
}

impl Viewer {
    async fn of(client: &Client, session: SessionId, query: &str) -> Self {
        let response = client
            .open("GET", &at(session, &format!("/stream{query}")), Body::empty())
            .await;
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    /// The next event, comments left out; `None` at the end. A test that waits for long is broken.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.clone().split_once("\n\n") {
                self.text = rest.to_owned();
                let field = |name: &str| {
                    let line = block
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                    line.map(|value| value.trim_start().to_owned())
                };
                let Some(data) = field("data") else { continue };
                return Some(Event {
                    name: field("event").unwrap(),
                    id: field("id").map(|id| id.parse().unwrap()),
                    data: serde_json::from_str(&data).unwrap(),
                });
            }
            let piece = tokio::time::timeout(Duration::from_secs(20), self.body.next())
                .await
                .expect("an event in time");
            self.text.push_str(str::from_utf8(&piece?.unwrap()).unwrap());
        }
    }

    /// The next event of a name; others are passed over.
    async fn until(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if event.name == name {
                return event;
            }
        }
    }

    /// The next lines of output.
    async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            let event = self.until("output").await;
            assert_eq!(event.id, event.data["seq"].as_i64());
            lines.push(event.data["data"].as_str().unwrap().to_owned());
        }
        lines
    }
}

async fn asks(world: &World, session: SessionId, request_id: &str) {
    let mut record = world.app.record().await.unwrap();
    let row = sessions::lock(&mut record, session).await.unwrap().unwrap();
    approvals::asked(
        &mut record,
        &row,
        row.run,
        request_id,
        "Bash",
        &json!({ "command": "ls" }),
    )
    .await
    .unwrap();
    record.commit().await.unwrap();
}

#[tokio::test]
async fn a_stream_begins_with_how_it_is_and_goes_on_with_what_comes() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        asks(&world, session, "q1").await;
        world.prints(session, machine, 1, &["one\n", "two\n"]).await;
        let response = alice.open("GET", &at(session, "/stream"), Body::empty()).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-cache");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        let mut viewer = Viewer::of(&alice, session, "").await;
        let first = viewer.next().await.unwrap();
        assert_eq!(
            (first.name.as_str(), first.id, &first.data["status"]),
            ("state", None, &json!("starting"))
        );
        assert_eq!(viewer.next().await.unwrap().name, "usage");
        let question = viewer.next().await.unwrap();
        assert_eq!(
            (question.name.as_str(), &question.data["request_id"]),
            ("approval", &json!("q1"))
        );
        assert_eq!(viewer.lines(2).await, ["one\n", "two\n"]);
        world.reports(session, 1, Report::Running, None).await;
        let state = viewer.until("state").await.data;
        assert_eq!((&state["status"], &state["busy"]), (&json!("active"), &json!(true)));
        world.prints(session, machine, 3, &["three\n"]).await;
        assert_eq!(viewer.lines(1).await, ["three\n"]);
        let answer = json!({ "request_id": "q1", "behavior": "allow" });
        alice.post(&at(session, "/permission"), answer).await.ok();
        let told = viewer.until("approval").await.data;
        assert_eq!(
            (&told["state"], &told["answered_by"]),
            (&json!("answered"), &json!("alice"))
        );
    }
}

#[tokio::test]
async fn trap_44_each_viewer_has_a_cursor_of_its_own_without_gap_or_duplicate() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        let lines: Vec<String> = (1..=5_000).map(|number| number.to_string()).collect();
        let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
        world.prints(session, machine, 1, &texts[..3_000]).await;
        let mut all = Viewer::of(&alice, session, "").await;
        let mut late = Viewer::of(&alice, session, "?after=2990").await;
        let resumed = alice.clone().with("last-event-id", "2999");
        let mut resumed = Viewer::of(&resumed, session, "?after=1").await;
        assert_eq!(all.lines(1_500).await, lines[..1_500]);
        assert_eq!(late.lines(10).await, lines[2_990..3_000]);
        assert_eq!(resumed.lines(1).await, lines[2_999..3_000]);
        world.prints(session, machine, 3_001, &texts[3_000..]).await;
        assert_eq!(all.lines(3_500).await, lines[1_500..]);
        assert_eq!(late.lines(2_000).await, lines[3_000..]);
        assert_eq!(resumed.lines(2_000).await, lines[3_000..]);
        for wrong in ["?after=-1", "?after=x"] {
            assert_eq!(alice.get(&at(session, &format!("/stream{wrong}"))).await.status, 400);
        }
    }
}

#[tokio::test]
async fn trap_45_a_page_that_is_loaded_again_shows_the_question() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        asks(&world, session, "q1").await;
        for _ in 0..2 {
            let mut viewer = Viewer::of(&alice, session, "").await;
            assert_eq!(viewer.until("approval").await.data["state"], "pending");
        }
        assert_eq!(
            alice.get(&at(session, "/approvals?state=pending")).await.ok().json["approvals"][0]["request_id"],
            "q1"
        );
    }
}

#[tokio::test]
async fn a_stream_ends_for_who_may_not_see_it_any_more() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let carol = world.assigned("carol", machine, "admin").await;
        let session = alice.starts(machine).await;
        let (mut owner, mut admin) = (
            Viewer::of(&alice, session, "").await,
            Viewer::of(&carol, session, "").await,
        );
        owner.until("state").await;
        admin.until("state").await;
        alice.post("/api/auth/logout", json!({})).await.ok();
        world
            .run("DELETE FROM machine_assignments WHERE permission = 'admin'", &[])
            .await;
        while owner.next().await.is_some() {}
        while admin.next().await.is_some() {}
    }
}

#[tokio::test]
async fn a_stream_tells_that_its_session_was_deleted_and_ends() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        let mut viewer = Viewer::of(&alice, session, "").await;
        alice.act(session, "/stop").await.ok();
        while viewer.until("state").await.data["status"] != "stopped" {}
        alice.delete(&at(session, "")).await.ok();
        assert_eq!(viewer.until("state").await.data["status"], "deleted");
        assert!(viewer.next().await.is_none());
    }
}

#[tokio::test]
async fn what_was_forgotten_is_not_waited_for() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        world.prints(session, machine, 1, &["one", "two"]).await;
        world.run("DELETE FROM session_output", &[]).await;
        world.run("UPDATE agent_sessions SET first_seq = 0", &[]).await;
        let mut viewer = Viewer::of(&alice, session, "").await;
        viewer.until("usage").await;
        world.prints(session, machine, 3, &["three"]).await;
        let event = viewer.until("output").await;
        assert_eq!(event.id, Some(3));
    }
}

#[tokio::test]
async fn a_stream_does_not_keep_the_program_from_ending() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let machine = world.host(7).await;
    let alice = world.assigned("alice", machine, "user").await;
    let session = alice.starts(machine).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = crate::Listener::unix(&path).unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(crate::serve(world.app.clone(), listener, shutdown.clone()));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let cookie = alice.header("cookie");
    let ask = format!(
        "GET {} HTTP/1.1\r\nhost: ace.test\r\ncookie: {cookie}\r\n\r\n",
        at(session, "/stream")
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut begin = [0; 512];
    assert!(stream.read(&mut begin).await.unwrap() > 0);
    let begun = std::time::Instant::now();
    shutdown.cancel();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    serving.await.unwrap().unwrap();
    assert!(begun.elapsed() < world.app.config().drain / 2, "{:?}", begun.elapsed());
    assert!(rest.ends_with(b"0\r\n\r\n"), "it ends as a whole answer does");
}

#[tokio::test]
async fn many_large_questions_come_some_at_a_time_and_whole() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let session = alice.starts(machine).await;
        for n in 0..20 {
            let mut record = world.app.record().await.unwrap();
            let row = sessions::lock(&mut record, session).await.unwrap().unwrap();
            let input = json!({ "content": "x".repeat(40_000) });
            let name = format!("q{n}");
            let asked = approvals::asked(&mut record, &row, row.run, &name, "Write", &input);
            asked.await.unwrap();
            record.commit().await.unwrap();
        }
        let mut viewer = Viewer::of(&alice, session, "").await;
        for n in 0..20 {
            let question = viewer.until("approval").await.data;
            assert_eq!(question["request_id"], format!("q{n}"));
        }
        let (first, more) = approvals::after(&world.app, session, 0, true).await.unwrap();
        assert!(first.len() < 8 && more, "{}", first.len());
        let answer = json!({ "request_id": "q0", "behavior": "allow" });
        alice.post(&at(session, "/permission"), answer).await.ok();
        let told = viewer.until("approval").await.data;
        assert_eq!(
            (&told["request_id"], &told["state"]),
            (&json!("q0"), &json!("answered"))
        );
    }
}
