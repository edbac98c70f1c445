//! What people type: `ace-agent relay`. Kept in the library, so that the gateway's executable can be the agent as well.

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

use crate::{
    relay::{Config, Limits, Relay, token_channel},
    token_file::TokenFile,
    transport::{BREAK_GLASS, BreakGlass, GatewayUrl, TransportError},
};

/// The agent of ACE Gateway on a remote machine.
#[derive(Parser)]
#[command(name = "ace-agent", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Forward an AI CLI's requests to the gateway with the freshest proxy token of a file.
    Relay(RelayArgs),
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
const EX_NOPERM: u8 = 77;

/// Runs the command until it ends or is interrupted.
pub fn run(args: Args) -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(log_filter())
        .init();
    let Command::Relay(args) = args.command;
    match relay(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(if error.is::<TransportError>() {
                EX_NOPERM
            } else {
                EX_UNAVAILABLE
            })
        }
    }
}

fn relay(args: RelayArgs) -> anyhow::Result<()> {
    let gateway = GatewayUrl::parse(&args.gateway, "--gateway or OPENACE_SERVER_URL", break_glass())?;
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

#[expect(
    clippy::disallowed_methods,
    reason = "the process environment alone opens it, never a config file"
)]
fn break_glass() -> BreakGlass {
    BreakGlass::from_env_value(std::env::var(BREAK_GLASS).ok().as_deref())
}

/// `OPENACE_LOG_LEVEL` is for our own words; those of libraries could tell more than they should.
#[expect(clippy::disallowed_methods, reason = "read once, before anything else starts")]
fn log_filter() -> tracing_subscriber::EnvFilter {
    let level = std::env::var("OPENACE_LOG_LEVEL")
        .ok()
        .and_then(|level| level.trim().parse().ok());
    let level = level.unwrap_or(tracing::level_filters::LevelFilter::INFO);
    tracing_subscriber::EnvFilter::new(format!("warn,ace_agent={level}"))
}
