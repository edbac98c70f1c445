//! A small language for tests: a world on each database engine, and people in it who send requests.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ace_migrations::testing::{TestDatabase, test_databases};
use ace_policies::bind::BindMode;
use ace_policies::config::Notify;
use ace_policies::quota::Calendar;
use ace_policies::secret::{self, TokenKind};
use ace_policies::ssrf::EgressAllow;
use ace_policies::vault::MasterKey;
use ace_policies::{MachineId, Secret, UserId};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use sqlx::Row;
use tower::ServiceExt;

use crate::config::NotifyConfig;
use crate::keys::{KeySource, MasterKeys};
use crate::{App, Clock, ControlConfig, FirstAdmin, Trust, bootstrap, chance};

/// 2026-01-31T12:00:00Z.
pub(crate) const NOON: i64 = 1_769_860_800_000;

pub(crate) const ADMIN_PASSWORD: &str = "correct horse battery";

/// A control plane with a database of its own, at a time that stands still.
pub(crate) struct World {
    pub app: App,
    pub clock: Clock,
    pub database: TestDatabase,
}

/// A world on each engine, with an admin in it.
pub(crate) async fn worlds() -> Vec<World> {
    worlds_with(config()).await
}

/// The same, configured otherwise.
pub(crate) async fn worlds_with(config: ControlConfig) -> Vec<World> {
    let mut worlds = Vec::new();
    for world in empty_worlds_with(&config).await {
        let password = Some(Secret::new(ADMIN_PASSWORD.to_owned()));
        bootstrap(&world.app, FirstAdmin { password }).await.unwrap();
        worlds.push(world);
    }
    worlds
}

/// A world on each engine, at its very first start.
pub(crate) async fn empty_worlds() -> Vec<World> {
    empty_worlds_with(&config()).await
}

async fn empty_worlds_with(config: &ControlConfig) -> Vec<World> {
    let mut worlds = Vec::new();
    for database in test_databases().await {
        let clock = Clock::set_to(NOON);
        let app = App::open(database.db.clone(), &master(1), config.clone(), clock.clone())
            .await
            .unwrap();
        worlds.push(World { app, clock, database });
    }
    worlds
}

/// A master key of a test; another number is another key.
pub(crate) fn master(number: u8) -> MasterKeys {
    MasterKeys {
        current: MasterKey::from_bytes([number; 32]),
        older: Vec::new(),
        source: KeySource::Configured,
    }
}

pub(crate) fn config() -> ControlConfig {
    ControlConfig {
        login_max_failures: 3,
        login_window: Duration::from_secs(60),
        login_lock: Duration::from_secs(300),
        login_ttl: Duration::from_secs(43_200),
        token_ttl: Duration::from_secs(300),
        token_ttl_max: Duration::from_secs(300),
        long_token_ttl: Duration::from_secs(604_800),
        heartbeat_interval: Duration::from_secs(60),
        calendar: Calendar::utc(),
        egress: EgressAllow::default(),
        ca_pem: None,
        price_file: None,
        model_aliases: BTreeMap::new(),
        session_output_bytes: 64 << 20,
        session_output_days: 90,
        streams_per_user: 32,
        notify: NotifyConfig::new(&Notify::default()).unwrap(),
        agent_files: None,
        agent_program: None,
        bind: BindMode::Loopback,
        tls: false,
        request_timeout: Duration::from_secs(30),
        drain: Duration::from_secs(5),
    }
}

impl World {
    /// Somebody who is not logged in.
    pub fn nobody(&self) -> Client {
        Client {
            router: self.app.router(Trust::Socket),
            headers: vec![],
        }
    }

    /// Another program on the same database.
    pub async fn another_node(&self) -> App {
        let db = self.database.open_again().await;
        App::open(db, &master(1), config(), self.clock.clone()).await.unwrap()
    }

    /// The first admin, logged in.
    pub async fn admin(&self) -> Client {
        self.logged_in(UserId(1)).await
    }

    /// A new user, logged in.
    pub async fn user(&self, name: &str) -> Client {
        let id = self.add_user(name).await;
        self.logged_in(id).await
    }

    /// A new user, without the cost of a password.
    pub async fn add_user(&self, name: &str) -> UserId {
        let row = sqlx::query(
            "INSERT INTO users (tenant_id, username, password_hash, role, created_at, updated_at)
             VALUES (1, $1, '', 'user', $2, $2) RETURNING id",
        )
        .bind(name)
        .bind(self.app.now())
        .fetch_one(&self.database.db.write)
        .await
        .unwrap();
        UserId(row.try_get(0).unwrap())
    }

    /// A user's browser.
    pub async fn logged_in(&self, user: UserId) -> Client {
        let token = secret::format(TokenKind::Login, &chance::bytes());
        let now = self.app.now();
        sqlx::query(
            "INSERT INTO logins (token_hash, user_id, created_at, expires_at, ip, user_agent)
             VALUES ($1, $2, $3, $4, '', '')",
        )
        .bind(secret::hash(token.expose()))
        .bind(user.0)
        .bind(now)
        .bind(now + 43_200_000)
        .execute(&self.database.db.write)
        .await
        .unwrap();
        self.nobody()
            .with("cookie", &format!("session_token={}", token.expose()))
    }

