//! `ace-control`: the control plane as a program of its own, and what an operator does to it from a shell.

mod ledger_command;
mod settings;

use std::fs::DirBuilder;
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;

use ace_control_api::{App, Bootstrap, Clock, FirstAdmin, Listener, OpenError, bootstrap, rewrap, serve};
use ace_migrations::Db;
use ace_policies::config::{ConfigError, LogFormat};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use settings::{Settings, SettingsError};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The control plane of ACE Gateway.
#[derive(Parser)]
#[command(name = "ace-control", version)]
struct CommandLine {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Places {
    /// The configuration file.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// Where state is kept: the SQLite file, the generated encryption key, the socket.
    #[arg(long, global = true)]
    state_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the control API, on `control.listen` or on a Unix socket in the state directory.
    Serve,
    /// Brings the database up to date.
    Migrate {
        /// Only says whether it is; the exit code is 1 when it is not.
        #[arg(long)]
        check: bool,
    },
    /// Seals all secrets anew with OPENACE_ENCRYPTION_KEY; the key before it is OPENACE_ENCRYPTION_KEY_PREVIOUS.
    Rewrap,
    /// Makes a new key that signs proxy tokens.
    RotateSigningKey,
    /// Looks at the audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Looks after the request ledger and its sums.
    #[command(subcommand)]
    Ledger(ledger_command::LedgerCommand),
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Checks that no entry was changed or is missing.
    Verify,
}

fn main() -> ExitCode {
    let CommandLine { places, command } = CommandLine::parse();
    match run(places, command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ace-control: {}", told(&error));
            exit_code(&error)
        }
    }
}

/// The error and its causes, each said once: some texts have their cause in them already.
fn told(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// 78 (EX_CONFIG) where only a change of settings helps, so that a service manager does not try again.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let settings =
        error.is::<SettingsError>() || matches!(error.downcast_ref(), Some(OpenError::UnknownMasterKey { .. }));
    if settings {
        ExitCode::from(ConfigError::EXIT_CODE)
    } else {
        ExitCode::FAILURE
    }
}

#[tokio::main]
async fn run(places: Places, command: Command) -> anyhow::Result<ExitCode> {
    let settings = Settings::read(places.config, places.state_dir)?;
    start_log(&settings);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&settings.state_dir)
        .context("the state directory")?;
    let db = ace_migrations::open(settings.database_url()?.expose(), &settings.database_options()).await?;
    let done = match command {
        Command::Serve => serve_until_told(&settings, &db).await,
        Command::Migrate { check: true } => check(&db).await,
        Command::Migrate { check: false } => migrate(&db).await,
        Command::Rewrap => rewrap_all(&open(&settings, &db).await?).await,
        Command::RotateSigningKey => rotate(&open(&settings, &db).await?).await,
        Command::Audit(AuditCommand::Verify) => verify(&open(&settings, &db).await?).await,
        Command::Ledger(command) => ledger_command::run(&open(&settings, &db).await?, command).await,
    };
    db.close().await;
    done
}

/// Opens what an earlier start has set up.
async fn open(settings: &Settings, db: &Db) -> anyhow::Result<App> {
    if !ace_migrations::check(db).await?.0.is_empty() {
        anyhow::bail!("the database is not up to date; run `ace-control migrate` first");
    }
    let keys = settings.master_keys(db.engine)?;
    Ok(App::open(db.clone(), &keys, settings.control()?, Clock::System).await?)
}

async fn serve_until_told(settings: &Settings, db: &Db) -> anyhow::Result<ExitCode> {
    // Nothing is touched before it is clear that the settings will do.
    let (keys, control) = (settings.master_keys(db.engine)?, settings.control()?);
    migrate(db).await?;
    let app = App::open(db.clone(), &keys, control, Clock::System).await?;
    announce(
        &bootstrap(
            &app,
            FirstAdmin {
                password: settings.admin_password(),
            },
        )
        .await?,
    );
    let listener = listen(settings).await?;
    let shutdown = CancellationToken::new();
    stop_on_signal(shutdown.clone())?;
    serve(app, listener, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

async fn listen(settings: &Settings) -> anyhow::Result<Listener> {
    let address = &settings.config.control.listen;
    if address.is_empty() {
        let path = settings.state_dir.join("control.sock");
        let listener = Listener::unix(&path).with_context(|| path.display().to_string())?;
        println!("listening on {}", path.display());
        return Ok(listener);
    }
    let listener = Listener::tcp(address)
        .await
        .with_context(|| format!("control.listen: {address}"))?;
    if let Some(address) = listener.address() {
        println!("listening on {address}");
    }
    Ok(listener)
}

/// The only time that the password is shown.
fn announce(bootstrap: &Bootstrap) {
    if let Some(password) = &bootstrap.admin_password {
        println!("first start: log in as admin with password {}", password.expose());
        println!("it must be changed at the first login");
    }
}

fn stop_on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

async fn migrate(db: &Db) -> anyhow::Result<ExitCode> {
    for (version, description) in ace_migrations::migrate(db).await?.0 {
        println!("migrated to schema version {version}: {description}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(db: &Db) -> anyhow::Result<ExitCode> {
    let pending = ace_migrations::check(db).await?.0;
    for (version, description) in &pending {
        println!("pending: schema version {version}: {description}");
    }
    if pending.is_empty() {
        println!("the database is up to date");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

async fn rewrap_all(app: &App) -> anyhow::Result<ExitCode> {
    let count = rewrap(app).await?;
    println!("{count} secrets were sealed anew; all are under the current master key now");
    Ok(ExitCode::SUCCESS)
}

async fn rotate(app: &App) -> anyhow::Result<ExitCode> {
    println!("new signing key {}", app.rotate_signing_key().await?);
    Ok(ExitCode::SUCCESS)
}

async fn verify(app: &App) -> anyhow::Result<ExitCode> {
    let verified = app.verify_audit().await?;
    println!(
        "{} entries, none changed and none missing; the last has the hash {}",
        verified.entries, verified.head
    );
    Ok(ExitCode::SUCCESS)
}

fn start_log(settings: &Settings) {
    let level = settings.config.log.level.as_str();
    // Libraries say what they were given; only what goes wrong in them is for this log.
    let filter = format!("warn,ace_control={level},ace_control_api={level},ace_migrations={level}");
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match settings.config.log.format {
        LogFormat::Json => log.json().init(),
        LogFormat::Pretty => log.init(),
    }
}
