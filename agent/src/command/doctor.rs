//! `ace-agent doctor`: everything between this machine and a session, one line each, and the way out where something is wrong.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use serde_json::json;
use time::{OffsetDateTime, PrimitiveDateTime, macros::format_description};

use super::EX_CONFIG;
use crate::{
    config::{Config, ConfigFile, Environment, FILE},
    control,
    credentials::Credentials,
    daemon::World,
    http::{Answer, CONNECT_PATIENCE, Http},
    sessions::Sessions,
    transport::Step,
};

#[derive(clap::Args)]
pub struct Args {
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

/// What one look has found.
#[derive(Serialize, Debug)]
struct Check {
    name: &'static str,
    level: Level,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

const PATIENCE: Duration = Duration::from_secs(15);
/// Tokens last minutes.
const MAX_SKEW_S: i64 = 60;
/// Below this the spool may not take what the sessions print.
const LITTLE_SPACE: u64 = 1 << 30;
const NO_SPACE: u64 = 64 << 20;

/// Looks at everything. Exit code 1 where something has failed, 78 where the settings cannot be read.
pub fn run(dir: &Path, environment: &Environment, args: &Args, world: World) -> anyhow::Result<ExitCode> {
    let file = ConfigFile::read(&dir.join(FILE)).and_then(|file| Ok((Config::new(dir, environment, &file)?, file)));
    let (config, file) = match file {
        Ok(found) => found,
        Err(error) => {
            show(&[Check::fail("config", error.to_string())], args.json)?;
            return Ok(ExitCode::from(EX_CONFIG));
        }
    };
    let config = Arc::new(config);
    let mut checks = vec![settings(dir, &config, &file), disk(dir)];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        checks.extend(network(&config, world).await);
        checks.extend(clis(config).await);
    });
    show(&checks, args.json)?;
    let failed = checks.iter().any(|check| check.level == Level::Fail);
    Ok(ExitCode::from(u8::from(failed)))
}

impl Check {
    fn new(name: &'static str, level: Level, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { name, level, text }
    }

    fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Level::Ok, text)
    }

    fn warn(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Level::Warn, text)
    }

    fn fail(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Level::Fail, text)
    }
}

fn show(checks: &[Check], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let ok = checks.iter().all(|check| check.level != Level::Fail);
        return writeln!(out, "{}", json!({ "ok": ok, "checks": checks }));
    }
    for Check { name, level, text } in checks {
        let level = match level {
            Level::Ok => "ok  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        writeln!(out, "{level}  {name:<9}  {text}")?;
    }
    out.flush()
}

fn settings(dir: &Path, config: &Config, file: &ConfigFile) -> Check {
    let path = dir.join(FILE);
    #[cfg(unix)]
    if let Ok(metadata) = std::fs::metadata(&path) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
        if mode & 0o077 != 0 {
            let path = path.display();
            return Check::warn(
                "config",
                format!("{path} can be read by others (mode {mode:04o}): chmod 600 {path}"),
            );
        }
    }
    match file.unknown_keys().as_slice() {
        [] => Check::ok("config", format!("{} for {}", path.display(), config.server.name())),
        unknown => Check::warn("config", format!("keys that mean nothing: {}", unknown.join(", "))),
    }
}

#[cfg(unix)]
fn disk(dir: &Path) -> Check {
    let dir = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    let free = match rustix::fs::statvfs(dir) {
        Ok(stat) => stat.f_bavail * stat.f_frsize,
        Err(error) => return Check::fail("disk", format!("{}: {error}", dir.display())),
    };
    let text = format!("{} MiB free in {}", free >> 20, dir.display());
    match free {
        NO_SPACE.. if free >= LITTLE_SPACE => Check::ok("disk", text),
        NO_SPACE.. => Check::warn("disk", text),
        _ => Check::fail("disk", format!("{text}: sessions' output has no place; make some")),
    }
}

#[cfg(not(unix))]
fn disk(dir: &Path) -> Check {
    Check::ok(
        "disk",
        format!("{} (space is not looked at on this system)", dir.display()),
    )
}

