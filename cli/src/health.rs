//! `acectl health`: is the gateway there (`/healthz`), and can it work (`/readyz`)?

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use ace_agent::transport::{GatewayUrl, TransportError};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::target::{self, Environment};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: target::Args,
    /// Give up after this long: `10`, `10s` or `500ms`.
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// One line of JSON on standard output, also for a failure.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum Unhealthy {
    #[error(transparent)]
    Address(#[from] TransportError),
    #[error("cannot reach the gateway at {url}: {reason}")]
    Transport { url: String, reason: String },
    #[error("the gateway at {url} has not answered within {after:?}")]
    Timeout { url: String, after: Duration },
    #[error("the gateway at {url} answers {path} with {status}: {body}")]
    Status {
        url: String,
        path: &'static str,
        status: StatusCode,
        body: String,
    },
}

/// Not healthy, and not allowed to ask: `EX_NOPERM` of sysexits.h.
const FAILED: u8 = 1;
const EX_NOPERM: u8 = 77;
/// Of an answer that says why something is wrong.
const MAX_BODY_BYTES: usize = 16 * 1024;

pub fn run(args: Args) -> ExitCode {
    let json = args.json;
    match check(args) {
        Ok((url, latency)) => {
            match json {
                true => println!(
                    "{}",
                    json!({ "ok": true, "url": url, "latency_ms": latency.as_millis() as u64 })
                ),
                false => println!("{url} is healthy and ready ({latency:.0?})"),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            if json {
                println!(
                    "{}",
                    json!({ "ok": false, "error": { "code": error.code(), "message": error.to_string() } })
                );
            }
            eprintln!("{error}");
            ExitCode::from(if matches!(error, Unhealthy::Address(_)) {
                EX_NOPERM
            } else {
                FAILED
            })
        }
    }
}

impl Unhealthy {
    fn code(&self) -> &'static str {
        match self {
            Self::Address(_) => "gateway_url_refused",
            Self::Transport { .. } => "gateway_transport_error",
            Self::Timeout { .. } => "ETIMEDOUT",
            Self::Status { status, .. } if *status == StatusCode::SERVICE_UNAVAILABLE => "gateway_not_ready",
            Self::Status { .. } => "gateway_unexpected_answer",
        }
    }
}

fn check(args: Args) -> Result<(String, Duration), Unhealthy> {
    let gateway = target::resolve(args.target, Environment::read())?;
    let url = gateway.url().as_str().trim_end_matches('/').to_owned();
    let transport = |error: std::io::Error| Unhealthy::Transport {
        url: url.clone(),
        reason: error.to_string(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(transport)?;
    let started = Instant::now();
    // The timer wants to be made inside the runtime.
    let asked = runtime.block_on(async { timeout(args.timeout, ask(&gateway, &url, args.timeout)).await });
    asked.map_err(|_| Unhealthy::Timeout {
        url: url.clone(),
        after: args.timeout,
    })??;
    Ok((url, started.elapsed()))
}

async fn ask(gateway: &GatewayUrl, url: &str, connect_timeout: Duration) -> Result<(), Unhealthy> {
    let transport = |error: &dyn std::error::Error| Unhealthy::Transport {
        url: url.to_owned(),
        reason: last_cause(error),
    };
    let connector = gateway.connector(connect_timeout).map_err(|error| transport(&error))?;
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
    for path in ["/healthz", "/readyz"] {
        let request = Request::get(format!("{url}{path}"))
            .body(Empty::new())
            .map_err(|error| transport(&error))?;
        let answer = client.request(request).await.map_err(|error| transport(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        if status != StatusCode::OK {
            return Err(Unhealthy::Status {
                url: url.to_owned(),
                path,
                status,
                body: shown(&body),
            });
        }
    }
    Ok(())
}

/// The body on one line, free of what could steer a terminal.
fn shown(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(json) => json.to_string(),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(2000)
        .collect()
}

fn last_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => last_cause(cause),
        None => error.to_string(),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let millis = text.strip_suffix("ms").map(|number| (number, 1));
    let (number, unit) = millis.unwrap_or_else(|| (text.strip_suffix('s').unwrap_or(text), 1000));
    let number: u64 = number
        .parse()
        .map_err(|_| "a number of seconds, or one with `s` or `ms`".to_owned())?;
    Ok(Duration::from_millis(number.saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("soon").is_err());
    }

    #[test]
    fn a_body_cannot_steer_the_terminal() {
        assert_eq!(shown(b"{\n \"status\": \"starting\" }"), r#"{"status":"starting"}"#);
        assert_eq!(shown(b"\x1b[2Jgone\r\n"), " [2Jgone  ");
    }
}