    /// A machine of the first tenant, registered as its agent does it, and the agent.
    pub async fn new_machine(&self, name: &str) -> (MachineId, Client) {
        let id = MachineId(chance::id());
        let token = self.registration_token(json!({})).await;
        let registered = self.nobody().register(&token, id, name).await.ok();
        (id, self.agent_of(&registered))
    }

    /// A token that registers a machine, made by the first admin.
    pub async fn registration_token(&self, wish: Value) -> String {
        let made = self
            .admin()
            .await
            .post("/api/remote/machines/register", wish)
            .await
            .ok();
        made.json["registration_token"].as_str().unwrap().to_owned()
    }

    /// The agent that was given this answer when it registered.
    pub fn agent_of(&self, registered: &Answer) -> Client {
        let token = registered.json["machine"]["agent_token"].as_str().unwrap();
        self.bearer(token)
    }

    /// Somebody who shows a token.
    pub fn bearer(&self, token: &str) -> Client {
        self.nobody().with("authorization", &format!("Bearer {token}"))
    }

    /// One number out of the database.
    pub async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.database.db.read).await.unwrap()
    }

    /// What the audit log says, oldest first: actor, action, target, result.
    pub async fn audit(&self) -> Vec<String> {
        let rows = sqlx::query("SELECT * FROM audit_log ORDER BY id")
            .fetch_all(&self.database.db.read)
            .await
            .unwrap();
        let text = |row: &sqlx::any::AnyRow, column: &str| row.try_get::<String, _>(column).unwrap();
        rows.iter()
            .map(|row| {
                ["actor_name", "action", "target", "result"]
                    .map(|column| text(row, column))
                    .join(" ")
            })
            .collect()
    }
}

/// Somebody who sends requests.
#[derive(Clone)]
pub(crate) struct Client {
    router: Router,
    headers: Vec<(String, String)>,
}

impl Client {
    /// The same, who reaches the control plane over another socket.
    pub fn through(mut self, router: Router) -> Self {
        self.router = router;
        self
    }

    /// The same with one more header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A header that is sent with every request.
    pub fn header(&self, name: &str) -> &str {
        let header = self.headers.iter().find(|(header, _)| header == name);
        header.map_or("", |(_, value)| value)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Body::empty()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.json("POST", path, body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.json("PUT", path, body).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.json("PATCH", path, body).await
    }

    pub async fn log_in(&self, username: &str, password: &str) -> Answer {
        self.post("/api/auth/login", json!({ "username": username, "password": password }))
            .await
    }

    /// Registers a machine.
    pub async fn register(&self, token: &str, machine: MachineId, name: &str) -> Answer {
        self.post("/api/remote/agent/register", registration(token, machine, name))
            .await
    }

    /// Asks, and hears only how the answer begins: some never end.
    pub async fn status(&self, method: &str, path: &str, json: Option<&str>) -> u16 {
        let typed = self.clone().with("content-type", "application/json");
        let client = if json.is_some() { &typed } else { self };
        let request = client.request(method, path, Body::from(json.unwrap_or_default().to_owned()));
        client.router.clone().oneshot(request).await.unwrap().status().as_u16()
    }

    pub async fn json(&self, method: &str, path: &str, body: Value) -> Answer {
        let typed = self.clone().with("content-type", "application/json");
        typed.send(method, path, Body::from(body.to_string())).await
    }

    fn request(&self, method: &str, path: &str, body: Body) -> Request<Body> {
        let mut request = Request::builder().method(method).uri(path).header("host", "ace.test");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(body).unwrap()
    }

    pub async fn send(&self, method: &str, path: &str, body: Body) -> Answer {
        let (parts, body) = self.open(method, path, body).await.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer {
            status: parts.status,
            headers: parts.headers,
            text,
            json,
        }
    }

    /// The answer as it begins: its body may have no end.
    pub async fn open(&self, method: &str, path: &str, body: Body) -> Response {
        let request = self.request(method, path, body);
        self.router.clone().oneshot(request).await.unwrap()
    }
}

/// What an agent says when it registers.
pub(crate) fn registration(token: &str, machine: MachineId, name: &str) -> Value {
    json!({
        "registration_token": token, "machine_id": machine, "machine_name": name, "hostname": "build-1.example.com",
        "os_type": "linux", "os_version": "6.1", "capabilities": { "cpu_cores": 16, "memory_gb": 64 },
        "agent_version": "1.0.0", "ip_address": "203.0.113.9",
    })
}

/// What came back. Printed as in a snapshot: status and body.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Answer {
    /// The value of `session_token` that was set.
    pub fn cookie(&self) -> String {
        let cookie = self.headers[header::SET_COOKIE].to_str().unwrap();
        cookie.split(';').next().unwrap().split_once('=').unwrap().1.to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The stable code of an error.
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, StatusCode::OK, "{self}");
        self
    }

    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{self}");
        self
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = match &self.json {
            Value::Null => self.text.clone(),
            json => serde_json::to_string_pretty(json).unwrap(),
        };
        write!(f, "{}\n{body}", self.status.as_u16())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
