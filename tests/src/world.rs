//! A gateway of the story's own, with a scripted provider behind it and people in front of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    Answer, Ask, Biller, Ca, Dialect, Disk, Door, H2Client, Person, Postgres, Program, Provider, Wire, eventually,
    lasting_port, program,
};

const PASSWORD: &str = "correct horse battery staple";

/// The lines of each section of the configuration file.
type Config = BTreeMap<&'static str, Vec<String>>;

/// A running gateway and what belongs to it. Everything ends when it is dropped.
pub struct World {
    pub gateway: Program,
    pub door: Door,
    pub metrics: SocketAddr,
    /// The provider that all three provider keys point to.
    pub provider: Provider,
    pub admin: Person,
    pub alice: Person,
    config: Config,
    environment: Vec<(String, String)>,
    disk: Option<Disk>,
    // Last: its folder must outlive the program.
    state: TempDir,
}

/// Another gateway, or another node of the control API, with the database of a world.
pub struct Node {
    pub program: Program,
    pub door: Door,
    /// Of a gateway.
    pub metrics: Option<SocketAddr>,
    _state: TempDir,
}

/// The other side of a story that fails.
struct TellsIfItFails<'p>(&'p Program);

impl Drop for TellsIfItFails<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the other program:\n{}", self.0.log());
        }
    }
}

/// How a world differs from the usual one.
pub struct WorldBuilder {
    config: Config,
    environment: Vec<(String, String)>,
    keys: bool,
    disk: Option<Disk>,
    ca: Option<Ca>,
    provider: Option<Provider>,
    port: u16,
}

