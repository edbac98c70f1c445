//! Output gets to the server once, in order and without secrets, whatever breaks.

use std::sync::atomic::Ordering::SeqCst;

use ace_agent::{spool::Spool, uplink::Down};
use ace_policies::{
    SessionId,
    wire::{FromAgent, Stream, ToAgent},
};
use uuid::Uuid;

use crate::{
    agent::{Agent, SESSION, home, start},
    server::{Server, pause},
};

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_down_and_output_goes_up_without_its_secrets() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let mut agent = Agent::start(&server, &dir);
    let welcome = agent.heard().await;
    assert!(matches!(welcome, Down::Heard(ToAgent::Welcome { .. })), "{welcome:?}");
    let id = server.send(start(1, 0));
    assert!(matches!(agent.told().await, ToAgent::Command { command_id, .. } if command_id == id));
    agent.say(FromAgent::Ack { command_id: id }).await;
    agent.print("hello\n").await;
    agent
        .print("key a-proxy-token-that-looks-like-nothing and acea_0123456789012345678901\n")
        .await;
    server
        .until("two lines", |server| server.texts(SESSION).len() == 2)
        .await;
    assert_eq!(server.texts(SESSION), ["hello\n", "key *** and acea_***\n"]);
    server
        .until("the ack", |server| {
            server.has_heard(|said| matches!(said, FromAgent::Ack { .. }))
        })
        .await;
    while agent.spool.figures().lines > 0 {
        pause().await;
    }
    assert_eq!(server.transports(), ["ws"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_arrive_once_and_in_order_however_often_the_connection_breaks() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let agent = Agent::start(&server, &dir);
    for number in 0..6000_i64 {
        if number % 1000 == 0 {
            server.cut_after.store(number / 2, SeqCst);
        }
        if number % 1700 == 1 {
            server.gaps.store(2, SeqCst);
        }
        if number % 2500 == 2 {
            server.cut();
        }
        agent.print(format!("{number}\n")).await;
    }
    server
        .until("all lines", |server| server.texts(SESSION).len() == 6000)
        .await;
    let expected: Vec<_> = (0..6000).map(|number| format!("{number}\n")).collect();
    assert_eq!(server.texts(SESSION), expected);
    assert!(server.transports().len() > 2, "it was cut");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_goes_on_where_its_disk_and_the_server_are() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    server.websockets.store(false, SeqCst);
    let mut printed = 0;
    for _ in 0..4 {
        let agent = Agent::start(&server, &dir);
        server.cut_after.store(printed / 2, SeqCst);
        for _ in 0..500 {
            agent.print(format!("{printed}\n")).await;
            printed += 1;
        }
        while agent.spool.last_seq(SESSION) < printed {
            pause().await;
        }
        assert!(agent.spool.sync());
        agent.kill().await;
    }
    server.websockets.store(true, SeqCst);
    let agent = Agent::start(&server, &dir);
    server
        .until("all lines", |server| server.texts(SESSION).len() == printed as usize)
        .await;
    let expected: Vec<_> = (0..printed).map(|number| format!("{number}\n")).collect();
    assert_eq!(server.texts(SESSION), expected);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_server_has_forgotten_is_let_go() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let mut agent = Agent::start(&server, &dir);
    server.send(start(3, 40));
    agent.told().await;
    // The server knows lines up to 40; the agent goes on after them, and this server takes that for a gap.
    agent.print("x\n").await;
    while agent.spool.last_seq(SESSION) < 41 {
        pause().await;
    }
    assert_eq!(agent.spool.last_seq(SESSION), 41);
    assert!(server.texts(SESSION).is_empty());
    agent.stop().await;
    let agent = Agent::start(&server, &dir);
    server.until("connected", |server| server.transports().len() == 2).await;
    let connects = server.connects.lock().unwrap().clone();
    let held = &connects[1].1.sessions[0];
    assert_eq!(
        (held.session_id, held.run, held.last_seq),
        (SESSION, 3, 41),
        "it tells what it has"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_read_from_the_disk_holds_up_no_other() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    server.websockets.store(false, SeqCst);
    let other = SessionId(Uuid::from_u128(2));
    let spool = Spool::open(&dir.join("agent/sessions"), 64 << 20, 4).unwrap();
    for session in [SESSION, other] {
        spool.append(session, Stream::Stdout, 1, b"line\n").unwrap();
    }
    assert!(spool.sync());
    drop(spool);
    let agent = Agent::start(&server, &dir);
    let file = dir.join(format!("agent/sessions/{SESSION}/out-{:019}.spool", 1));
    let moved = file.with_extension("moved");
    std::fs::rename(&file, &moved).unwrap();
    server
        .until("connected", |server| !server.transports().is_empty())
        .await;
    server
        .until("the other's line", |server| server.count(other) == 1)
        .await;
    std::fs::rename(&moved, &file).unwrap();
    server.until("its own line", |server| server.count(SESSION) == 1).await;
    agent.stop().await;
}
