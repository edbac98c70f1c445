//! A small language for agents in tests: machines, nodes that serve on real sockets, and agents that connect to them.

mod delivery;
mod nodes;
mod python;
mod standing;
mod sync;
mod ws;

use std::path::PathBuf;
use std::time::Duration;

use ace_policies::secret::{self, TokenKind};
use ace_policies::session::State;
use ace_policies::wire::{Command, PROTOCOL, Start};
use ace_policies::{MachineId, SessionId, UserId};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sqlx::Row;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::queue::{self, NewCommand};
use crate::testing::{Client, World};
use crate::{App, Listener, chance, serve};

/// Long enough for a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Milliseconds where there is nothing else to do; on a machine that is busy still less than the two seconds of a poll.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(1_500);

/// A machine and its agent's token.
pub(crate) struct Machine {
    pub id: MachineId,
    pub token: String,
}

/// A machine whose agent was registered.
pub(crate) async fn machine(world: &World, name: &str) -> Machine {
    let id = MachineId(chance::id());
    let token = secret::format(TokenKind::Agent, &chance::bytes());
    sqlx::query(
        "INSERT INTO remote_machines (machine_id, tenant_id, machine_name, hostname, os_type, os_version, agent_version,
                                      agent_token_hash, created_at, authenticated_at)
         VALUES ($1, 1, $2, '', 'linux', '', '1', $3, 0, 0)",
    )
    .bind(id.to_string())
    .bind(name)
    .bind(secret::hash(token.expose()))
    .execute(&world.database.db.write)
    .await
    .unwrap();
    let token = token.expose().to_owned();
    Machine { id, token }
}

/// The admin's session on a machine, in its first run.
pub(crate) async fn session(world: &World, machine: &Machine, state: State) -> SessionId {
    let id = SessionId(chance::id());
    sqlx::query(
        "INSERT INTO agent_sessions (session_id, user_id, tenant_id, remote_machine_id, status, project_path, cli_tool,
                                     created_at, updated_at)
         VALUES ($1, 1, 1, $2, $3, '/p', 'claude-code', 0, 0)",
    )
    .bind(id.to_string())
    .bind(machine.id.to_string())
    .bind(state.as_str())
    .execute(&world.database.db.write)
    .await
    .unwrap();
    id
}

pub(crate) async fn push(app: &App, machine: &Machine, session: Option<SessionId>, command: &Command) -> Uuid {
    let mut record = app.record().await.unwrap();
    let new = NewCommand {
        machine: machine.id,
        session,
        run: session.map(|_| 1),
        command,
        life: Duration::from_secs(60),
        idempotency_key: None,
        by: Some(UserId(1)),
    };
    let id = queue::push(&mut record, new).await.unwrap();
    record.commit().await.unwrap();
    id
}

pub(crate) fn start(session_id: SessionId, run: i64) -> Command {
    Command::StartSession(Start {
        session_id,
        run,
        project_path: "/p".to_owned(),
        cli_tool: "claude-code".to_owned(),
        model: None,
        permission_mode: None,
        resume_id: None,
        proxy_token: String::new(),
        proxy_token_expires_at_s: 0,
        last_seq: 0,
    })
}

pub(crate) fn message(session_id: SessionId, content: &str) -> Command {
    Command::SendMessage {
        session_id,
        content: content.to_owned(),
        attachments: vec![],
    }
}

pub(crate) fn abort(session_id: SessionId) -> Command {
    Command::AbortRequest {
        session_id,
        reason: "user".to_owned(),
    }
}

