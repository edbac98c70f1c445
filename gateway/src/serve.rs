//! The one process: data plane in front, control API behind a socket, one database under both.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ace_control_api::keys::{Generate, KeyMaterial, MasterKeys, resolve};
use ace_control_api::{App, Clock, ControlConfig, FirstAdmin, Listener, bootstrap};
use ace_gateway::config::{Settings, fetch, secret_env};
use ace_gateway::engine::connect::Origin;
use ace_gateway::listen;
use ace_gateway::node::{Node, Parts, addresses};
use ace_gateway::state::StateDir;
use ace_gateway::upgrade::{self, Handed, Predecessor};
use ace_migrations::{Db, Engine, Options};
use ace_policies::Secret;
use ace_policies::bind::{AdminAccount, AuthState, EncryptionKey, check_exposure};
use ace_policies::config::Config;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Serves until a signal says otherwise. SIGQUIT hands the sockets to a process that was started with `--upgrade`.
pub async fn serve(settings: Settings, shape: Shape, json: bool) -> Result<ExitCode, Failure> {
    let first_admin = FirstAdmin {
        password: secret_env("OPENACE_ADMIN_PASSWORD"),
    };
    let mut signals = Signals::new()?;
    let running = Running::start(settings, shape, first_admin).await?;
    running.announce(json);
    while signals.next().await == Asked::Upgrade {
        match running.hand_over().await {
            Ok(()) => break,
            Err(error) => {
                tracing::error!(%error, "no process took over; serving on. Start the new one with --upgrade first")
            }
        }
    }
    tracing::info!(
        requests = running.node.active(),
        "stopping: no new connections, requests in flight may end"
    );
    running.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Brings the database up to date, or says what is missing.
pub async fn migrate(settings: &Settings, check: bool) -> Result<ExitCode, Failure> {
    let db = open_database(&settings.config, &settings.state_dir).await?;
    if check {
        let pending = ace_migrations::check(&db).await?.0;
        for (version, name) in &pending {
            println!("pending: {version} {name}");
        }
        println!("{} migrations pending", pending.len());
        return Ok(ExitCode::from(u8::from(!pending.is_empty())));
    }
    let applied = ace_migrations::migrate(&db).await?.0;
    for (version, name) in &applied {
        println!("applied: {version} {name}");
    }
    println!("{} migrations applied", applied.len());
    Ok(ExitCode::SUCCESS)
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The end.
    Stop,
    /// The end, after another process has taken over.
    Upgrade,
}

/// Signals that end the program.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    /// Listens from now on.
    pub fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// Waits for one.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.quit.recv() => Asked::Upgrade,
        }
    }
}

/// In which shape the process runs.
pub struct Shape {
    /// The control API runs elsewhere.
    pub no_control_api: bool,
    /// This is the demo.
    pub demo: bool,
    /// A running process is to hand its sockets over.
    pub upgrade: bool,
}

/// How long a process that is to take over waits for the one before.
const MEETING: Duration = Duration::from_secs(60);

/// Everything that runs.
pub struct Running {
    /// The data plane.
    pub node: Node,
    /// The control API, where it runs in this process.
    pub app: Option<App>,
    control: Option<(CancellationToken, JoinHandle<()>)>,
    /// Where the public port listens.
    pub addresses: Vec<SocketAddr>,
    /// Where the metrics are.
    pub metrics: Option<SocketAddr>,
    tls: bool,
    admin_password: Option<Secret>,
    state: StateDir,
    /// Copies of the listening sockets, for the process that takes over.
    sockets: Sockets,
}

struct Sockets {
    public: Vec<TcpListener>,
    metrics: Option<TcpListener>,
}

impl Sockets {
    fn copy(&self) -> io::Result<Self> {
        let public = self
            .public
            .iter()
            .map(TcpListener::try_clone)
            .collect::<io::Result<_>>()?;
        Ok(Self {
            public,
            metrics: self.metrics.as_ref().map(TcpListener::try_clone).transpose()?,
        })
    }
}

