//! `ace-agent run`: the life of the agent, from its settings to its last word.

use std::{
    io,
    path::Path,
    sync::{Arc, RwLock},
    time::{Duration, SystemTime},
};

use ace_policies::{Secret, wire::Cli};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, ConfigError, ConfigFile, Environment, FILE},
    control::{Control, End, Shared},
    credentials::{CredentialError, Credentials},
    files::Looking,
    http::Http,
    lock::Lock,
    log,
    machine::Facts,
    mask::Mask,
    outbox::Outbox,
    register::{RegisterError, register},
    sessions::{Sessions, SessionsError},
    spool::{Intake, Spool, spawn_intake},
    status::Reporter,
    transport::BREAK_GLASS,
    uplink::Uplink,
};

/// Messages on their way between the sessions and the connection.
const CHANNEL: usize = 1024;
/// How long the sessions have to end, and what they said last to reach the server.
const END_SESSIONS: Duration = Duration::from_secs(20);
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How often finished sessions are looked for.
const TIDY: Duration = Duration::from_secs(24 * 3600);

/// The agent cannot run, or ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("{0}")]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Sessions(#[from] SessionsError),
    #[error("another ace-agent runs in {0}; stop it first, or give this one a directory of its own (--dir)")]
    Running(String),
    #[error("{0}")]
    Unauthorized(String),
    #[error("this machine was taken off the server's list; register it again to go on")]
    Unregistered,
    #[error("the sessions' part of the agent ended unasked")]
    SessionsEnded,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The program's one clock and one source of chance.
#[derive(Clone, Copy)]
pub struct World {
    pub clock: fn() -> SystemTime,
    pub chance: fn() -> f64,
    /// Makes the key that opens one session's relay.
    pub new_key: fn() -> Secret,
}

