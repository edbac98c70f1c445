//! How the running agent is, in a file beside its settings: `ace-agent status` reads it. The agent listens on nothing for it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ace_policies::{MachineId, SessionId, session::Report};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{
    config::write_private,
    control::Lost,
    millis,
    spool::{Figures, Spool},
};

/// The file.
pub const FILE: &str = "status.json";
/// It is not written more often than this, and as often even when nothing but the spool changes.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(15);

/// How messages get to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Transport {
    WebSocket,
    #[serde(rename = "HTTP polling")]
    Polling,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::WebSocket => "WebSocket",
            Self::Polling => "HTTP polling",
        })
    }
}

/// What the file holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub agent_version: String,
    pub server_url: String,
    pub machine_id: MachineId,
    /// [`None`] while it is not connected.
    pub transport: Option<Transport>,
    /// Since when it is so, UTC milliseconds.
    pub since_ms: i64,
    /// Why the last connection ended, or could not be made.
    pub last_problem: Option<String>,
    /// The server's clock less this machine's.
    pub clock_skew_ms: Option<i64>,
    /// Sessions whose CLI runs.
    pub sessions: Vec<(SessionId, Report)>,
    pub spool: Figures,
}

/// Keeps the file true.
pub struct Reporter {
    path: PathBuf,
    clock: fn() -> SystemTime,
    status: Mutex<Status>,
    changed: Notify,
}

impl Status {
    /// The status as the agent of a directory wrote it last.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let text = std::fs::read(dir.join(FILE))?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }
}

impl Reporter {
    /// Begins with no connection.
    pub fn new(dir: &Path, server_url: &str, machine_id: MachineId, clock: fn() -> SystemTime) -> Self {
        Self {
            path: dir.join(FILE),
            clock,
            status: Mutex::new(Status {
                pid: std::process::id(),
                agent_version: crate::VERSION.to_owned(),
                server_url: server_url.to_owned(),
                machine_id,
                transport: None,
                since_ms: millis(clock()),
                last_problem: None,
                clock_skew_ms: None,
                sessions: Vec::new(),
                spool: Figures::default(),
            }),
            changed: Notify::new(),
        }
    }

    /// There is a connection.
    pub fn connected(&self, transport: Transport) {
        let now = millis((self.clock)());
        self.change(|status| {
            status.transport = Some(transport);
            status.since_ms = now;
            status.last_problem = None;
        });
    }

    /// There is none any more, or still none.
    pub fn lost(&self, lost: &Lost) {
        let now = millis((self.clock)());
        self.change(|status| {
            if status.transport.take().is_some() {
                status.since_ms = now;
            }
            status.last_problem = Some(lost.to_string());
        });
    }

    /// The clocks were compared.
    pub fn skew(&self, skew_ms: i64) {
        self.change(|status| status.clock_skew_ms = Some(skew_ms));
    }

    /// The sessions whose CLI runs.
    pub fn sessions(&self, sessions: Vec<(SessionId, Report)>) {
        self.change(|status| status.sessions = sessions);
    }

    /// Their names alone.
    pub fn live(&self) -> Vec<SessionId> {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.sessions.iter().map(|(session, _)| *session).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let before = status.clone();
        change(&mut status);
        if *status != before {
            self.changed.notify_one();
        }
    }

    /// Writes the file whenever something has changed, for ever.
    pub async fn run(&self, spool: &Spool) {
        let mut written = None;
        loop {
            let now = self.now(spool);
            if written.as_ref() != Some(&now) {
                if let Err(error) = self.write(&now).await {
                    tracing::warn!(%error, "the status file cannot be written");
                }
                written = Some(now);
            }
            tokio::time::sleep(LEAST).await;
            let _ = tokio::time::timeout(MOST, self.changed.notified()).await;
        }
    }

    fn now(&self, spool: &Spool) -> Status {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.spool = spool.figures();
        status
    }

    async fn write(&self, status: &Status) -> io::Result<()> {
        let (path, text) = (self.path.clone(), serde_json::to_vec_pretty(status)?);
        let written = tokio::task::spawn_blocking(move || write_private(&path, &text)).await;
        written.map_err(io::Error::other)?
    }
}
