//! An agent without sessions, on a server of the test's: the test speaks for the sessions.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    thread,
    time::{Duration, SystemTime},
};

use ace_agent::{
    config::{Config, ConfigFile, Environment, FILE},
    control::{Control, End, Shared},
    credentials::Credentials,
    files::Looking,
    machine::Facts,
    mask::Mask,
    outbox::Outbox,
    spool::{Intake, Spool, spawn_intake},
    status::Reporter,
    uplink::{Down, Up},
};
use ace_policies::{
    SessionId,
    session::Report,
    wire::{Command, FromAgent, Start, Stream, ToAgent},
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::server::{PATIENCE, Server};

pub const SESSION: SessionId = SessionId(Uuid::from_u128(1));

/// An agent without sessions: the test speaks for them.
pub struct Agent {
    pub out: mpsc::Sender<Up>,
    pub down: mpsc::Receiver<Down>,
    pub spool: Arc<Spool>,
    pub status: Arc<Reporter>,
    pub stop: CancellationToken,
    task: JoinHandle<End>,
    intake: thread::JoinHandle<()>,
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

    pub fn with(config: Arc<Config>, dir: &Path) -> Self {
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
        let outbox = Arc::new(Outbox::default());
        let intake = Intake {
            spool: spool.clone(),
            mask: mask.clone(),
            outbox: outbox.clone(),
            patience: None,
        };
        let intake = spawn_intake(intake, from_sessions).unwrap();
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
        let control = Control::new(shared, credentials, outbox).unwrap();
        let token = stop.clone();
        let task = tokio::spawn(async move { control.run(&token).await });
        Self {
            out,
            down: to_sessions,
            spool,
            status,
            stop,
            task,
            intake,
        }
    }

    pub async fn print(&self, text: impl Into<String>) {
        let print = Up::Print {
            session_id: SESSION,
            stream: Stream::Stdout,
            data: text.into().into_bytes(),
            left_out: 0,
            at: 1,
            room: None,
        };
        self.out.send(print).await.unwrap();
    }

    pub async fn say(&self, message: FromAgent) {
        self.out.send(Up::Say(message)).await.unwrap();
    }

    /// The next thing the sessions are told.
    pub async fn heard(&mut self) -> Down {
        timeout(PATIENCE, self.down.recv()).await.unwrap().unwrap()
    }

    /// The next thing the server says to the sessions that is not a Welcome.
    pub async fn told(&mut self) -> ToAgent {
        loop {
            match self.heard().await {
                Down::Heard(ToAgent::Welcome { .. }) | Down::Disconnected => {}
                Down::Heard(message) => return message,
            }
        }
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(self) {
        self.stop.cancel();
        assert!(matches!(self.end().await, End::Stopped));
    }

    pub async fn end(mut self) -> End {
        let end = timeout(PATIENCE, &mut self.task).await.unwrap().unwrap();
        self.leave().await;
        end
    }

    /// As when the machine loses power: nothing is said and nothing is tidied up.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.leave().await;
    }

    /// Nothing of it works in its directory any more: the next one can have that.
    async fn leave(self) {
        drop((self.out, self.down));
        let intake = self.intake;
        tokio::task::spawn_blocking(move || intake.join().unwrap())
            .await
            .unwrap();
        let left = async {
            while Arc::strong_count(&self.spool) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, left).await.unwrap();
    }
}

pub fn home() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = std::fs::canonicalize(dir.path()).unwrap();
    (dir, path)
}

pub fn start(run: i64, last_seq: i64) -> Command {
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

pub fn status(state: Report) -> FromAgent {
    FromAgent::Status {
        session_id: SESSION,
        run: 1,
        state,
        busy: false,
        resume_id: None,
        message: None,
    }
}

pub fn done(command_id: Uuid) -> FromAgent {
    FromAgent::Done {
        command_id,
        result: None,
        error: None,
    }
}