impl Running {
    /// Starts everything, in an order in which nothing listens before it may.
    pub async fn start(settings: Settings, shape: Shape, first_admin: FirstAdmin) -> Result<Self, Failure> {
        let Settings { config, state_dir } = settings;
        disable_core_dumps();
        let (state, predecessor) = match shape.upgrade {
            true => take_over(&state_dir).await?,
            false => (StateDir::lock(&state_dir)?, None),
        };
        let db = open_database(&config, state.path()).await?;
        let several_nodes = shape.no_control_api || db.engine == Engine::Postgres;
        let keys = master_keys(&config, state.path(), several_nodes)?;
        let announced = listen::addresses(&config.gateway)?;
        let mut auth = AuthState {
            encryption_key: key_source(&config, state.path()),
            several_nodes,
            demo: shape.demo,
            ..AuthState::default()
        };
        if several_nodes {
            check_exposure(&[], &auth)?;
        }
        ace_migrations::migrate(&db).await?;

        let (app, admin_password) = match shape.no_control_api {
            true => (None, None),
            false => {
                let (app, password) = open_control_api(&config, &db, &keys, first_admin).await?;
                (Some(app), password)
            }
        };
        auth.admin = admin_account(&db, app.as_ref(), &announced).await?;
        check_exposure(&announced, &auth)?;
        let (predecessor, sockets) = match predecessor {
            Some((predecessor, sockets)) => (Some(predecessor), sockets),
            None => (
                None,
                Sockets {
                    public: listen::bind(&announced)?,
                    metrics: bind_metrics(&config)?,
                },
            ),
        };
        let metrics_address = sockets.metrics.as_ref().and_then(|listener| listener.local_addr().ok());

        let instance = format!("{}-{}", hostname(), std::process::id());
        let (nodes, control) = match &app {
            Some(app) => start_control_api(app.clone(), state.path(), &instance)?,
            None => (control_nodes(&config)?, None),
        };
        let tls = !config.tls.cert_file.is_empty();
        let Sockets {
            public: listeners,
            metrics,
        } = sockets.copy()?;
        let parts = Parts {
            db,
            keys: (keys.current, keys.older),
            control: nodes,
            metrics,
            gateway_id: instance,
            listeners,
        };
        let addresses = addresses(&parts.listeners);
        let node = Node::start(&config, parts).await?;
        if let Some(predecessor) = predecessor {
            predecessor.relieve()?;
        }
        Ok(Self {
            node,
            app,
            control,
            addresses,
            metrics: metrics_address,
            tls,
            admin_password,
            state,
            sockets,
        })
    }

    /// The address to tell people.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        match self.addresses.first() {
            Some(address) if address.ip().is_unspecified() => format!("{scheme}://127.0.0.1:{}", address.port()),
            Some(address) => format!("{scheme}://{address}"),
            None => String::new(),
        }
    }

    /// Where the metrics are, as a URL.
    pub fn metrics_url(&self) -> Option<String> {
        self.metrics.map(|address| format!("http://{address}/metrics"))
    }

    fn announce(&self, json: bool) {
        let url = self.url();
        if json {
            let metrics = self.metrics_url();
            let password = self.admin_password.as_ref().map(Secret::expose);
            println!(
                "{}",
                serde_json::json!({"url": url, "metrics_url": metrics, "state_dir": self.state.path(), "admin_password": password})
            );
            return;
        }
        println!(
            "ACE Gateway {} is listening on {}",
            env!("CARGO_PKG_VERSION"),
            self.listening()
        );
        println!("  state: {}", self.state.path().display());
        if let Some(metrics) = self.metrics_url() {
            println!("  metrics: {metrics}");
        }
        if let Some(password) = &self.admin_password {
            println!("\nThe first admin was made. This is the only time that its password is shown:");
            println!("  user: admin   password: {}", password.expose());
            println!("It must be changed at the first login.");
        }
        println!("\nNext: log in and store a provider key; {url}/ shows how.");
    }

    fn listening(&self) -> String {
        self.addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Hands the sockets to the process that waits for them.
    async fn hand_over(&self) -> io::Result<()> {
        let Sockets { public, metrics } = self.sockets.copy()?;
        let handed = Handed {
            lock: self.state.lock_file().try_clone()?,
            metrics,
            public,
        };
        let state_dir = self.state.path().to_owned();
        tokio::task::spawn_blocking(move || upgrade::hand_over(&state_dir, &handed))
            .await
            .map_err(io::Error::other)?
    }

    /// Stops everything: the port first, the ledger to its end, the control API last.
    pub async fn stop(self) {
        // The last copies that would keep the port open.
        drop(self.sockets);
        self.node.stop().await;
        if let Some((shutdown, control)) = self.control {
            shutdown.cancel();
            let _ = tokio::time::timeout(Duration::from_secs(5), control).await;
        }
        drop(self.state);
    }
}

type Taken = (StateDir, Option<(Predecessor, Sockets)>);

async fn take_over(state_dir: &Path) -> Result<Taken, Failure> {
    let dir = state_dir.to_owned();
    let met = tokio::task::spawn_blocking(move || Predecessor::meet(&dir, MEETING))
        .await
        .map_err(io::Error::other)?;
    let (predecessor, handed) = met.map_err(|error| Failure::Config(format!("--upgrade: {error}")))?;
    let Handed { lock, metrics, public } = handed;
    Ok((
        StateDir::inherit(state_dir, lock)?,
        Some((predecessor, Sockets { public, metrics })),
    ))
}

async fn open_database(config: &Config, state_dir: &Path) -> Result<Db, Failure> {
    let url = match fetch("database.url", &config.database.url)? {
        Some(url) => url.expose().to_owned(),
        None => ace_migrations::sqlite_url(&state_dir.join("ace.db")),
    };
    let busy_timeout = Duration::from_millis(config.database.busy_timeout_ms);
    Ok(ace_migrations::open(
        &url,
        &Options {
            max_connections: config.database.max_connections,
            busy_timeout,
        },
    )
    .await?)
}

