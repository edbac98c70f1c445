//! The yardstick: nginx with one worker, keep-alive to the provider, no buffering, swapping one header.

use std::{
    fs::File,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    load::Endpoint,
    process::{self, Running},
    target::{PROVIDER_KEY, free_address},
};

/// nginx listens by then.
const START_WITHIN: Duration = Duration::from_secs(5);
const INSTALL: [&str; 3] = ["install", "-y", "nginx-light"];

/// Installs nginx-light with apt where nginx is missing and that is possible.
pub fn ensure_installed() -> anyhow::Result<()> {
    if version().is_some() {
        return Ok(());
    }
    eprintln!("nginx is missing: apt-get {}", INSTALL.join(" "));
    let done = Command::new("apt-get").args(INSTALL).stdout(Stdio::null()).status();
    if !done.is_ok_and(|status| status.success()) || version().is_none() {
        bail!("nginx cannot be installed here; install it, or measure without it: --targets direct,gateway");
    }
    Ok(())
}

pub fn version() -> Option<String> {
    let output = Command::new("nginx").arg("-v").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Some(text.strip_prefix("nginx version: ").unwrap_or(&text).to_owned())
}

pub fn start(provider: SocketAddr, directory: &Path) -> anyhow::Result<(Endpoint, Running)> {
    let address = free_address()?;
    let (config, log) = (directory.join("nginx.conf"), directory.join("error.log"));
    std::fs::write(&config, configuration(address, provider))?;
    let child = Command::new("nginx")
        .arg("-p")
        .arg(directory)
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(File::create(directory.join("stderr.log"))?)
        .spawn()
        .context("nginx")?;
    let mut running = Running::new("nginx", child);
    let until = Instant::now() + START_WITHIN;
    while TcpStream::connect(address).is_err() {
        running.check(&log)?;
        if Instant::now() > until {
            bail!("nginx does not listen:\n{}", process::tail(&log));
        }
        process::pause(Duration::from_millis(20));
    }
    let endpoint = Endpoint {
        address,
        token: "a-token-that-is-replaced".to_owned(),
        pid: Some(running.pid()),
    };
    Ok((endpoint, running))
}

/// One process is the worker: its CPU time and memory are all that nginx uses.
fn configuration(listen: SocketAddr, provider: SocketAddr) -> String {
    format!(
        r#"
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 60000;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 24000; }}
http {{
    access_log off;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream provider {{
        server {provider};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen} backlog=4096;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer {PROVIDER_KEY}";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"#
    )
}
