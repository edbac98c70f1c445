//! The connection breaks, is refused or goes another way, and is there again.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use ace_agent::{
    config::{Config, ConfigFile, Environment, FILE},
    status::Transport,
    uplink::Down,
};
use ace_policies::{session::Report, wire::ToAgent};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    agent::{Agent, SESSION, done, home, start, status},
    server::{PATIENCE, Server, pause},
};

#[tokio::test(flavor = "multi_thread")]
async fn without_websockets_it_polls_and_comes_back_to_them() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    server.websockets.store(false, SeqCst);
    let mut agent = Agent::start(&server, &dir);
    let id = server.send(start(1, 0));
    assert!(matches!(agent.told().await, ToAgent::Command { command_id, .. } if command_id == id));
    for number in 0..2000 {
        agent.print(format!("{number}\n")).await;
    }
    server
        .until("all lines by polls", |server| server.texts(SESSION).len() == 2000)
        .await;
    assert_eq!(server.transports(), ["poll"]);
    server.websockets.store(true, SeqCst);
    server
        .until("a WebSocket", |server| server.transports().contains(&"ws"))
        .await;
    agent.print("over a WebSocket\n").await;
    server
        .until("the last line", |server| server.texts(SESSION).len() == 2001)
        .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_follows_its_output_and_is_said_again_after_a_cut() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let agent = Agent::start(&server, &dir);
    for number in 0..3000 {
        agent.print(format!("{number}\n")).await;
    }
    server.cut_after_words.store(1, SeqCst);
    agent.say(status(Report::Running)).await;
    let times = |server: &Server| {
        let heard = server.heard.lock().unwrap();
        heard.iter().filter(|said| **said == status(Report::Running)).count()
    };
    server.until("the status", |server| times(server) > 0).await;
    assert_eq!(
        server.texts(SESSION).len(),
        3000,
        "output goes before the word after it"
    );
    server.until("the status again", |server| times(server) == 2).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_outlive_the_connections_on_which_they_are_given() {
    for websockets in [true, false] {
        let (_keep, dir) = home();
        let server = Server::start().await;
        server.websockets.store(websockets, SeqCst);
        let agent = Agent::start(&server, &dir);
        server.until("connected", |server| server.transports().len() == 1).await;
        server.cut_after_words.store(10, SeqCst);
        let ids: Vec<_> = (0..500).map(Uuid::from_u128).collect();
        for id in &ids {
            agent.say(done(*id)).await;
        }
        server
            .until("all answers", |server| ids.iter().all(|id| server.done(*id).is_some()))
            .await;
        let heard = server.heard.lock().unwrap().len();
        assert!(heard <= 1000, "each once on a connection: {heard}");
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_are_told_when_the_server_is_away() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let mut agent = Agent::start(&server, &dir);
    assert!(matches!(agent.heard().await, Down::Heard(ToAgent::Welcome { .. })));
    server.cut();
    assert!(matches!(agent.heard().await, Down::Disconnected));
    assert!(matches!(agent.heard().await, Down::Heard(ToAgent::Welcome { .. })));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_tried_again_until_it_is_there() {
    let (_keep, dir) = home();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let file_path = dir.join(FILE);
    let mut file = ConfigFile::read(&file_path).unwrap();
    for (key, value) in [
        ("server_url", format!("http://{address}")),
        ("agent_token", "acea_first".to_owned()),
    ] {
        file.set(key, Some(value.into()));
    }
    file.set("reconnect_base_delay", Some(0.05.into()));
    file.set("reconnect_max_delay", Some(0.1.into()));
    file.write().unwrap();
    let environment = Environment::from([("HOME", dir.to_str().unwrap())]);
    let config = Arc::new(Config::new(&dir.join("agent"), &environment, &file).unwrap());
    let agent = Agent::with(config.clone(), &dir);
    let reporter = agent.status.clone();
    let spool = agent.spool.clone();
    let reporting = tokio::spawn(async move { reporter.run(&spool).await });
    let problem = timeout(PATIENCE, async {
        loop {
            if let Ok(status) = ace_agent::status::Status::read(&config.dir)
                && let Some(problem) = status.last_problem
            {
                return (status.transport, problem);
            }
            pause().await;
        }
    });
    let (transport, problem) = problem.await.unwrap();
    assert_eq!(transport, None::<Transport>);
    assert!(
        problem.contains(&address.to_string()) && problem.contains("TCP"),
        "{problem}"
    );
    reporting.abort();
    let _ = reporting.await;
    agent.stop().await;
}
