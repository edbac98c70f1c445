//! What people type: `ace-agent run`, `register`, `status` and so on. Kept in the library, so that the gateway's executable can be
//! the agent as well.

mod agent;
mod clis;
mod doctor;
mod service;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::SystemTime,
};

use ace_policies::{
    id::{MachineId, SessionId},
    secret::Secret,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::{Parser, Subcommand};
use rand::Rng;
use tracing::level_filters::LevelFilter;

use crate::{
    config::{ConfigError, Environment, level_named},
    process::guard::{self, GuardArgs},
    register::RegisterError,
    relay::{Config, Limits, Relay, token_channel},
    token_file::TokenFile,
    transport::{BREAK_GLASS, GatewayUrl, Proxies, TransportError},
};

/// The agent of ACE Gateway on a remote machine.
#[derive(Parser)]
#[command(name = "ace-agent", version)]
pub struct Args {
    /// The agent's directory; ~/.open-ace-agent where nothing is said.
    #[arg(long, global = true, env = "OPENACE_AGENT_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Forward an AI CLI's requests to the gateway with the freshest proxy token of a file.
    Relay(RelayArgs),
    /// Run the agent: connect to the server and run the sessions it asks for.
    Run,
    /// Make this machine known to a server, with a one-time registration token.
    Register(agent::RegisterArgs),
    /// Tell how the running agent is.
    Status(agent::StatusArgs),
    /// Look for what could keep sessions from running here.
    Doctor(doctor::Args),
    /// Run the agent as a service: systemd, launchd, else a start script.
    InstallService(service::InstallArgs),
    /// Start the installed service.
    Start,
    /// End the running agent: the service's, or another in the directory.
    Stop,
    /// Stop the service, and remove it and the agent's directory.
    Uninstall,
    /// Install an AI CLI for sessions, such as qwen-code-cli or claude-code.
    InstallCli {
        /// The CLI's name.
        tool: String,
    },
    /// Show the AI CLIs of this machine.
    Clis,
    /// Runs a CLI for the agent, and ends with it.
    #[command(hide = true)]
    Guard(GuardArgs),
    /// Print the version.
    Version,
}

#[derive(clap::Args)]
struct RelayArgs {
    /// The gateway's address; plain http to this machine only.
    #[arg(long, env = "OPENACE_SERVER_URL", value_name = "URL")]
    gateway: String,
    /// Holds the proxy token, or the saved answer to `POST /api/proxy-tokens`. Read again when it changes; mode 0600.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Sent along as X-Ace-Session.
    #[arg(long, value_name = "UUID")]
    session: Option<SessionId>,
    /// Sent along as X-Ace-Machine.
    #[arg(long, env = "OPENACE_MACHINE_ID", value_name = "UUID")]
    machine: Option<MachineId>,
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Print one line of JSON instead of the settings for each CLI.
    #[arg(long)]
    json: bool,
}

/// Exit codes of sysexits.h: what the caller got wrong, what the system would not give, what was not allowed.
const EX_UNAVAILABLE: u8 = 69;
const EX_SOFTWARE: u8 = 70;
const EX_TEMPFAIL: u8 = 75;
const EX_NOPERM: u8 = 77;
const EX_CONFIG: u8 = 78;

/// Runs the command until it ends or is interrupted.
pub fn run(args: Args) -> ExitCode {
    let environment = Environment::of_process();
    let dir = environment.dir(args.dir.as_deref());
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    let world = agent::world();
    let result = match args.command {
        Command::Relay(args) => {
            log_to_stderr(&environment);
            done(relay(args, &environment))
        }
        // It logs where and what its settings say.
        Command::Run => return agent::run(&dir, &environment, world),
        Command::Register(args) => {
            log_to_stderr(&environment);
            done(agent::register(&dir, &environment, args))
        }
        Command::Status(args) => agent::status(&dir, &args, world),
        Command::Doctor(args) => doctor::run(&dir, &environment, &args, world),
        Command::InstallService(args) => done(service::install(&dir, &environment, &args)),
        Command::Start => done(service::start(&dir, &environment)),
        Command::Stop => done(service::stop(&dir, &environment)),
        Command::Uninstall => done(service::uninstall(&dir, &environment)),
        Command::InstallCli { tool } => done(agent::install_cli(&dir, &environment, &tool)),
        Command::Clis => done(clis::list(&dir, &environment)),
        // It logs on its standard error, which is the agent's to read.
        Command::Guard(args) => return guard::run(&args),
        Command::Version => {
            println!("ace-agent {}", crate::VERSION);
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::from(exit_code(&error))
    })
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() {
        EX_CONFIG
    } else if error.is::<TransportError>() || matches!(error.downcast_ref(), Some(RegisterError::Token(_))) {
        EX_NOPERM
    } else {
        EX_UNAVAILABLE
    }
}

fn log_to_stderr(environment: &Environment) {
    let level = environment.get("OPENACE_LOG_LEVEL").and_then(level_named);
    // Fails where somebody logs already: that is as good.
    drop(crate::log::init(level.unwrap_or(LevelFilter::INFO), None));
}

fn relay(args: RelayArgs, environment: &Environment) -> anyhow::Result<()> {
    let proxies = Proxies::from_lookup(|name| environment.get(name).map(str::to_owned));
    let glass = environment.break_glass();
    let gateway = GatewayUrl::parse(&args.gateway, "--gateway or OPENACE_SERVER_URL", glass)?.through(&proxies)?;
    if gateway.is_break_glass() {
        eprintln!(
            "warning: {BREAK_GLASS}=1: the proxy token goes to {} in plaintext",
            gateway.url()
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run_relay(gateway, args))
}

async fn run_relay(gateway: GatewayUrl, args: RelayArgs) -> anyhow::Result<()> {
    let (feed, tokens) = token_channel();
    let file = TokenFile::open(&args.token_file, &feed, now)?;
    let local_key = new_local_key();
    let shown_key = local_key.expose().to_owned();
    let (session, machine, limits) = (args.session, args.machine, Limits::default());
    let relay = Relay::start(Config {
        gateway,
        local_key,
        tokens,
        session,
        machine,
        port: args.port,
        limits,
    })
    .await?;
    announce(&relay.base_url(), &shown_key, args.json)?;
    tokio::select! {
        () = file.follow(&feed) => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}

fn announce(url: &str, key: &str, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::json!({ "url": url, "local_key": key }))?;
    } else {
        writeln!(out, "# Good on this machine, for as long as this relay runs.")?;
        writeln!(out, "export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY={key}")?;
        writeln!(out, "export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key}")?;
        writeln!(out, "export GOOGLE_GEMINI_BASE_URL={url} GEMINI_API_KEY={key}")?;
    }
    out.flush()
}

#[expect(clippy::disallowed_methods, reason = "the program's one source of chance")]
fn new_local_key() -> Secret {
    let mut random = [0; 32];
    rand::rng().fill_bytes(&mut random);
    Secret::new(format!("acel_{}", URL_SAFE_NO_PAD.encode(random)))
}

#[expect(clippy::disallowed_methods, reason = "the program's one clock")]
fn now() -> SystemTime {
    SystemTime::now()
}
