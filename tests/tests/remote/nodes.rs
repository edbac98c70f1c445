//! Two control nodes and an edge in front of them, over one PostgreSQL: they behave as one, and either may die.

use std::collections::BTreeSet;
use std::time::Duration;

use ace_tests::{Ask, Browser, Door, Node, PATIENCE, Person, Postgres, Registered, SocketAgent, World, eventually};
use serde_json::{Value, json};

struct Estate {
    world: World,
    nodes: Vec<Node>,
    edge: Node,
    _database: Postgres,
}

impl Estate {
    async fn start() -> Self {
        let database = Postgres::create().await;
        let world = World::builder().on(&database).start().await;
        let nodes = vec![world.control_node().await, world.control_node().await];
        let upstreams: Vec<_> = nodes.iter().map(|node| node.door.address.to_string()).collect();
        let edge = world
            .another_gateway(
                &format!("[control]\nupstreams = {upstreams:?}\n"),
                &["--no-control-api"],
            )
            .await;
        Self {
            world,
            nodes,
            edge,
            _database: database,
        }
    }

    /// A machine that alice may use, its agent connected through a door.
    async fn machine(&self, name: &str, door: &Door) -> SocketAgent {
        let registered = Registered::by(&self.world.admin, door, name).await;
        let assign = format!("/api/remote/machines/{}/assign", registered.machine);
        self.world
            .admin
            .post(&assign, json!({"user_id": self.world.alice.id}))
            .await
            .ok();
        SocketAgent::connects(registered).await
    }
}

async fn creates(person: &Person, machine: &str) -> String {
    let body = json!({"machine_id": machine, "project_path": "/home/user/my-project", "cli_tool": "claude-code"});
    let created = person.post("/api/remote/sessions", body).await.ok();
    created["session"]["session_id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn agents_and_browsers_on_different_nodes_meet() {
    let estate = Estate::start().await;
    // The agent is on the edge, which spreads what comes over the nodes; alice on the world's own control API, another node.
    let mut agent = estate.machine("build-1", &estate.edge.door).await;
    let session = creates(&estate.world.alice, &agent.registered.machine).await;
    assert_eq!(
        agent.hears().await.expect("a command")["command"]["type"],
        "start_session"
    );
    agent.status(&session, "running").await.expect("a connection");
    let elsewhere = estate.world.alice.at(&estate.edge.door);
    let path = format!("/api/remote/sessions/{session}");
    eventually("the session to run", async || {
        (elsewhere.get(&path).await.ok()["session"]["status"] == "active").then_some(())
    })
    .await;
    let mut here = Browser::of(&estate.world.alice, &estate.world.door, &format!("{path}/stream"));
    let mut there = Browser::of(&elsewhere, &estate.edge.door, &format!("{path}/stream"));
    for browser in [&mut here, &mut there] {
        let state = browser.next_within(PATIENCE).await.expect("the state");
        assert_eq!(
            (state.event.as_str(), &state.data["status"]),
            ("state", &json!("active")),
            "{state:?}"
        );
    }
    agent
        .prints(&session, &["{\"type\":\"assistant\"}".to_owned()])
        .await
        .expect("a connection");
    for browser in [&mut here, &mut there] {
        let line = line(browser, PATIENCE).await.expect("a line");
        assert_eq!(
            (line["seq"].as_i64(), &line["data"]),
            (Some(1), &json!("{\"type\":\"assistant\"}\n"))
        );
    }
    elsewhere
        .post(&format!("{path}/chat"), json!({"content": "hi"}))
        .await
        .ok();
    assert_eq!(agent.hears().await.expect("a command")["command"]["content"], "hi");
}

/// The next line of output that a browser is shown.
async fn line(browser: &mut Browser, patience: Duration) -> Option<Value> {
    loop {
        let event = browser.next_within(patience).await?;
        if event.event == "output" {
            return Some(event.data);
        }
    }
}

const LINES: usize = 10_000;
const MESSAGES: usize = 100;

#[tokio::test]
async fn a_control_node_that_is_killed_loses_no_line_and_no_command() {
    let mut estate = Estate::start().await;
    let mut agent = estate.machine("build-1", &estate.edge.door).await;
    let session = creates(&estate.world.alice, &agent.registered.machine).await;
    agent.hears().await.expect("the start");
    agent.status(&session, "running").await.expect("a connection");

    let alice = estate.world.alice.at(&estate.edge.door);
    let path = format!("/api/remote/sessions/{session}");
    let browser = Browser::of(&alice, &estate.edge.door, &format!("{path}/stream"));
    let watching = tokio::spawn(sees(browser));
    let chatting = tokio::spawn(chats(alice.clone(), estate.edge.door.clone(), format!("{path}/chat")));
    let working = tokio::spawn(works(agent, session));
    tokio::time::sleep(Duration::from_millis(700)).await;
    estate.nodes[0].program.crash().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    // It comes back under another address; the edge goes on with the one that is left.
    estate.nodes[0] = estate.world.control_node().await;

    chatting.await.expect("every message is taken");
    let heard = working.await.expect("an agent that goes on");
    let expected: Vec<_> = (0..MESSAGES).map(|number| format!("message {number}")).collect();
    assert_eq!(heard, expected, "nothing lost, nothing twice, in order");
    let seen = watching.await.expect("a browser that goes on");
    assert!(
        seen.iter().copied().eq(1..=LINES as i64),
        "{} lines, the first {:?}",
        seen.len(),
        seen.first()
    );
}

/// Which lines a browser is shown, until all are there.
async fn sees(mut browser: Browser) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < LINES {
        let Some(line) = line(&mut browser, PATIENCE).await else {
            break;
        };
        seen.push(line["seq"].as_i64().unwrap_or(-1));
    }
    seen
}

/// Says a hundred things, each until it is taken.
async fn chats(alice: Person, door: Door, path: String) {
    for number in 0..MESSAGES {
        let ask = Ask::post(&path)
            .header("cookie", alice.cookie())
            .header("idempotency-key", format!("key-{number}"))
            .json(&json!({"content": format!("message {number}")}));
        eventually("a message to be taken", async || {
            door.try_call(&ask).await.ok().filter(|answer| answer.status == 200)
        })
        .await;
    }
}

/// Prints ten thousand lines and does what it is told meanwhile, over as many connections as it takes. Gives the messages it was told.
async fn works(mut agent: SocketAgent, session: String) -> Vec<String> {
    let (mut heard, mut applied, mut printed) = (Vec::new(), BTreeSet::new(), 0);
    while printed < LINES || heard.len() < MESSAGES || !agent.is_stored() {
        let step = async {
            if printed < LINES {
                let lines: Vec<_> = (printed..printed + 50).map(|number| format!("line {number}")).collect();
                printed += 50;
                agent.prints(&session, &lines).await?;
            }
            agent.hears_within(Duration::from_millis(5)).await
        };
        match step.await {
            Ok(None) => {}
            Ok(Some(message)) => {
                // Applied once, however often it comes.
                if applied.insert(message["command_id"].to_string()) {
                    heard.push(message["command"]["content"].as_str().unwrap_or_default().to_owned());
                }
            }
            Err(_) => {
                while agent.reconnects().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    heard
}
