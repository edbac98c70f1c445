//! A server for agents, on real sockets, that stores what it hears and does as a test tells it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use ace_policies::{
    SessionId,
    wire::{Command, Connect, FromAgent, Known, Line, PROTOCOL, Sync, Synced, ToAgent},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use uuid::Uuid;

pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub address: SocketAddr,
    /// Tokens that are taken, and those that have been used.
    pub good: Mutex<HashSet<String>>,
    pub used: Mutex<Vec<String>>,
    pub websockets: AtomicBool,
    pub connects: Mutex<Vec<(&'static str, Connect)>>,
    pub heard: Mutex<Vec<FromAgent>>,
    pub stored: Mutex<HashMap<SessionId, Vec<Line>>>,
    pub attempts: AtomicUsize,
    /// Connections are cut as soon as so many lines more have been stored, before they are acknowledged; below 0 never.
    pub cut_after: AtomicI64,
    /// The same for so many words that are not output.
    pub cut_after_words: AtomicI64,
    /// So many batches are refused as if there were a gap before them.
    pub gaps: AtomicI64,
    pub live: AtomicBool,
    pub registration_token: Mutex<Option<String>>,
    commands: Mutex<VecDeque<ToAgent>>,
    say: Notify,
    pub news: Notify,
    cut: watch::Sender<u64>,
}

impl Server {
    pub async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            good: Mutex::new(HashSet::from(["acea_first".to_owned()])),
            used: Mutex::default(),
            websockets: AtomicBool::new(true),
            connects: Mutex::default(),
            heard: Mutex::default(),
            stored: Mutex::default(),
            attempts: AtomicUsize::default(),
            cut_after: AtomicI64::new(-1),
            cut_after_words: AtomicI64::default(),
            gaps: AtomicI64::default(),
            live: AtomicBool::new(true),
            registration_token: Mutex::default(),
            commands: Mutex::default(),
            say: Notify::new(),
            news: Notify::new(),
            cut: watch::Sender::default(),
        });
        let router = Router::new()
            .route("/api/remote/agent/ws", get(upgrade))
            .route("/api/remote/agent/message", post(message))
            .route("/api/remote/agent/register", post(register))
            .route("/healthz", get(|| async { "ok" }))
            .with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn send(&self, command: Command) -> Uuid {
        let command_id = Uuid::new_v4();
        self.tell(ToAgent::Command {
            command_id,
            expires_at_ms: i64::MAX,
            command,
        });
        command_id
    }

    pub fn tell(&self, message: ToAgent) {
        self.commands.lock().unwrap().push_back(message);
        self.say.notify_waiters();
    }

    /// Ends every connection without a word.
    pub fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// Waits until something holds of what was heard and stored.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                let _ = timeout(Duration::from_millis(50), self.news.notified()).await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!(
                "{what}: not within {PATIENCE:?}; heard {:?}",
                self.heard.lock().unwrap()
            );
        }
    }

    pub fn transports(&self) -> Vec<&'static str> {
        self.connects.lock().unwrap().iter().map(|(how, _)| *how).collect()
    }

    pub fn count(&self, session: SessionId) -> usize {
        self.stored.lock().unwrap().get(&session).map_or(0, Vec::len)
    }

    pub fn texts(&self, session: SessionId) -> Vec<String> {
        let stored = self.stored.lock().unwrap();
        let lines = stored.get(&session).map(Vec::as_slice).unwrap_or_default();
        assert!(
            lines.iter().zip(1..).all(|(line, seq)| line.seq == seq),
            "no gap and nothing twice"
        );
        lines
            .iter()
            .map(|line| String::from_utf8(line.data.0.clone()).unwrap())
            .collect()
    }

    pub fn has_heard(&self, wanted: impl Fn(&FromAgent) -> bool) -> bool {
        self.heard.lock().unwrap().iter().any(wanted)
    }

    pub fn done(&self, id: Uuid) -> Option<(Option<Value>, Option<String>)> {
        let heard = self.heard.lock().unwrap();
        heard.iter().find_map(|message| match message {
            FromAgent::Done {
                command_id,
                result,
                error,
            } if *command_id == id => Some((result.clone(), error.as_ref().map(|error| error.message.clone()))),
            _ => None,
        })
    }

    /// 401 for what is not a good token.
    fn check(&self, headers: &HeaderMap) -> Result<(), (StatusCode, Json<Value>)> {
        self.attempts.fetch_add(1, SeqCst);
        let value = headers.get("authorization").and_then(|value| value.to_str().ok());
        let token = value
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        if self.good.lock().unwrap().contains(token) {
            self.used.lock().unwrap().push(token.to_owned());
            return Ok(());
        }
        let body = json!({ "error": "the agent token is not good", "code": "invalid_agent_token" });
        Err((StatusCode::UNAUTHORIZED, Json(body)))
    }

    /// `None` where the connection is to be cut.
    fn hear(&self, how: &'static str, message: FromAgent) -> Option<Vec<ToAgent>> {
        let mut answers = Vec::new();
        match message {
            FromAgent::Connect(connect) => {
                answers.push(self.welcome(&connect));
                self.connects.lock().unwrap().push((how, connect));
            }
            FromAgent::Output { session_id, lines } => answers.push(self.store(session_id, lines)?),
            message => {
                self.heard.lock().unwrap().push(message);
                if self.cut_after_words.fetch_sub(1, SeqCst) == 1 {
                    return None;
                }
            }
        }
        self.news.notify_waiters();
        Some(answers)
    }

    fn welcome(&self, connect: &Connect) -> ToAgent {
        let stored = self.stored.lock().unwrap();
        let known = connect.sessions.iter().map(|held| Known {
            session_id: held.session_id,
            run: held.run,
            live: self.live.load(SeqCst),
            last_seq: stored.get(&held.session_id).map_or(0, Vec::len) as i64,
        });
        ToAgent::Welcome {
            protocol: PROTOCOL,
            heartbeat_interval_s: 60,
            server_time_ms: 0,
            sessions: known.collect(),
        }
    }

    fn store(&self, session_id: SessionId, lines: Vec<Line>) -> Option<ToAgent> {
        let mut stored = self.stored.lock().unwrap();
        let stored = stored.entry(session_id).or_default();
        let refused = self
            .gaps
            .fetch_update(SeqCst, SeqCst, |gaps| (gaps > 0).then_some(gaps - 1))
            .is_ok();
        for line in lines.into_iter().filter(|_| !refused) {
            if line.seq == stored.len() as i64 + 1 {
                stored.push(line);
            }
        }
        let last_seq = stored.len() as i64;
        let cut_after = self.cut_after.load(SeqCst);
        if cut_after >= 0 && last_seq >= cut_after {
            self.cut_after.store(-1, SeqCst);
            return None;
        }
        Some(ToAgent::OutputAck { session_id, last_seq })
    }

    fn next(&self) -> Option<ToAgent> {
        self.commands.lock().unwrap().pop_front()
    }
}

