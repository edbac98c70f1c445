//! The gateway as it is shipped: metering, request log and metrics on, one proxy thread.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::{
    load::Endpoint,
    process::{self, Running},
    target::PROVIDER_KEY,
};

/// The gateway has said where it listens by then.
const START_WITHIN: Duration = Duration::from_secs(30);

/// Builds the workspace's gateway as people run it, and says where it is.
pub fn build() -> anyhow::Result<PathBuf> {
    eprintln!("building ace-gateway with the release profile");
    let built = Command::new("cargo")
        .args(["build", "--release", "-p", "ace-gateway"])
        .status()
        .context("cargo")?;
    if !built.success() {
        bail!("the gateway does not build");
    }
    let beside = std::env::current_exe()?.with_file_name("ace-gateway");
    anyhow::ensure!(
        beside.exists(),
        "{} is not there: name it with --gateway-bin",
        beside.display()
    );
    Ok(beside)
}

pub fn version(executable: &Path) -> Option<String> {
    let output = Command::new(executable).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|text| !text.is_empty())
}

/// The line that `ace-gateway demo --json` prints when it is ready.
#[derive(Deserialize)]
struct Ready {
    url: String,
    proxy_tokens: Tokens,
}

#[derive(Deserialize)]
struct Tokens {
    openai: String,
}

pub fn start(executable: &Path, provider: SocketAddr, directory: &Path) -> anyhow::Result<(Endpoint, Running)> {
    let log = directory.join("gateway.log");
    let mut child = Command::new(executable)
        .args(["demo", "--port", "0", "--json", "--upstream"])
        .arg(format!("openai=http://{provider}/v1,{PROVIDER_KEY}"))
        .env("OPENACE_GATEWAY_THREADS", "1")
        .env("XDG_STATE_HOME", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&log)?)
        .spawn()
        .with_context(|| executable.display().to_string())?;
    let stdout = child.stdout.take().context("the gateway has no stdout")?;
    let mut running = Running::new("ace-gateway", child);
    let line = first_line(stdout);
    let until = Instant::now() + START_WITHIN;
    let ready = loop {
        anyhow::ensure!(
            Instant::now() < until,
            "the gateway does not say where it listens:\n{}",
            process::tail(&log)
        );
        match line.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => break line,
            Err(mpsc::RecvTimeoutError::Timeout) => running.check(&log)?,
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the gateway did not start:\n{}", process::tail(&log)),
        }
    };
    let ready: Ready = serde_json::from_str(&ready).with_context(|| format!("the gateway printed {ready:?}"))?;
    let address = ready
        .url
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()
        .context(ready.url)?;
    let endpoint = Endpoint {
        address,
        token: ready.proxy_tokens.openai,
        pid: Some(running.pid()),
    };
    Ok((endpoint, running))
}

/// Hands on the first line and reads the rest away, so that the process never waits on a full pipe.
fn first_line(stdout: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}
