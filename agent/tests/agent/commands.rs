//! Commands that the connection answers by itself, and those that it leaves to the sessions.

use ace_policies::wire::{Command, ToAgent};
use uuid::Uuid;

use crate::{
    agent::{Agent, SESSION, home},
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn directories_are_looked_at_while_the_sessions_are_busy() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let agent = Agent::start(&server, &dir);
    let id = server.send(Command::BrowseDirectory { path: String::new() });
    server.until("a listing", |server| server.done(id).is_some()).await;
    let (result, error) = server.done(id).unwrap();
    assert_eq!((result.unwrap()["path"].as_str(), error), (dir.to_str(), None));
    let id = server.send(Command::ReadFile {
        path: "/etc/passwd".to_owned(),
    });
    server.until("a refusal", |server| server.done(id).is_some()).await;
    assert!(server.done(id).unwrap().1.unwrap().contains("outside"));
    assert_eq!(server.transports(), ["ws"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_late_is_answered_and_sessions_judge_for_themselves() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let mut agent = Agent::start(&server, &dir);
    let late = |command| {
        let command_id = Uuid::new_v4();
        server.tell(ToAgent::Command {
            command_id,
            expires_at_ms: -1,
            command,
        });
        command_id
    };
    let rotation = late(Command::RotateToken {
        rotation_id: "r".to_owned(),
        new_token: "acea_second".to_owned(),
    });
    let stop = late(Command::StopSession { session_id: SESSION });
    assert!(matches!(agent.told().await, ToAgent::Command { command_id, .. } if command_id == stop));
    server
        .until("an answer", |server| server.done(rotation).is_some())
        .await;
    assert!(server.done(rotation).unwrap().1.unwrap().contains("too late"));
    assert_eq!(server.transports(), ["ws"], "the token is the old one");
    agent.stop().await;
}
