//! Tokens that are refused, revoked, rotated and forgotten.

use std::sync::atomic::Ordering::SeqCst;

use ace_agent::{
    config::{ConfigFile, FILE},
    control::End,
};
use ace_policies::wire::{Command, FromAgent, ToAgent};

use crate::{
    agent::{Agent, done, home},
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_ends_it_with_a_sentence_and_without_hammering() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    server.good.lock().unwrap().clear();
    let agent = Agent::start(&server, &dir);
    let End::Unauthorized(why) = agent.end().await else {
        panic!("it goes on");
    };
    assert!(
        why.contains("401") && why.contains("the agent token is not good") && why.contains("ace-agent register"),
        "{why}"
    );
    assert_eq!(server.attempts.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_a_living_connection() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let agent = Agent::start(&server, &dir);
    server.until("connected", |server| server.transports().len() == 1).await;
    server.tell(ToAgent::Error {
        code: "invalid_agent_token".to_owned(),
        message: "the agent token was revoked".to_owned(),
        fatal: true,
    });
    assert!(matches!(agent.end().await, End::Unauthorized(why) if why.contains("revoked")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_keeps_the_old_token_until_the_new_one_has_worked() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let agent = Agent::start(&server, &dir);
    server.until("connected", |server| server.transports().len() == 1).await;
    server.good.lock().unwrap().insert("acea_second".to_owned());
    let rotate = |new_token: &str| Command::RotateToken {
        rotation_id: "r".to_owned(),
        new_token: new_token.to_owned(),
    };
    let id = server.send(rotate("acea_second"));
    server
        .until("connected anew", |server| server.transports().len() == 2)
        .await;
    server.until("the answer", |server| server.done(id).is_some()).await;
    assert_eq!(server.done(id), Some((None, None)));
    assert_eq!(server.used.lock().unwrap().last().unwrap(), "acea_second");
    let file = || ConfigFile::read(&dir.join("agent").join(FILE)).unwrap();
    server
        .until("stored", |_| file().text("agent_token") == Some("acea_second"))
        .await;
    assert_eq!(file().text("agent_token_next"), None);

    server.send(rotate("acea_refused"));
    server
        .until("connected with the old one", |server| server.transports().len() == 3)
        .await;
    assert_eq!(file().text("agent_token"), Some("acea_second"));
    assert_eq!(file().text("agent_token_next"), None);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_taken_off_the_list_forgets_its_credentials() {
    for websockets in [true, false] {
        let (_keep, dir) = home();
        let server = Server::start().await;
        server.websockets.store(websockets, SeqCst);
        let mut agent = Agent::start(&server, &dir);
        let id = server.send(Command::Unregister {});
        assert!(matches!(
            agent.told().await,
            ToAgent::Command {
                command: Command::Unregister {},
                ..
            }
        ));
        let ack = FromAgent::Ack { command_id: id };
        agent.say(ack.clone()).await;
        server
            .until("the ack", |server| server.has_heard(|said| *said == ack))
            .await;
        assert!(server.done(id).is_none(), "the sessions have not ended yet");
        agent.say(done(id)).await;
        assert!(matches!(agent.end().await, End::Unregistered));
        server.until("the last word", |server| server.done(id).is_some()).await;
        assert_eq!(*server.heard.lock().unwrap(), [ack, done(id)], "each once");
        let file = ConfigFile::read(&dir.join("agent").join(FILE)).unwrap();
        assert_eq!(file.text("agent_token"), None);
    }
}
