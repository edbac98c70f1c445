//! Which gateway a command is about: --url, else --port on this machine, else the environment, else this machine.

use ace_agent::transport::{BREAK_GLASS, BreakGlass, GatewayUrl, TransportError};

/// The gateway's port where nothing says otherwise.
const DEFAULT_PORT: u16 = 5000;

#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// The gateway's address. Plain http:// or ws:// to this machine only.
    #[arg(long, conflicts_with = "port")]
    url: Option<String>,
    /// A gateway on this machine; beats OPENACE_GATEWAY_URL and OPENACE_GATEWAY_PORT.
    #[arg(long)]
    port: Option<u16>,
}

/// What the environment says, read once.
#[derive(Default)]
pub struct Environment {
    url: Option<String>,
    port: Option<String>,
    break_glass: Option<String>,
}

impl Environment {
    #[expect(clippy::disallowed_methods, reason = "read once, and handed on as a value")]
    pub fn read() -> Self {
        let read = |name| {
            std::env::var(name)
                .ok()
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        Self {
            url: read("OPENACE_GATEWAY_URL"),
            port: read("OPENACE_GATEWAY_PORT"),
            break_glass: read(BREAK_GLASS),
        }
    }
}

pub fn resolve(args: Args, environment: Environment) -> Result<GatewayUrl, TransportError> {
    let local = |port: &str| format!("http://127.0.0.1:{port}");
    let (url, origin) = match (args.url, args.port, environment.url, environment.port) {
        (Some(url), ..) => (url, "--url"),
        (_, Some(port), ..) => (local(&port.to_string()), "--port"),
        (_, _, Some(url), _) => (url, "OPENACE_GATEWAY_URL"),
        (_, _, _, Some(port)) => (local(&port), "OPENACE_GATEWAY_PORT"),
        _ => (local(&DEFAULT_PORT.to_string()), "the default"),
    };
    GatewayUrl::parse(
        &url,
        origin,
        BreakGlass::from_env_value(environment.break_glass.as_deref()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn goes_to(url: Option<&str>, port: Option<u16>, env_url: Option<&str>, env_port: Option<&str>, want: &str) {
        let text = |value: Option<&str>| value.map(str::to_owned);
        let environment = Environment {
            url: text(env_url),
            port: text(env_port),
            break_glass: None,
        };
        let resolved = resolve(Args { url: text(url), port }, environment).unwrap();
        assert_eq!(resolved.url().as_str(), want);
    }

    #[test]
    fn the_nearest_source_wins() {
        goes_to(None, None, None, None, "http://127.0.0.1:5000/");
        goes_to(None, None, None, Some("6000"), "http://127.0.0.1:6000/");
        goes_to(
            None,
            None,
            Some("wss://ace.example.com"),
            Some("6000"),
            "https://ace.example.com/",
        );
        goes_to(
            None,
            Some(7000),
            Some("wss://ace.example.com"),
            None,
            "http://127.0.0.1:7000/",
        );
        goes_to(
            Some("https://other.example"),
            None,
            Some("wss://ace.example.com"),
            None,
            "https://other.example/",
        );
    }

    #[test]
    fn plaintext_to_another_machine_is_refused_wherever_it_was_named() {
        let environment = Environment {
            url: Some("http://8.8.8.8".to_owned()),
            ..Environment::default()
        };
        let error = resolve(Args { url: None, port: None }, environment).unwrap_err();
        assert!(error.to_string().contains("Source: OPENACE_GATEWAY_URL"));
    }
}
