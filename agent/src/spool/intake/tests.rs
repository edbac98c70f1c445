use std::path::Path;

use ace_policies::session::Report;
use uuid::Uuid;

use super::*;
use crate::uplink::Room;

const ONE: SessionId = SessionId(Uuid::from_u128(1));
const TWO: SessionId = SessionId(Uuid::from_u128(2));

/// A thread whose sessions may have a megabyte each, and what it works for.
struct World {
    spool: Arc<Spool>,
    outbox: Arc<Outbox>,
    out: mpsc::Sender<Up>,
    thread: thread::JoinHandle<()>,
}

impl World {
    fn new(dir: &Path, patience: Duration) -> Self {
        let spool = Arc::new(Spool::open(dir, 4 << 20, 4).unwrap());
        let outbox = Arc::new(Outbox::default());
        let intake = Intake {
            spool: spool.clone(),
            mask: Arc::default(),
            outbox: outbox.clone(),
            patience: Some(patience),
        };
        let (out, from_sessions) = mpsc::channel(16);
        Self {
            spool,
            outbox,
            out,
            thread: spawn(intake, from_sessions).unwrap(),
        }
    }

    async fn print(&self, session_id: SessionId, data: &str, room: Option<Taken>) {
        let print = Up::Print {
            session_id,
            stream: Stream::Stdout,
            data: data.into(),
            left_out: 0,
            at: 1,
            room,
        };
        self.out.send(print).await.unwrap();
    }

    async fn say(&self, message: FromAgent) {
        self.out.send(Up::Say(message)).await.unwrap();
    }

    /// Fills a session's share but for a little.
    async fn fill(&self, session: SessionId) {
        for _ in 0..10 {
            self.print(session, &"x".repeat(100_000), None).await;
        }
    }

    /// The next word that may go, whatever was sent before it.
    async fn word(&self) -> FromAgent {
        loop {
            if let Some(word) = self.outbox.next(tokio::time::Instant::now(), |_, _| true) {
                return word;
            }
            self.outbox.news().await;
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Spool) -> bool) {
        let holding = async {
            while !holds(&self.spool) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let held = tokio::time::timeout(Duration::from_secs(60), holding).await;
        assert!(held.is_ok(), "{what}");
    }

    fn safe(&self, session: SessionId) -> i64 {
        let pending = self.spool.pending();
        let pending = pending.iter().find(|pending| pending.session_id == session);
        pending.map_or(0, |pending| pending.safe)
    }

    async fn end(self) {
        drop(self.out);
        let thread = self.thread;
        tokio::task::spawn_blocking(move || thread.join().unwrap())
            .await
            .unwrap();
    }
}

fn status(session_id: SessionId) -> FromAgent {
    FromAgent::Status {
        session_id,
        run: 1,
        state: Report::Running,
        busy: false,
        resume_id: None,
        message: None,
    }
}

fn ack() -> FromAgent {
    let command_id = Uuid::nil();
    FromAgent::Ack { command_id }
}

#[tokio::test]
async fn a_session_that_waits_for_space_keeps_its_order_and_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), Duration::from_secs(3600));
    world.fill(ONE).await;
    for _ in 0..100 {
        world.print(ONE, &"y".repeat(100_000), None).await;
    }
    world.say(status(ONE)).await;
    world.print(TWO, "hello\n", None).await;
    world.say(status(TWO)).await;
    world.say(ack()).await;
    assert_eq!(world.word().await, status(TWO));
    assert_eq!(world.word().await, ack());
    world.until("the other's line", |_| world.safe(TWO) == 1).await;
    assert_eq!(world.spool.last_seq(ONE), 10);
    for last in (10..=110).step_by(10) {
        world.until("ten lines more", |spool| spool.last_seq(ONE) >= last).await;
        assert!(
            last == 110 || !world.outbox.has_news(),
            "its words come after its output"
        );
        world.spool.acknowledge(ONE, last).unwrap();
    }
    assert_eq!(world.word().await, status(ONE));
    world.end().await;
}

#[tokio::test]
async fn room_is_given_back_when_a_line_is_on_the_disk_or_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), Duration::from_millis(500));
    let room = Room::default();
    for _ in 0..60 {
        let taken = room.take(100_000).await;
        world.print(ONE, &"x".repeat(100_000), Some(taken)).await;
    }
    world.say(status(ONE)).await;
    assert_eq!(world.word().await, status(ONE));
    world
        .until("the word in their place", |spool| spool.last_seq(ONE) == 11)
        .await;
    world.end().await;
}

#[tokio::test]
async fn a_secret_is_masked_before_its_line_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), Duration::from_secs(1));
    let secret = "acea_0123456789012345678901";
    let before = "x".repeat(ace_policies::wire::MAX_BATCH_BYTES - 80);
    world
        .print(ONE, &format!("{before} {secret} {secret} {secret}\n"), None)
        .await;
    world.until("the line", |_| world.safe(ONE) == 1).await;
    let batch = world.spool.batch(ONE, 0).unwrap();
    let text = String::from_utf8(batch[0].data.0.clone()).unwrap();
    assert!(
        text.ends_with("x acea_*** acea_*** acea_***\n"),
        "{}",
        &text[text.len() - 200..]
    );
    world.end().await;
}