async fn upgrade(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    if let Err(refusal) = server.check(&headers) {
        return refusal.into_response();
    }
    if !server.websockets.load(SeqCst) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    match upgrade {
        Ok(upgrade) => upgrade.on_upgrade(move |socket| async move {
            converse(server, socket).await;
        }),
        Err(rejection) => rejection.into_response(),
    }
}

async fn converse(server: Arc<Server>, mut socket: WebSocket) -> Option<()> {
    let mut cut = server.cut.subscribe();
    loop {
        let said = server.say.notified();
        tokio::pin!(said);
        said.as_mut().enable();
        while let Some(message) = server.next() {
            socket.send(text(&message)).await.ok()?;
        }
        tokio::select! {
            _ = cut.changed() => return None,
            () = said => {}
            frame = socket.recv() => if let Message::Text(frame) = frame?.ok()? {
                for answer in server.hear("ws", serde_json::from_str(&frame).unwrap())? {
                    socket.send(text(&answer)).await.ok()?;
                }
            }
        }
    }
}

fn text(message: &ToAgent) -> Message {
    Message::text(serde_json::to_string(message).unwrap())
}

/// The long poll, with a shorter patience than a real server's.
async fn message(State(server): State<Arc<Server>>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(refusal) = server.check(&headers) {
        return refusal.into_response();
    }
    let sync: Sync = serde_json::from_slice(&body).unwrap();
    let mut messages = Vec::new();
    for message in sync.messages {
        match server.hear("poll", message) {
            Some(answers) => messages.extend(answers),
            None => return StatusCode::BAD_GATEWAY.into_response(),
        }
    }
    let said = server.say.notified();
    messages.extend(std::iter::from_fn(|| server.next()));
    if messages.is_empty() && sync.wait_ms > 0 {
        let _ = timeout(Duration::from_millis(300), said).await;
        messages.extend(std::iter::from_fn(|| server.next()));
    }
    let success = true;
    Json(Synced { success, messages }).into_response()
}

async fn register(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mut token = server.registration_token.lock().unwrap();
    if token.is_none() || body["registration_token"].as_str() != token.as_deref() {
        let body = json!({ "error": "the registration token is unknown or over", "code": "invalid_token" });
        return (StatusCode::UNAUTHORIZED, Json(body)).into_response();
    }
    *token = None;
    let machine = json!({
        "machine_id": body["machine_id"],
        "machine_name": body["machine_name"],
        "status": "offline",
        "tenant_id": 1,
        "agent_token": "acea_first",
    });
    Json(json!({ "success": true, "machine": machine })).into_response()
}

pub async fn pause() {
    sleep(Duration::from_millis(200)).await;
}