impl World {
    /// A gateway with its default configuration and a key for each provider, an admin and a user.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    pub fn builder() -> WorldBuilder {
        let builder = WorldBuilder {
            config: BTreeMap::new(),
            environment: vec![("OPENACE_ADMIN_PASSWORD".to_owned(), PASSWORD.to_owned())],
            keys: true,
            disk: None,
            ca: None,
            provider: None,
            port: 0,
        };
        builder
            .config("egress", "allow = [\"127.0.0.1\", \"localhost\"]")
            .config("metrics", "listen = \"127.0.0.1:0\"")
    }

    pub async fn wire(&self) -> Wire {
        self.door.wire().await
    }

    pub async fn h2(&self) -> H2Client {
        self.door.h2().await
    }

    /// Sends a request as it stands, on a connection of its own.
    pub async fn call(&self, ask: &Ask) -> Answer {
        self.door.call(ask).await
    }

    /// Alice's proxy token for one provider.
    pub async fn token(&self, dialect: Dialect) -> String {
        self.alice.proxy_token(Some(dialect.name())).await
    }

    /// The dialect's main call with a proxy token of Alice's, on a connection of its own.
    pub async fn main_call(&self, dialect: Dialect) -> Answer {
        self.call(&dialect.authorize(dialect.ask(), &self.token(dialect).await))
            .await
    }

    /// Limits an account, such as `users/2`, and waits until the gateway and these others know: `{"tokens_per_day": 1000}`.
    pub async fn limit(&self, account: &str, limits: Value, others: &[&Node]) {
        let path = format!("/api/quota/{account}");
        self.admin.put(&path, json!({"limits": limits})).await.ok();
        let gateways = others.iter().filter_map(|node| node.metrics).chain([self.metrics]);
        everything_is_known(gateways).await;
    }

    /// One of the gateway's figures, by its name and labels as they stand there.
    pub async fn metric(&self, name: &str) -> f64 {
        metric(self.metrics, name).await
    }

    /// Has every call go to this provider.
    pub async fn bill_by(&self, biller: &Biller) {
        for dialect in Dialect::ALL {
            self.store_key(dialect, &dialect.base_url(&biller.url()), dialect.key())
                .await;
        }
    }

    /// Stores a provider key.
    pub async fn store_key(&self, dialect: Dialect, base_url: &str, key: &str) -> Value {
        let body = json!({"provider": dialect.name(), "key_name": "main", "api_key": key, "base_url": base_url});
        self.admin.post("/api/remote/api-keys", body).await.ok()["key"].clone()
    }

    /// Creates a user, who logs in.
    pub async fn joins(&self, name: &str) -> Person {
        joins(&self.admin, &self.door, name).await
    }

    /// Starts the gateway, after it has ended, and kills it after so long, ready or not.
    pub async fn start_and_crash(&mut self, after: Duration) {
        let mut program = Program::open(command(self.state.path(), &self.environment));
        tokio::time::sleep(after).await;
        program.crash().await;
    }

    /// Starts the gateway again, after it has ended, with the same state.
    pub async fn restart(&mut self) {
        let (gateway, ready) = Program::start(command(self.state.path(), &self.environment)).await;
        self.gateway = gateway;
        self.door.address = address(&ready["url"]);
        self.metrics = address(&ready["metrics_url"]);
        self.admin = self.admin.at(&self.door);
        self.alice = self.alice.at(&self.door);
    }

    /// The same, so that those find it again who know only where it was. The world must have been built for it.
    pub async fn restart_at_the_same_address(&mut self) {
        let port = self.door.address.port();
        let (gateway, ready) = Program::start(command_at(port, self.state.path(), &self.environment)).await;
        self.gateway = gateway;
        self.metrics = address(&ready["metrics_url"]);
    }

    /// Starts a gateway that takes the place of the running one, and tells that one when to hand over. Gives the old one.
    pub async fn upgrade(&mut self) -> Program {
        let mut command = command(self.state.path(), &self.environment);
        command.arg("--upgrade");
        let waits = self.state.path().join("upgrade.sock");
        let hand_over = async {
            eventually("the new process to wait", async || waits.exists().then_some(())).await;
            self.gateway.signal(Signal::QUIT);
        };
        let old = TellsIfItFails(&self.gateway);
        let ((successor, _), ()) = tokio::join!(Program::start(command), hand_over);
        drop(old);
        std::mem::replace(&mut self.gateway, successor)
    }

    /// Starts another gateway with the same configuration, these additions to it and these flags.
    pub async fn another_gateway(&self, additions: &str, flags: &[&str]) -> Node {
        let state = TempDir::new().expect("a temporary folder");
        std::fs::write(
            state.path().join("gateway.toml"),
            format!("{}\n{additions}", toml(&self.config)),
        )
        .expect("a folder of ours");
        let mut command = command(state.path(), &self.environment);
        command.args(flags);
        let (program, ready) = Program::start(command).await;
        Node {
            program,
            door: Door::plain(address(&ready["url"])),
            metrics: Some(address(&ready["metrics_url"])),
            _state: state,
        }
    }

    /// Starts a node of the control API alone.
    pub async fn control_node(&self) -> Node {
        let state = TempDir::new().expect("a temporary folder");
        let toml = format!("{}\n[control]\nlisten = \"127.0.0.1:0\"\n", toml(&self.config));
        std::fs::write(state.path().join("gateway.toml"), toml).expect("a folder of ours");
        let mut command = program("ace-control");
        command
            .arg("serve")
            .arg("--state-dir")
            .arg(state.path())
            .env("HOME", state.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let listens = |line: &str| line.strip_prefix("listening on ")?.parse().ok();
        let (program, address) = Program::start_until(command, listens).await;
        Node {
            program,
            door: Door::plain(address),
            metrics: None,
            _state: state,
        }
    }

    /// Has every sum of the ledger computed anew from its rows.
    ///
    /// # Panics
    /// When one is another than what gateways have written.
    pub async fn every_sum_is_right(&self) {
        let mut command = program("ace-control");
        command
            .args(["--state-dir"])
            .arg(self.state.path())
            .args(["ledger", "verify"]);
        command
            .env("HOME", self.state.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let (status, told) = Program::run(command).await;
        assert!(status.success(), "{told}");
    }

    /// Has only this line in a section of the configuration, from the next start on.
    pub fn configure_instead(&mut self, section: &'static str, line: &str) {
        self.config.insert(section, vec![line.to_owned()]);
        std::fs::write(self.state.path().join("gateway.toml"), toml(&self.config)).expect("a folder of ours");
    }

    /// Whether nobody but the gateway sees the state.
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// The disk that holds the state.
    ///
    /// # Panics
    /// When the world was not built with one.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("a disk of its own")
    }

    pub fn state(&self) -> &Path {
        self.state.path()
    }
}

/// Waits until these have seen everything that is in the database now.
async fn everything_is_known(gateways: impl IntoIterator<Item = SocketAddr>) {
    let now = Instant::now();
    for gateway in gateways {
        eventually("a gateway to look at its database", async || {
            // A look may have begun before the change, and end after it.
            let age = metric(gateway, "ace_snapshot_age_milliseconds").await + 100.0;
            (age < now.elapsed().as_secs_f64() * 1000.0).then_some(())
        })
        .await;
    }
}

