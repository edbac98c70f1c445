//! The agent's connection to a server that loses connections, refuses tokens and does not know WebSockets.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, RwLock, atomic::Ordering::SeqCst},
    time::{Duration, SystemTime},
};

use ace_agent::{
    config::{Config, ConfigFile, Environment, FILE},
    control::{Control, End, Shared},
    credentials::Credentials,
    files::Looking,
    machine::Facts,
    mask::Mask,
    spool::{Intake, Spool, spawn_intake},
    status::{Reporter, Transport},
    uplink::Up,
};
use ace_policies::{
    SessionId,
    session::Report,
    wire::{Command, FromAgent, Start, Stream, ToAgent},
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::server::{PATIENCE, Server, pause};

pub const SESSION: SessionId = SessionId(Uuid::from_u128(1));

/// An agent without sessions: the test speaks for them.
pub struct Agent {
    out: mpsc::Sender<Up>,
    down: mpsc::Receiver<ToAgent>,
    spool: Arc<Spool>,
    status: Arc<Reporter>,
    pub stop: CancellationToken,
    task: JoinHandle<End>,
}

impl Agent {
    pub fn start(server: &Server, dir: &Path) -> Self {
        let path = dir.join(FILE);
        let mut file = ConfigFile::read(&path).unwrap();
        if file.text("agent_token").is_none() {
            file.set("agent_token", Some("acea_first".into()));
        }
        file.set("server_url", Some(server.url().into()));
        file.set("reconnect_base_delay", Some(0.05.into()));
        file.set("reconnect_max_delay", Some(0.2.into()));
        file.write().unwrap();
        let environment = Environment::from([("HOME", dir.to_str().unwrap())]);
        let config = Arc::new(Config::new(&dir.join("agent"), &environment, &file).unwrap());
        Self::with(config, dir)
    }

    fn with(config: Arc<Config>, dir: &Path) -> Self {
        std::fs::create_dir_all(&config.dir).unwrap();
        let link = config.dir.join(FILE);
        if !link.exists() {
            std::os::unix::fs::symlink(dir.join(FILE), &link).unwrap();
        }
        let credentials = Credentials::open(&config).unwrap();
        let spool = Arc::new(Spool::open(&config.sessions_dir(), 64 << 20, 4).unwrap());
        let mask = Arc::new(RwLock::new(Mask::default()));
        let (out, from_sessions) = mpsc::channel(100);
        let (down, to_sessions) = mpsc::channel(100);
        let (say, said) = mpsc::channel(100);
        let intake = Intake {
            spool: spool.clone(),
            mask: mask.clone(),
            say: say.clone(),
            patience: None,
        };
        spawn_intake(intake, from_sessions).unwrap();
        let clock = || SystemTime::UNIX_EPOCH;
        let status = Arc::new(Reporter::new(
            &config.dir,
            &config.server_url,
            credentials.machine_id(),
            clock,
        ));
        let shared = Arc::new(Shared {
            looking: Arc::new(Looking::new(&config, mask.clone())),
            status: status.clone(),
            facts: Facts::gather(),
            clis: tokio::sync::watch::channel(Vec::new()).1,
            spool: spool.clone(),
            chance: || 0.5,
            ws_again: Some(Duration::from_millis(50)),
            mask,
            down,
            clock,
            config,
        });
        let stop = CancellationToken::new();
        let control = Control::new(shared, credentials, say, said).unwrap();
        let token = stop.clone();
        let task = tokio::spawn(async move { control.run(&token).await });
        Self {
            out,
            down: to_sessions,
            spool,
            status,
            stop,
            task,
        }
    }

    pub async fn print(&self, text: impl Into<String>) {
        let print = Up::Print {
            session_id: SESSION,
            stream: Stream::Stdout,
            data: text.into().into_bytes(),
            at: 1,
        };
        self.out.send(print).await.unwrap();
    }

    async fn say(&self, state: Report) {
        let status = FromAgent::Status {
            session_id: SESSION,
            run: 1,
            state,
            busy: false,
            resume_id: None,
            message: None,
        };
        self.out.send(Up::Say(status)).await.unwrap();
    }

    /// The next thing the sessions are told that is not a Welcome.
    async fn told(&mut self) -> ToAgent {
        loop {
            match timeout(PATIENCE, self.down.recv()).await.unwrap().unwrap() {
                ToAgent::Welcome { .. } => {}
                message => return message,
            }
        }
    }

    pub async fn end(self) -> End {
        timeout(PATIENCE, self.task).await.unwrap().unwrap()
    }

    /// As when the machine loses power: nothing is said and nothing is tidied up.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub fn home() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = std::fs::canonicalize(dir.path()).unwrap();
    (dir, path)
}

fn start(run: i64, last_seq: i64) -> Command {
    Command::StartSession(Start {
        session_id: SESSION,
        run,
        project_path: "/".to_owned(),
        cli_tool: "claude-code".to_owned(),
        model: None,
        permission_mode: None,
        resume_id: None,
        last_seq,
        proxy_token: "a-proxy-token-that-looks-like-nothing".to_owned(),
        proxy_token_expires_at_s: 0,
    })
}

fn is_status(message: &FromAgent, wanted: Report) -> bool {
    matches!(message, FromAgent::Status { state, .. } if *state == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_down_and_output_goes_up_without_its_secrets() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let mut agent = Agent::start(&server, &dir);
    let welcome = timeout(PATIENCE, agent.down.recv()).await.unwrap();
    assert!(matches!(welcome, Some(ToAgent::Welcome { .. })), "{welcome:?}");
    let id = server.send(start(1, 0));
    assert!(matches!(agent.told().await, ToAgent::Command { command_id, .. } if command_id == id));
    agent
        .out
        .send(Up::Say(FromAgent::Ack { command_id: id }))
        .await
        .unwrap();
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
    agent.stop.cancel();
    assert!(matches!(agent.end().await, End::Stopped));
}

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
    agent.stop.cancel();
    agent.end().await;
}

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
    agent.stop.cancel();
    agent.end().await;
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
    agent.stop.cancel();
    agent.end().await;
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
        agent.spool.sync().unwrap();
        agent.kill().await;
    }
    server.websockets.store(true, SeqCst);
    let agent = Agent::start(&server, &dir);
    server
        .until("all lines", |server| server.texts(SESSION).len() == printed as usize)
        .await;
    let expected: Vec<_> = (0..printed).map(|number| format!("{number}\n")).collect();
    assert_eq!(server.texts(SESSION), expected);
    agent.stop.cancel();
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_said_again_after_a_cut_and_after_its_output() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let agent = Agent::start(&server, &dir);
    for number in 0..3000 {
        agent.print(format!("{number}\n")).await;
    }
    agent.say(Report::Running).await;
    server
        .until("the status", |server| {
            server.has_heard(|said| is_status(said, Report::Running))
        })
        .await;
    assert_eq!(
        server.texts(SESSION).len(),
        3000,
        "output goes before the word after it"
    );
    server.heard.lock().unwrap().clear();
    server.cut();
    server
        .until("the status again", |server| {
            server.has_heard(|said| is_status(said, Report::Running))
        })
        .await;
    agent.stop.cancel();
    agent.end().await;
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
    agent.stop.cancel();
    agent.end().await;
    let agent = Agent::start(&server, &dir);
    server.until("connected", |server| server.transports().len() == 2).await;
    let connects = server.connects.lock().unwrap().clone();
    let held = &connects[1].1.sessions[0];
    assert_eq!(
        (held.session_id, held.run, held.last_seq),
        (SESSION, 3, 41),
        "it tells what it has"
    );
    agent.stop.cancel();
    agent.end().await;
}

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
    agent.stop.cancel();
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_taken_off_the_list_forgets_its_credentials() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let mut agent = Agent::start(&server, &dir);
    let id = server.send(Command::Unregister {});
    assert!(matches!(
        agent.told().await,
        ToAgent::Command {
            command: Command::Unregister {},
            ..
        }
    ));
    let done = FromAgent::Done {
        command_id: id,
        result: None,
        error: None,
    };
    agent.out.send(Up::Say(done)).await.unwrap();
    assert!(matches!(agent.end().await, End::Unregistered));
    server.until("the last word", |server| server.done(id).is_some()).await;
    assert_eq!(server.done(id), Some((None, None)));
    let file = ConfigFile::read(&dir.join("agent").join(FILE)).unwrap();
    assert_eq!(file.text("agent_token"), None);
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
    tokio::spawn(async move { reporter.run(&spool).await });
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
    agent.stop.cancel();
    assert!(matches!(agent.end().await, End::Stopped));
}