/// One value of a session's row.
pub(crate) async fn of_session<T>(world: &World, session: SessionId, column: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Any> + sqlx::Type<sqlx::Any>,
{
    let row = sqlx::query("SELECT * FROM agent_sessions WHERE session_id = $1")
        .bind(session.to_string())
        .fetch_one(&world.database.db.read)
        .await
        .unwrap();
    row.try_get(column).unwrap()
}

/// The state of a command.
pub(crate) async fn state(world: &World, command: Uuid) -> String {
    let row = sqlx::query("SELECT state FROM agent_commands WHERE command_id = $1")
        .bind(command.to_string())
        .fetch_one(&world.database.db.read)
        .await
        .unwrap();
    row.try_get(0).unwrap()
}

/// What was told of machines and sessions, in order.
pub(crate) async fn told(world: &World) -> Vec<String> {
    let rows = sqlx::query("SELECT kind FROM events WHERE kind LIKE 'machine.%' OR kind LIKE 'session.%' OR kind LIKE 'approval.%' ORDER BY id")
        .fetch_all(&world.database.db.read)
        .await
        .unwrap();
    rows.iter().map(|row| row.try_get(0).unwrap()).collect()
}

/// Somebody with a machine's agent token, who sends requests.
pub(crate) fn client(world: &World, machine: &Machine) -> Client {
    world
        .nobody()
        .with("authorization", &format!("Bearer {}", machine.token))
}

/// A control node that serves on a socket.
pub(crate) struct Node {
    path: PathBuf,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
    _folder: TempDir,
}

impl Node {
    pub async fn start(app: &App) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = Listener::unix(&path).unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(app.clone(), listener, shutdown.clone()));
        Self {
            path,
            shutdown,
            serving,
            _folder: folder,
        }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        timeout(SOON, self.serving).await.unwrap().unwrap().unwrap();
    }

    /// An agent that has opened a socket and said nothing yet.
    pub async fn open(&self, token: &str) -> Result<FakeAgent, u16> {
        open(&self.path, token).await
    }

    /// An agent that has said who it is; and the answer.
    pub async fn connect(&self, machine: &Machine) -> (FakeAgent, Value) {
        let mut agent = self.open(&machine.token).await.unwrap();
        agent.say(hello(machine)).await;
        let welcome = agent.hear().await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        (agent, welcome)
    }
}

pub(crate) async fn open(path: &std::path::Path, token: &str) -> Result<FakeAgent, u16> {
    let mut request = "ws://ace.test/api/remote/agent/ws".into_client_request().unwrap();
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let stream = UnixStream::connect(path).await.unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(FakeAgent { socket }),
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn hello(machine: &Machine) -> Value {
    json!({ "type": "connect", "protocol": PROTOCOL, "agent_version": "2", "machine_id": machine.id, "hostname": "box",
            "os_type": "linux", "os_version": "6", "capabilities": { "cpu_cores": 4 }, "max_sessions": 3 })
}

/// An agent, as far as the control API sees it.
pub(crate) struct FakeAgent {
    socket: WebSocketStream<UnixStream>,
}

impl FakeAgent {
    pub async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message.
    pub async fn hear(&mut self) -> Value {
        match timeout(SOON, self.next())
            .await
            .expect("the control API says something")
        {
            Ok(message) => message,
            Err(code) => panic!("the connection was closed: {code:?}"),
        }
    }

    /// The code with which the connection was closed, after the messages before that.
    pub async fn closed(&mut self) -> (Vec<Value>, Option<u16>) {
        let mut messages = Vec::new();
        loop {
            match timeout(SOON, self.next()).await.expect("the control API closes") {
                Ok(message) => messages.push(message),
                Err(code) => return (messages, code),
            }
        }
    }

    /// That nothing is said for a while.
    pub async fn hears_nothing(&mut self) {
        if let Ok(said) = timeout(Duration::from_millis(300), self.next()).await {
            panic!("{said:?}");
        }
    }

    async fn next(&mut self) -> Result<Value, Option<u16>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(text.as_str()).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// Says good-bye.
    pub async fn leave(mut self) {
        self.socket.close(None).await.unwrap();
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let so = timeout(SOON, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    });
    so.await.unwrap_or_else(|_| panic!("it did not come about: {what}"));
}
