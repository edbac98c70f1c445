//! `ace-agent run`, `register`, `status` and `install-cli`.

use std::{
    io::{self, IsTerminal, Read},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::SystemTime,
};

use ace_policies::Secret;
use anyhow::{Context, bail};
use rand::RngExt;
use serde_json::Value;

use super::{EX_CONFIG, EX_NOPERM, EX_SOFTWARE, EX_TEMPFAIL, EX_UNAVAILABLE};
use crate::{
    config::{Config, ConfigFile, Environment, FILE},
    credentials::Credentials,
    daemon::{self, Failed, World},
    http::Http,
    lock::Lock,
    machine::Facts,
    millis,
    register::{RegisterError, register as register_with},
    sessions::Sessions,
    status::{Status, Transport},
};

#[derive(clap::Args)]
pub struct RegisterArgs {
    /// The server's address; plain http to this machine only.
    #[arg(long, env = "OPENACE_SERVER_URL", value_name = "URL")]
    server: Option<String>,
    /// The registration token; `-` or nothing reads it from standard input. Others on this machine can see what is typed here.
    #[arg(
        long,
        env = "OPENACE_REGISTRATION_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// What people call the machine.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The CLI that sessions here use unless they say otherwise.
    #[arg(long, value_name = "TOOL")]
    cli_tool: Option<String>,
    /// Certificates of a private authority, in PEM form; trusted instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<std::path::PathBuf>,
    /// SHA-256 of the server's certificate; no other is accepted.
    #[arg(long, value_name = "SHA256")]
    pin: Option<String>,
}