async fn metric(gateway: SocketAddr, name: &str) -> f64 {
    let text = Door::plain(gateway)
        .call(&Ask::get("/metrics"))
        .await
        .expect(200)
        .text();
    let figures = text.lines().filter_map(|line| line.rsplit_once(' '));
    let found = figures
        .filter(|(found, _)| *found == name)
        .find_map(|(_, figure)| figure.parse().ok());
    found.unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

async fn joins(admin: &Person, door: &Door, name: &str) -> Person {
    let body = json!({"username": name, "password": PASSWORD, "role": "user"});
    admin.post("/api/users", body).await.ok();
    Person::login(door, name, PASSWORD).await
}

impl WorldBuilder {
    /// Adds a line to a section of the configuration file.
    pub fn config(mut self, section: &'static str, line: impl Into<String>) -> Self {
        self.config.entry(section).or_default().push(line.into());
        self
    }

    /// Has only this line in a section.
    pub fn config_instead(mut self, section: &'static str, line: &str) -> Self {
        self.config.insert(section, vec![line.to_owned()]);
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// By a clock on which it is about noon: no day ends while a story counts what it has.
    pub fn at_noon(self) -> Self {
        self.config("quota", format!("time_zone = \"{}\"", crate::clock::zone_of_noon()))
    }

    /// On a port to which it can come back.
    pub fn at_a_lasting_address(mut self) -> Self {
        self.port = lasting_port();
        self
    }

    /// Stores no provider keys.
    pub fn without_keys(mut self) -> Self {
        self.keys = false;
        self
    }

    /// TLS on the public port.
    pub fn tls(mut self) -> Self {
        self.ca = Some(Ca::new());
        self
    }

    /// PostgreSQL instead of SQLite, and the explicit encryption key that several nodes need.
    pub fn on(self, database: &Postgres) -> Self {
        self.on_url(&database.url())
    }

    /// The same by its URL.
    pub fn on_url(self, url: &str) -> Self {
        let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        self.config("database", format!("url = \"{url}\""))
            .environment("OPENACE_ENCRYPTION_KEY", key)
    }

    /// The state on a disk of its own, with so many bytes.
    pub fn disk(mut self, bytes: u64) -> Self {
        self.disk = Some(Disk::new(bytes));
        self
    }

    /// A provider that is not the usual one.
    pub fn provider(mut self, provider: Provider) -> Self {
        self.provider = Some(provider);
        self
    }

    pub async fn start(mut self) -> World {
        let state = TempDir::new().expect("a temporary folder");
        let provider = match self.provider.take() {
            Some(provider) => provider,
            None => Provider::start().await,
        };
        if let Some(ca) = &self.ca {
            let files = ca.write(state.path());
            self = self.config("tls", format!("cert_file = {:?}", files.certificate));
            self = self.config("tls", format!("key_file = {:?}", files.key));
        }
        std::fs::write(state.path().join("gateway.toml"), toml(&self.config)).expect("a folder that can be written");
        let command = command_at(self.port, state.path(), &self.environment);
        let command = match &self.disk {
            Some(disk) => disk.holds(state.path(), command),
            None => command,
        };
        let (gateway, ready) = Program::start(command).await;
        let door = Door {
            address: address(&ready["url"]),
            ca: self.ca.take().map(Arc::new),
        };
        let admin = Person::login(&door, "admin", PASSWORD).await;
        let alice = joins(&admin, &door, "alice").await;
        let world = World {
            gateway,
            door,
            metrics: address(&ready["metrics_url"]),
            provider,
            admin,
            alice,
            config: self.config,
            environment: self.environment,
            disk: self.disk,
            state,
        };
        if self.keys {
            for dialect in Dialect::ALL {
                world
                    .store_key(dialect, &dialect.base_url(&world.provider.url()), dialect.key())
                    .await;
            }
        }
        // The first call would look anew, but wait for that no longer than a caller may be made to wait.
        everything_is_known([world.metrics]).await;
        world
    }
}

fn toml(config: &Config) -> String {
    let sections = config
        .iter()
        .map(|(section, lines)| format!("[{section}]\n{}\n", lines.join("\n")));
    sections.collect::<Vec<_>>().join("\n")
}

fn command(state: &Path, environment: &[(String, String)]) -> Command {
    command_at(0, state, environment)
}

fn command_at(port: u16, state: &Path, environment: &[(String, String)]) -> Command {
    let mut command = program("ace-gateway");
    command
        .args(["--port", &port.to_string(), "--json", "--state-dir"])
        .arg(state);
    command
        .env("HOME", state)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

/// The address in a URL like `http://127.0.0.1:5000`.
fn address(url: &Value) -> SocketAddr {
    let text = url.as_str().unwrap_or_else(|| panic!("not a URL: {url}"));
    let authority = text
        .split('/')
        .nth(2)
        .unwrap_or_default()
        .replace("localhost", "127.0.0.1");
    authority.parse().unwrap_or_else(|_| panic!("no address in {text}"))
}
