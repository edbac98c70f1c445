use std::time::Instant;

use ace_migrations::Engine;
use ace_policies::session::State;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::testing::{config, master, worlds};
use crate::wakeups::Wakeup;

const COMMANDS: usize = 100;
const LINES: i64 = 10_000;
const BATCH: i64 = 250;

/// A node with threads of its own, so that it can die in the middle of whatever it does.
struct Mortal {
    runtime: Option<Runtime>,
    path: PathBuf,
    _folder: TempDir,
}

impl Mortal {
    async fn start(world: &World) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (database, clock, socket) = (world.database.open_again(), world.clock.clone(), path.clone());
        runtime.spawn(async move {
            let app = App::open(database.await, &master(1), config(), clock).await.unwrap();
            let listener = Listener::unix(&socket).unwrap();
            serve(app, listener, CancellationToken::new()).await
        });
        until("the node", async || UnixStream::connect(&path).await.is_ok()).await;
        Self {
            runtime: Some(runtime),
            path,
            _folder: folder,
        }
    }

    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An agent that forgets nothing: which commands it applied, and which line is stored.
struct Careful {
    session: SessionId,
    applied: Vec<usize>,
    stored: i64,
}

impl Careful {
    /// Talks to a node until it dies, or until all is done; after `until_stored` lines the node is killed.
    async fn talk(&mut self, node: Mortal, mine: &Machine, until_stored: i64) {
        let mut agent = open(&node.path, &mine.token).await.unwrap();
        agent.say(hello(mine)).await;
        let welcome = agent.hear().await;
        // What was acknowledged is stored; what was stored need not have been acknowledged.
        let last = welcome["sessions"][0]["last_seq"].as_i64().unwrap();
        assert!(last >= self.stored, "{last} < {}", self.stored);
        self.stored = last;
        let mut sent = self.stored;
        let mut node = Some(node);
        loop {
            while sent < LINES && sent - self.stored < 4 * BATCH {
                let lines: Vec<Value> = (sent + 1..=(sent + BATCH).min(LINES)).map(line).collect();
                sent += lines.len() as i64;
                let output = json!({ "type": "output", "session_id": self.session, "lines": lines });
                let _dead = agent.socket.send(Message::text(output.to_string())).await;
            }
            if self.stored >= until_stored
                && let Some(node) = node.take()
            {
                node.kill();
            }
            let Ok(Ok(said)) = timeout(SOON, agent.next()).await else {
                return;
            };
            self.hear(&mut agent, &said).await;
            if self.stored == LINES && self.applied.len() == COMMANDS {
                return;
            }
        }
    }

    async fn hear(&mut self, agent: &mut FakeAgent, said: &Value) {
        if said["type"] == "output_ack" {
            self.stored = said["last_seq"].as_i64().unwrap();
            return;
        }
        let number: usize = said["command"]["content"].as_str().unwrap().parse().unwrap();
        if !self.applied.contains(&number) {
            self.applied.push(number);
        }
        for kind in ["ack", "done"] {
            let word = json!({ "type": kind, "command_id": said["command_id"] });
            let _dead = agent.socket.send(Message::text(word.to_string())).await;
        }
    }
}

fn line(seq: i64) -> Value {
    json!({ "seq": seq, "stream": "stdout", "at": seq, "data": format!("line {seq}\n") })
}

#[tokio::test(flavor = "multi_thread")]
async fn trap_39_a_node_that_dies_loses_no_line_and_no_command() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let mut agent = Careful {
            session: live,
            applied: Vec::new(),
            stored: 0,
        };
        for number in 0..COMMANDS / 2 {
            push(&world.app, &mine, Some(live), &message(live, &number.to_string())).await;
        }
        let first = Mortal::start(&world).await;
        agent.talk(first, &mine, LINES / 3).await;
        assert!(agent.stored < LINES, "it died too late");
        for number in COMMANDS / 2..COMMANDS {
            push(&world.app, &mine, Some(live), &message(live, &number.to_string())).await;
        }
        let second = Mortal::start(&world).await;
        agent.talk(second, &mine, LINES + 1).await;
        assert_eq!(agent.applied, (0..COMMANDS).collect::<Vec<_>>(), "each once, in order");
        let stored = sqlx::query("SELECT seq, data FROM session_output ORDER BY seq")
            .fetch_all(&world.database.db.read)
            .await
            .unwrap();
        assert_eq!(stored.len() as i64, LINES);
        for (seq, row) in (1..).zip(&stored) {
            let data: Vec<u8> = row.try_get("data").unwrap();
            assert_eq!(
                (row.try_get::<i64, _>("seq").unwrap(), data),
                (seq, format!("line {seq}\n").into_bytes())
            );
        }
        until("done", async || {
            world
                .number("SELECT COUNT(*) FROM agent_commands WHERE state = 'done'")
                .await
                == 100
        })
        .await;
        assert_eq!(of_session::<String>(&world, live, "status").await, "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_reaches_an_agent_at_another_node_at_once() {
    for world in worlds().await {
        if world.database.engine() == Engine::Sqlite {
            continue;
        }
        let mine = machine(&world, "mine").await;
        let live = session(&world, &mine, State::Active).await;
        let other = world.another_node().await;
        let mut bell = other.wakeups().listen(Wakeup::Machine(mine.id));
        let node = Node::start(&other).await;
        // It rings everybody as it begins to listen to the database.
        timeout(SOON, bell.rung()).await.unwrap();
        let (mut agent, _) = node.connect(&mine).await;
        let mut times = Vec::new();
        for _ in 0..50 {
            let begin = Instant::now();
            let id = push(&world.app, &mine, Some(live), &message(live, "hi")).await;
            assert_eq!(agent.hear().await["command_id"], json!(id));
            times.push(begin.elapsed());
            agent.say(json!({ "type": "ack", "command_id": id })).await;
        }
        times.sort();
        println!(
            "across nodes: push to frame, median {:?}, worst {:?}",
            times[25], times[49]
        );
        assert!(times[25] < AT_ONCE, "{:?}", times[25]);
        let (mut here, _) = Node::start(&world.app).await.connect(&mine).await;
        assert_eq!(agent.closed().await.0[0]["code"], "replaced", "the other node is told");
        here.hears_nothing().await;
        node.stop().await;
    }
}
