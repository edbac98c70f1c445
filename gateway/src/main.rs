//! `ace-gateway`: the whole product in one executable. It serves, shows itself (`demo`), and is the agent where it is called so.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use ace_gateway::config::Settings;
use ace_policies::config::{Config, Flag, LogFormat};
use clap::{Args, Parser, Subcommand};

mod credentials;
mod demo;
mod failure;
mod inside;
mod serve;
mod signals;

use failure::Failure;

/// An edge gateway for AI coding tools: LLM calls without API keys on the machines that make them.
#[derive(Parser)]
#[command(name = "ace-gateway", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default).
    Serve(Box<ServeArgs>),
    /// Show the gateway in front of a simulated provider: no key, no set-up, nothing is kept.
    Demo(demo::DemoArgs),
    /// Check the configuration and the price table; print the effective configuration, secrets masked.
    CheckConfig(SourceArgs),
    /// Bring the database up to date.
    Migrate {
        /// Only say what is missing; exit code 1 if something is.
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        source: SourceArgs,
    },
    /// The AI CLI of the demo's machine.
    #[command(hide = true, disable_help_flag = true, disable_version_flag = true)]
    DemoCli {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Be the agent of a remote machine.
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Agent {
        /// What `ace-agent` takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Where the configuration comes from.
#[derive(Args, Clone)]
struct SourceArgs {
    /// The configuration file [env: OPENACE_CONFIG] [default: gateway.toml in the state directory, then /etc/ace-gateway/gateway.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where database, keys and sockets are kept [env: OPENACE_STATE_DIR] [default: ~/.local/state/ace-gateway]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

#[derive(Args, Clone)]
struct ServeArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Which addresses to listen on: loopback, lan, tailnet, custom or auto [env: OPENACE_GATEWAY_BIND]
    #[arg(long, value_name = "MODE")]
    bind: Option<String>,
    /// The public port; 0 takes a free one [env: OPENACE_GATEWAY_PORT] [default: 5000]
    #[arg(long, value_name = "N")]
    port: Option<String>,
    /// Serve the data plane only; the control API runs on the nodes of `control.upstreams`.
    #[arg(long)]
    no_control_api: bool,
    /// Take the listening sockets over from the running gateway, which then gets SIGQUIT and ends when it is idle.
    #[arg(long)]
    upgrade: bool,
    /// Print one line of JSON on standard output when ready.
    #[arg(long)]
    json: bool,
}

impl ServeArgs {
    fn flags(&self) -> Vec<Flag> {
        let flag =
            |key: &str, value: &Option<String>, flag: &str| Some((key.to_owned(), value.clone()?, flag.to_owned()));
        [
            flag("gateway.bind", &self.bind, "--bind"),
            flag("gateway.port", &self.port, "--port"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn main() -> ExitCode {
    // One crypto provider for everything that speaks TLS here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if called_as_agent() {
        return agent(std::env::args().collect());
    }
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(failure) => failure.tell(),
    }
}

fn agent(args: Vec<String>) -> ExitCode {
    ace_agent::command::run(ace_agent::command::Args::parse_from(args))
}

fn called_as_agent() -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|name| PathBuf::from(name).file_name().is_some_and(|name| name == "ace-agent"))
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command.unwrap_or_else(|| Command::Serve(Box::new(cli.serve))) {
        Command::Serve(args) => {
            let settings = Settings::read(args.source.config.clone(), args.source.state_dir.clone(), &args.flags())?;
            start_logging(&settings.config);
            let shape = serve::Shape {
                no_control_api: args.no_control_api,
                demo: false,
                upgrade: args.upgrade,
            };
            runtime()?.block_on(serve::serve(settings, shape, args.json))
        }
        Command::Demo(args) => demo::run(args),
        Command::CheckConfig(source) => {
            let settings = Settings::read(source.config, source.state_dir, &[])?;
            ace_gateway::prices::read(&settings.config)?;
            print!("{}", settings.config.to_toml_masked());
            Ok(ExitCode::SUCCESS)
        }
        Command::Migrate { check, source } => {
            let settings = Settings::read(source.config, source.state_dir, &[])?;
            start_logging(&settings.config);
            runtime()?.block_on(serve::migrate(&settings, check))
        }
        Command::DemoCli { args } => Ok(demo::cli::run(&args)),
        Command::Agent { args } => Ok(agent(std::iter::once("ace-agent".to_owned()).chain(args).collect())),
    }
}

/// The runtime of everything but the hot path: control API, snapshot, ledger, metrics.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()?)
}

/// Logs to standard error, so that standard output is free for what people ask for.
fn start_logging(config: &Config) {
    // Pingora logs clients' hang-ups as errors; its own words are of use in debugging only.
    let filter = format!(
        "{},pingora_core=off,pingora_timeout=off,pingora_rustls=off,h2=warn,sqlx=warn",
        config.log.level.as_str()
    );
    let builder = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match config.log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Pretty => builder.with_target(false).try_init(),
    };
    if let Err(error) = started {
        eprintln!("ace-gateway: logging cannot be started: {error}");
    }
}