/// Runs the agent of a directory until it is asked to end.
pub fn run(dir: &Path, environment: &Environment, world: World) -> Result<(), Failed> {
    let file = ConfigFile::read(&dir.join(FILE))?;
    let config = Arc::new(Config::new(dir, environment, &file)?);
    let lock = Lock::take(dir)?.ok_or_else(|| Failed::Running(dir.display().to_string()))?;
    log::init(config.log_level, Some(dir))?;
    for key in file.unknown_keys() {
        tracing::warn!(
            key,
            "config.json has a key that means nothing to this agent; it is kept"
        );
    }
    if config.server.is_break_glass() {
        tracing::warn!(
            "{BREAK_GLASS}=1: credentials and output go to {} in plaintext",
            config.server.name()
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(live(config, world));
    runtime.shutdown_timeout(LAST_WORDS);
    drop(lock);
    ended
}

async fn live(config: Arc<Config>, world: World) -> Result<(), Failed> {
    let stop = CancellationToken::new();
    on_signals(stop.clone())?;
    let facts = Facts::gather();
    let mut credentials = Credentials::open(&config)?;
    tracing::info!(
        version = crate::VERSION,
        machine_id = %credentials.machine_id(),
        proxy = config.server.proxy(),
        "the agent begins; its server is {}",
        config.server.name(),
    );
    if !introduce(&config, &mut credentials, &facts, world, &stop).await? {
        return Ok(());
    }
    serve(config, credentials, facts, world, stop).await
}

/// Registers with the token in the settings, if there is one. False where the agent was asked to end meanwhile.
async fn introduce(
    config: &Config,
    credentials: &mut Credentials,
    facts: &Facts,
    world: World,
    stop: &CancellationToken,
) -> Result<bool, Failed> {
    let Some(token) = &config.registration_token else {
        return Ok(true);
    };
    let http = Http::new(&config.server)?;
    let mut wait = config.reconnect_base_delay;
    loop {
        let (id, name) = (credentials.machine_id(), &config.machine_name);
        match register(&http, token, id, name, facts).await {
            Ok(agent_token) => {
                credentials.registered(agent_token)?;
                tracing::info!(machine_id = %id, "this machine is registered as {name}; the registration token is forgotten");
                return Ok(true);
            }
            Err(error) if error.is_passing() => {
                tracing::warn!("{error}; the next attempt is in {wait:.1?}");
            }
            // Most likely the one that it was registered with: it may stand in a service's environment.
            Err(error @ RegisterError::Token(_)) if credentials.token().is_some() => {
                tracing::warn!("{error}. This machine has an agent token already, which is used");
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(wait.mul_f64(0.8 + 0.4 * (world.chance)())) => {}
        }
        wait = (wait * 2).min(config.reconnect_max_delay);
    }
}

async fn serve(
    config: Arc<Config>,
    credentials: Credentials,
    facts: Facts,
    world: World,
    stop: CancellationToken,
) -> Result<(), Failed> {
    let spool = Arc::new(Spool::open(
        &config.sessions_dir(),
        config.spool_bytes,
        config.max_sessions,
    )?);
    let mask = Arc::new(RwLock::new(Mask::default()));
    let (out, from_sessions) = mpsc::channel(CHANNEL);
    let (down, to_sessions) = mpsc::channel(CHANNEL);
    let outbox = Arc::new(Outbox::default());
    let intake = Intake {
        spool: spool.clone(),
        mask: mask.clone(),
        outbox: outbox.clone(),
        patience: None,
    };
    let intake = spawn_intake(intake, from_sessions)?;
    let sessions = Sessions::new(config.clone())?;
    let clis = detect_clis(sessions.clone());
    let status = Reporter::new(&config.dir, &config.server_url, credentials.machine_id(), world.clock);
    let shared = Arc::new(Shared {
        clis,
        looking: Arc::new(Looking::new(&config, mask.clone())),
        status: Arc::new(status),
        clock: world.clock,
        chance: world.chance,
        ws_again: None,
        config: config.clone(),
        spool: spool.clone(),
        facts,
        mask,
        down,
    });
    let reporting = tokio::spawn(report(shared.clone()));
    let end_sessions = CancellationToken::new();
    let uplink = Uplink { out, down: to_sessions };
    let sessions = tokio::spawn(sessions.run(credentials.machine_id(), world, uplink, end_sessions.clone()));
    let ended = together(
        Control::new(shared, credentials, outbox.clone())?,
        sessions,
        end_sessions,
        (&spool, &outbox),
        stop,
    )
    .await;
    reporting.abort();
    // Its channel is closed with the sessions: what they printed last is on disk when it has ended.
    let _ = tokio::task::spawn_blocking(move || intake.join()).await;
    ended
}

/// The connection and the sessions, and in which order they end: the sessions first, so that their last words get through.
async fn together(
    control: Control,
    mut sessions: JoinHandle<()>,
    end_sessions: CancellationToken,
    unsent: (&Spool, &Outbox),
    stop: CancellationToken,
) -> Result<(), Failed> {
    let hang_up = CancellationToken::new();
    let hung_up = hang_up.clone();
    let mut connection = tokio::spawn(async move { control.run(&hung_up).await });
    let end = tokio::select! {
        () = stop.cancelled() => {
            tracing::info!("the agent was asked to end");
            None
        }
        end = &mut connection => Some(end.map_err(io::Error::other)?),
        _ = &mut sessions => return Err(Failed::SessionsEnded),
    };
    end_sessions.cancel();
    if timeout(END_SESSIONS, sessions).await.is_err() {
        tracing::error!("the sessions have not ended within {END_SESSIONS:?}");
    }
    let Some(end) = end else {
        let _ = timeout(LAST_WORDS, all_sent(unsent)).await;
        hang_up.cancel();
        let _ = timeout(LAST_WORDS, connection).await;
        return Ok(());
    };
    match end {
        End::Stopped => Ok(()),
        End::Unregistered => Err(Failed::Unregistered),
        End::Unauthorized(why) => Err(Failed::Unauthorized(why)),
    }
}

/// The CLIs of this machine; their versions come when they have told them. Nobody waits for that: some take long to start.
fn detect_clis(sessions: Sessions) -> watch::Receiver<Vec<Cli>> {
    let (tell, clis) = watch::channel(sessions.installed());
    tokio::spawn(async move { tell.send_replace(sessions.clis().await) });
    clis
}

async fn all_sent((spool, outbox): (&Spool, &Outbox)) {
    // What they said last may still be on its way into the spool.
    tokio::time::sleep(Duration::from_millis(100)).await;
    while !spool.pending().is_empty() || outbox.has_news() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn report(shared: Arc<Shared>) {
    let tidy = async {
        loop {
            let (spool, now) = (shared.spool.clone(), (shared.clock)());
            let live = shared.status.live();
            let _ = tokio::task::spawn_blocking(move || spool.tidy(now, |session| live.contains(&session))).await;
            tokio::time::sleep(TIDY).await;
        }
    };
    tokio::join!(shared.status.run(&shared.spool), tidy);
}

fn on_signals(stop: CancellationToken) -> io::Result<()> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    Ok(())
}
