//! An agent on a WebSocket, in the messages of `policies::wire`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Registered;
use crate::PATIENCE;

/// A connected agent. It acknowledges commands as it hears them, and keeps what is not stored yet to say it again.
pub struct SocketAgent {
    pub registered: Registered,
    socket: WebSocketStream<TcpStream>,
    /// Messages that came while something else was waited for.
    waiting: Vec<Value>,
    /// The lines of each session that are not acknowledged.
    unstored: BTreeMap<String, Vec<Value>>,
    /// The number of each session's last line, and the run that was started last.
    held: BTreeMap<String, (i64, i64)>,
}

impl SocketAgent {
    /// # Panics
    /// When it is not welcome.
    pub async fn connects(registered: Registered) -> Self {
        Self::try_connect(registered).await.expect("a WebSocket")
    }

    /// Connects, where there may be nobody.
    ///
    /// # Errors
    /// Why not.
    pub async fn try_connect(registered: Registered) -> Result<Self, Error> {
        let socket = open(&registered).await?;
        let mut agent = Self {
            registered,
            socket,
            waiting: Vec::new(),
            unstored: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        agent.greet().await?;
        Ok(agent)
    }

    /// Connects again, also to another node, and says again what was not stored.
    ///
    /// # Errors
    /// Why that is not possible now.
    pub async fn reconnects(&mut self) -> Result<(), Error> {
        self.socket = open(&self.registered).await?;
        self.waiting.clear();
        let known = self.greet().await?;
        for session in known {
            let stored = session["last_seq"].as_i64().unwrap_or(0);
            let id = session["session_id"].as_str().unwrap_or_default().to_owned();
            self.stored(&id, stored);
            let lines = self.unstored.get(&id).cloned().unwrap_or_default();
            if !lines.is_empty() {
                self.say(json!({"type": "output", "session_id": id, "lines": lines}))
                    .await?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// When the connection is gone.
    pub async fn say(&mut self, message: Value) -> Result<(), Error> {
        self.socket.send(Message::text(message.to_string())).await
    }

    /// Says how a session is.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn status(&mut self, session: &str, state: &str) -> Result<(), Error> {
        let run = self.held.get(session).map_or(1, |(_, run)| *run);
        self.say(json!({"type": "status", "session_id": session, "run": run, "state": state}))
            .await
    }

    /// Prints lines in a session.
    ///
    /// # Errors
    /// When the connection is gone; the lines are kept and said again after the next one.
    pub async fn prints(&mut self, session: &str, lines: &[String]) -> Result<(), Error> {
        let (last, _) = self.held.entry(session.to_owned()).or_insert((0, 1));
        let numbered: Vec<Value> = lines
            .iter()
            .map(|line| {
                *last += 1;
                json!({"seq": *last, "stream": "stdout", "at": 1_800_000_000_000_i64, "data": format!("{line}\n")})
            })
            .collect();
        self.unstored
            .entry(session.to_owned())
            .or_default()
            .extend(numbered.clone());
        self.say(json!({"type": "output", "session_id": session, "lines": numbered}))
            .await
    }

    /// Whether everything that was printed is stored.
    pub fn is_stored(&self) -> bool {
        self.unstored.values().all(Vec::is_empty)
    }

    /// The next command, acknowledged and done.
    ///
    /// # Errors
    /// When the connection is gone.
    ///
    /// # Panics
    /// When none comes.
    pub async fn hears(&mut self) -> Result<Value, Error> {
        let heard = tokio::time::timeout(PATIENCE, self.next_command()).await;
        heard.expect("waited in vain for a command")
    }

    /// The next command, if one comes so soon.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn hears_within(&mut self, patience: Duration) -> Result<Option<Value>, Error> {
        tokio::time::timeout(patience, self.next_command())
            .await
            .ok()
            .transpose()
    }

    async fn next_command(&mut self) -> Result<Value, Error> {
        loop {
            let message = match self.waiting.is_empty() {
                true => self.next().await?,
                false => self.waiting.remove(0),
            };
            match message["type"].as_str() {
                Some("command") => return self.takes(message).await,
                Some("output_ack") => {
                    let session = message["session_id"].as_str().unwrap_or_default().to_owned();
                    self.stored(&session, message["last_seq"].as_i64().unwrap_or(0));
                }
                _ => {}
            }
        }
    }

    async fn takes(&mut self, message: Value) -> Result<Value, Error> {
        let (id, command) = (message["command_id"].clone(), &message["command"]);
        if command["type"] == "start_session" {
            let session = command["session_id"].as_str().unwrap_or_default().to_owned();
            self.held.entry(session).or_insert((0, 1)).1 = command["run"].as_i64().unwrap_or(1);
        }
        self.say(json!({"type": "ack", "command_id": id})).await?;
        self.say(json!({"type": "done", "command_id": id})).await?;
        Ok(message)
    }

    fn stored(&mut self, session: &str, last: i64) {
        let lines = self.unstored.entry(session.to_owned()).or_default();
        lines.retain(|line| line["seq"].as_i64() > Some(last));
    }

    async fn greet(&mut self) -> Result<Vec<Value>, Error> {
        let sessions: Vec<_> = self
            .held
            .iter()
            .map(|(id, (last, run))| json!({"session_id": id, "run": run, "last_seq": last}))
            .collect();
        self.say(json!({
            "type": "connect", "protocol": 1, "agent_version": "1.0.0", "machine_id": self.registered.machine, "hostname": "build-1",
            "os_type": "linux", "os_version": "6.1", "max_sessions": 100, "work_dir": "/home/user",
            "capabilities": {"cpu_cores": 4, "memory_gb": 8.0, "clis": [
                {"id": "qwen-code-cli", "name": "Qwen Code", "version": "1.0.0", "installed": true, "features": ["resume", "model", "approvals"]},
                {"id": "claude-code", "name": "Claude Code", "version": "2.0.0", "installed": true, "features": ["resume", "model", "approvals"]},
            ]},
            "sessions": sessions,
        }))
        .await?;
        loop {
            let message = self.next().await?;
            match message["type"].as_str() {
                Some("welcome") => return Ok(message["sessions"].as_array().cloned().unwrap_or_default()),
                _ => self.waiting.push(message),
            }
        }
    }

    async fn next(&mut self) -> Result<Value, Error> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(_))) | None => return Err(Error::ConnectionClosed),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            }
        }
    }
}

async fn open(registered: &Registered) -> Result<WebSocketStream<TcpStream>, Error> {
    let stream = TcpStream::connect(registered.door.address).await?;
    stream.set_nodelay(true)?;
    let url = format!("ws://{}/api/remote/agent/ws", registered.door.address);
    let mut request = url.into_client_request()?;
    let bearer = format!("Bearer {}", registered.token);
    request
        .headers_mut()
        .insert("authorization", bearer.parse().expect("a header"));
    Ok(tokio_tungstenite::client_async(request, stream).await?.0)
}