fn master_keys(config: &Config, state_dir: &Path, several_nodes: bool) -> Result<MasterKeys, Failure> {
    let material = KeyMaterial {
        vault_key: fetch("vault.key", &config.vault.key)?,
        encryption_key: secret_env("OPENACE_ENCRYPTION_KEY"),
        previous: secret_env("OPENACE_ENCRYPTION_KEY_PREVIOUS"),
        secret_key: secret_env("SECRET_KEY"),
    };
    let generate = if several_nodes { Generate::No } else { Generate::Yes };
    Ok(resolve(&material, state_dir, generate)?)
}

fn key_source(config: &Config, state_dir: &Path) -> EncryptionKey {
    if !config.vault.key.is_unset() || secret_env("OPENACE_ENCRYPTION_KEY").is_some() {
        EncryptionKey::Explicit
    } else if secret_env("SECRET_KEY").is_some() {
        EncryptionKey::SecretKey
    } else if state_dir.join(ace_control_api::keys::FILE).exists() {
        EncryptionKey::GeneratedFile
    } else {
        EncryptionKey::Missing
    }
}

async fn open_control_api(
    config: &Config,
    db: &Db,
    keys: &MasterKeys,
    first: FirstAdmin,
) -> Result<(App, Option<Secret>), Failure> {
    let ca_file = Some(&config.upstream.ca_file).filter(|file| !file.is_empty());
    let ca_pem = ca_file
        .map(std::fs::read)
        .transpose()
        .map_err(|error| Failure::Config(format!("[upstream] ca_file: {error}")))?;
    let control =
        ControlConfig::new(config, ca_pem).map_err(|error| Failure::Config(format!("[egress] allow: {error}")))?;
    let app = App::open(db.clone(), keys, control, Clock::System)
        .await
        .map_err(|error| Failure::Control(error.to_string()))?;
    let made = bootstrap(&app, first)
        .await
        .map_err(|error| Failure::Config(error.to_string()))?;
    Ok((app, made.admin_password))
}

async fn admin_account(db: &Db, app: Option<&App>, addresses: &[SocketAddr]) -> Result<AdminAccount, Failure> {
    // Passwords are slow to compare, and on loopback nobody asks.
    let is_exposed = addresses.iter().any(|address| !address.ip().is_loopback());
    if let Some(app) = app.filter(|_| is_exposed)
        && app
            .has_published_admin_password()
            .await
            .map_err(|error| Failure::Control(error.to_string()))?
    {
        return Ok(AdminAccount::PublishedPassword);
    }
    let safe: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM users WHERE role = 'admin' AND is_active = 1 AND must_change_password = 0",
    )
    .fetch_one(&db.read)
    .await
    .map_err(|error| Failure::Control(error.to_string()))?;
    Ok(if safe > 0 {
        AdminAccount::Safe
    } else {
        AdminAccount::NotSafe
    })
}

fn bind_metrics(config: &Config) -> Result<Option<TcpListener>, Failure> {
    let address = &config.metrics.listen;
    if address.is_empty() {
        return Ok(None);
    }
    let listener = TcpListener::bind(address).map_err(|error| {
        Failure::Config(format!(
            "[metrics] listen: {address}: {error}; set another address, or \"\" for none"
        ))
    })?;
    Ok(Some(listener))
}

type Control = Option<(CancellationToken, JoinHandle<()>)>;

fn start_control_api(app: App, state_dir: &Path, instance: &str) -> Result<(Vec<Origin>, Control), Failure> {
    let path = state_dir.join(format!("control-{instance}.sock"));
    let listener = Listener::unix(&path).map_err(|error| Failure::Control(format!("{}: {error}", path.display())))?;
    let shutdown = CancellationToken::new();
    let serving = ace_control_api::serve(app, listener, shutdown.clone());
    let task = tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the control API ended");
        }
    });
    Ok((vec![Origin::unix(&path.to_string_lossy())], Some((shutdown, task))))
}

fn control_nodes(config: &Config) -> Result<Vec<Origin>, Failure> {
    let node = |address: &String| {
        let (host, port) = address.rsplit_once(':')?;
        Some(Origin::control(
            host.trim_start_matches('[').trim_end_matches(']'),
            port.parse().ok()?,
        ))
    };
    let nodes: Option<Vec<_>> = config.control.upstreams.iter().map(node).collect();
    match nodes {
        Some(nodes) if !nodes.is_empty() => Ok(nodes),
        _ => Err(Failure::Config(
            "[control] upstreams: --no-control-api needs the addresses of the control API's nodes".to_owned(),
        )),
    }
}

/// A core file would hold every opened key.
fn disable_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let limited = setrlimit(Resource::Core, none).and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = limited {
        tracing::warn!(%error, "core dumps cannot be switched off");
    }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