/// DNS, TCP, a proxy, TLS; then HTTP, the clock, and last the credentials on the connection that the agent itself uses.
async fn network(config: &Config, world: World) -> Vec<Check> {
    let mut checks = Vec::new();
    let name = config.server.name();
    if let Some(proxy) = config.server.proxy() {
        checks.push(Check::ok("proxy", format!("through {proxy}")));
    }
    if let Err(error) = config.server.dial(CONNECT_PATIENCE).await {
        checks.push(Check::fail(step_name(error.step), error.to_string()));
        return checks;
    }
    checks.push(Check::ok("network", format!("DNS, TCP and TLS to {name}")));
    match Http::new(&config.server) {
        Ok(http) => match http.get("healthz", None, PATIENCE).await {
            Ok(answer) => checks.extend([healthy(&answer), clock(&answer, world)]),
            Err(error) => checks.push(Check::fail("http", error.to_string())),
        },
        Err(error) => checks.push(Check::fail("http", error.to_string())),
    }
    checks.push(authorised(config).await);
    checks
}

const fn step_name(step: Step) -> &'static str {
    match step {
        Step::Dns => "dns",
        Step::Tcp => "tcp",
        Step::Proxy => "proxy",
        Step::Tls => "tls",
    }
}

fn healthy(answer: &Answer) -> Check {
    match answer.status.is_success() {
        true => Check::ok("http", format!("{} answers", answer.url)),
        false => Check::warn(
            "http",
            format!(
                "{} answers {}: is this the gateway's address?",
                answer.url, answer.status
            ),
        ),
    }
}

fn clock(answer: &Answer, world: World) -> Check {
    let server = answer.date.as_deref().and_then(parse_date);
    let Some(server) = server else {
        return Check::warn("clock", "the server does not tell its time");
    };
    let skew = (server - OffsetDateTime::from((world.clock)())).whole_seconds();
    match skew.abs() <= MAX_SKEW_S {
        true => Check::ok("clock", format!("{skew} s from the server's")),
        false => Check::fail("clock", format!("{skew} s from the server's: set it by NTP")),
    }
}

/// As HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_date(text: &str) -> Option<OffsetDateTime> {
    let format =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    PrimitiveDateTime::parse(text, &format)
        .ok()
        .map(PrimitiveDateTime::assume_utc)
}

async fn authorised(config: &Config) -> Check {
    let credentials = match Credentials::open(config) {
        Ok(credentials) => credentials,
        Err(error) => return Check::fail("auth", error.to_string()),
    };
    let Some(token) = credentials.token() else {
        let text = match config.registration_token {
            Some(_) => return Check::warn("auth", "not registered yet: the agent does it when it runs"),
            None => "this machine is not registered: ace-agent register --server URL --token TOKEN",
        };
        return Check::fail("auth", text);
    };
    match control::try_out(config, token).await {
        Ok(()) => Check::ok("auth", "the agent token is good, and WebSockets get through"),
        Err(lost) if lost.is_unauthorized() => Check::fail("auth", lost.to_string()),
        Err(lost) => Check::warn(
            "auth",
            format!("WebSockets do not get through (HTTP polling will be used): {lost}"),
        ),
    }
}

async fn clis(config: Arc<Config>) -> Vec<Check> {
    let sessions = match Sessions::new(config) {
        Ok(sessions) => sessions,
        Err(error) => return vec![Check::new("cli", Level::Fail, error.to_string())],
    };
    let cli_tool = sessions.cli_tool();
    let found = sessions.clis().await;
    let installed: Vec<_> = found.iter().filter(|cli| cli.installed).collect();
    if installed.is_empty() {
        let text = format!("no AI CLI is installed: ace-agent install-cli {cli_tool}");
        return vec![Check::warn("cli", text)];
    }
    let version = |cli: &ace_policies::wire::Cli| cli.version.clone().unwrap_or_else(|| "version unknown".to_owned());
    let tell = |cli: &&ace_policies::wire::Cli| Check::ok("cli", format!("{} {}", cli.id, version(cli)));
    installed.iter().map(tell).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::StatusCode;

    use super::*;

    #[test]
    fn a_wrong_clock_is_told() {
        fn now() -> SystemTime {
            SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
        }
        let check = |date: &str| {
            let answer = Answer {
                url: "u".to_owned(),
                status: StatusCode::OK,
                retry_after: None,
                date: Some(date.to_owned()),
                body: bytes::Bytes::new(),
            };
            let world = World {
                clock: now,
                chance: || 0.5,
                new_key: || ace_policies::Secret::new(String::new()),
            };
            clock(&answer, world).level
        };
        assert_eq!(check("Sun, 06 Nov 1994 08:49:37 GMT"), Level::Ok);
        assert_eq!(check("Sun, 06 Nov 1994 08:51:37 GMT"), Level::Fail);
        assert_eq!(check("yesterday"), Level::Warn);
    }
}