#[derive(clap::Args)]
pub struct StatusArgs {
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the agent and turns its end into an exit code: 77 and 78 mean that starting it again does not help.
pub fn run(dir: &Path, environment: &Environment, world: World) -> ExitCode {
    let Err(error) = daemon::run(dir, environment, world) else {
        return ExitCode::SUCCESS;
    };
    let code = match &error {
        Failed::Config(_) => EX_CONFIG,
        Failed::Credentials(_) | Failed::Unauthorized(_) | Failed::Unregistered => EX_NOPERM,
        Failed::Register(RegisterError::Token(_) | RegisterError::Refused { .. }) => EX_NOPERM,
        Failed::Register(_) => EX_UNAVAILABLE,
        Failed::Running(_) => EX_TEMPFAIL,
        Failed::Sessions(_) => EX_CONFIG,
        Failed::SessionsEnded | Failed::Io(_) => EX_SOFTWARE,
    };
    match tracing::dispatcher::has_been_set() {
        true => tracing::error!("{error}"),
        false => eprintln!("{error}"),
    }
    ExitCode::from(code)
}

/// Registers this machine, and stores where and as what.
pub fn register(dir: &Path, environment: &Environment, args: RegisterArgs) -> anyhow::Result<()> {
    let path = dir.join(FILE);
    let mut file = ConfigFile::read(&path)?;
    let token = registration_token(args.token.as_deref(), file.text("registration_token"))?;
    let given = [
        ("server_url", args.server.as_deref().map(Value::from)),
        ("machine_name", args.name.as_deref().map(Value::from)),
        ("cli_tool", args.cli_tool.as_deref().map(Value::from)),
        ("pin_sha256", args.pin.as_deref().map(Value::from)),
    ];
    for (key, value) in given.into_iter().filter(|(_, value)| value.is_some()) {
        file.set(key, value);
    }
    if let Some(ca_file) = &args.ca_file {
        let ca_file = std::path::absolute(ca_file)?;
        file.set("ca_file", Some(ca_file.display().to_string().into()));
    }
    // Another server gets a new token, and never sees the old one.
    for key in ["agent_token", "agent_token_next", "agent_token_origin"] {
        file.set(key, None);
    }
    let config = Config::new(dir, environment, &file)?;
    if config.server.proxy().is_some() {
        keep_proxy(&mut file, environment);
    }
    let _lock = Lock::take(dir)?.with_context(|| format!("an agent runs in {}: stop it first", dir.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut credentials = Credentials::unregistered(&config)?;
    let (http, facts, id) = (Http::new(&config.server)?, Facts::gather(), credentials.machine_id());
    let agent_token = runtime.block_on(register_with(&http, &token, id, &config.machine_name, &facts))?;
    // Only now: a failed registration leaves everything as it was.
    file.write()?;
    credentials.registered(agent_token)?;
    println!(
        "registered {} as machine {id} with {}",
        config.machine_name,
        config.server.name()
    );
    println!("next: ace-agent install-service, or ace-agent run");
    Ok(())
}

/// A service is not started from the shell that registers: it finds the proxy in the settings.
fn keep_proxy(file: &mut ConfigFile, environment: &Environment) {
    let proxy = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let exceptions = ["NO_PROXY", "no_proxy"];
    for (key, names) in [("https_proxy", &proxy[..]), ("no_proxy", &exceptions[..])] {
        if let Some(value) = names.iter().find_map(|name| environment.get(name)) {
            file.set(key, Some(value.into()));
        }
    }
}

fn registration_token(typed: Option<&str>, stored: Option<&str>) -> anyhow::Result<Secret> {
    if let Some(token) = typed
        .filter(|token| *token != "-")
        .or(stored.filter(|_| typed.is_none()))
    {
        return Ok(Secret::new(token.trim().to_owned()));
    }
    if io::stdin().is_terminal() {
        bail!("a registration token is needed: --token TOKEN, OPENACE_REGISTRATION_TOKEN, or on standard input");
    }
    let mut text = String::new();
    io::stdin().take(4096).read_to_string(&mut text)?;
    match text.trim() {
        "" => bail!("standard input has no registration token"),
        token => Ok(Secret::new(token.to_owned())),
    }
}

/// Tells how the running agent is. Exit code 1 where none runs or it is not connected.
pub fn status(dir: &Path, args: &StatusArgs, world: World) -> anyhow::Result<ExitCode> {
    let running = dir.is_dir() && Lock::is_held(dir);
    // One that has just started finds what the one before it wrote.
    let holder = Lock::holder(dir);
    let status = Status::read(dir).ok().filter(|status| holder == Some(status.pid));
    let connected = status.as_ref().and_then(|status| status.transport);
    match (args.json, &status) {
        (true, _) => println!("{}", serde_json::json!({ "running": running, "status": status })),
        (false, Some(status)) => tell(status, world),
        (false, None) if running => println!("the agent is starting"),
        (false, None) => println!(
            "no agent runs in {} (ace-agent run, or ace-agent install-service)",
            dir.display()
        ),
    }
    Ok(ExitCode::from(u8::from(connected.is_none())))
}

fn tell(status: &Status, world: World) {
    let since = (millis((world.clock)()) - status.since_ms).max(0) / 1000;
    let how = status
        .transport
        .as_ref()
        .map_or_else(|| "not connected".to_owned(), Transport::to_string);
    println!("agent      {} (pid {})", status.agent_version, status.pid);
    println!("machine    {}", status.machine_id);
    println!("server     {}", status.server_url);
    println!("connected  {how}, for {since} s");
    if let Some(problem) = &status.last_problem {
        println!("problem    {problem}");
    }
    if let Some(skew) = status.clock_skew_ms.filter(|skew| skew.abs() > 60_000) {
        println!("clock      {} s off the server's", skew / 1000);
    }
    println!("spool      {} lines, {} bytes", status.spool.lines, status.spool.bytes);
    println!("sessions   {}", status.sessions.len());
    for (session, state) in &status.sessions {
        println!("           {session} {state}");
    }
}

/// Installs a CLI that sessions can use.
pub fn install_cli(dir: &Path, environment: &Environment, tool: &str) -> anyhow::Result<()> {
    let config = Config::new(dir, environment, &ConfigFile::read(&dir.join(FILE))?)?;
    Sessions::new(Arc::new(config))?.install(tool)
}

/// The program's own clock and chance.
pub fn world() -> World {
    #[expect(clippy::disallowed_methods, reason = "the program's one clock")]
    fn clock() -> SystemTime {
        SystemTime::now()
    }
    #[expect(clippy::disallowed_methods, reason = "the program's one source of chance")]
    fn chance() -> f64 {
        rand::rng().random()
    }
    fn new_key() -> Secret {
        super::new_local_key()
    }
    World { clock, chance, new_key }
}
