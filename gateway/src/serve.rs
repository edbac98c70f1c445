//! The one process: data plane in front, control API behind a socket, one database under both.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ace_control_api::{App, FirstAdmin};
use ace_gateway::config::{Settings, fetch, secret_env};
use ace_gateway::listen;
use ace_gateway::node::{Node, Parts, addresses};
use ace_gateway::state::StateDir;
use ace_gateway::upgrade::{self, Handed, Predecessor};
use ace_migrations::{Db, Engine, Options};
use ace_policies::Secret;
use ace_policies::bind::{AuthState, check_exposure};
use ace_policies::config::Config;

use crate::credentials::{admin_account, key_source, master_keys};
use crate::failure::Failure;
use crate::inside::{Control, control_nodes, open_control_api, start_control_api};
use crate::signals::{Asked, Signals};

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
    control: Control,
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
            state_dir: state.path().to_owned(),
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
