//! `ace-gateway demo`: the whole product in front of a simulated provider, in a state directory that goes with it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ace_control_api::{App, FirstAdmin, NewProviderKey, TokenWish};
use ace_gateway::config::Settings;
use ace_policies::config::Flag;
use ace_policies::{Provider, Secret, UserId};
use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::serve::{Running, Shape};
use crate::signals::Signals;
use machine::Machine;

pub mod cli;
mod machine;
mod provider;

const ADMIN_PASSWORD: &str = "admin123";
/// The demo's proxy tokens live as long as anybody will let it run.
const TOKEN_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What the demo can be told.
#[derive(Args)]
pub struct DemoArgs {
    /// The public port; 0 takes a free one.
    #[arg(long, value_name = "N", default_value_t = 5000)]
    port: u16,
    /// Keep the state here instead of in a temporary directory.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// An own server instead of the simulated provider: openai, anthropic or google, its base URL, and its key if it has one.
    /// Loopback is allowed. May be given for each provider.
    #[arg(long, value_name = "PROVIDER=URL[,KEY]", value_parser = parse_upstream)]
    upstream: Vec<Own>,
    /// Print one line of JSON on standard output when ready.
    #[arg(long)]
    json: bool,
}

/// An own server.
#[derive(Clone)]
struct Own {
    provider: Provider,
    url: String,
    key: Option<String>,
}

fn parse_upstream(text: &str) -> Result<Own, String> {
    let (provider, rest) = text
        .split_once('=')
        .ok_or("expected PROVIDER=URL[,KEY], for instance openai=http://127.0.0.1:11434/v1")?;
    let provider = provider
        .parse()
        .map_err(|_| format!("unknown provider '{provider}'; use openai, anthropic or google"))?;
    let (url, key) = match rest.split_once(',') {
        Some((url, key)) => (url, Some(key.to_owned())),
        None => (rest, None),
    };
    let parsed = url::Url::parse(url).map_err(|error| format!("'{url}' is no URL: {error}"))?;
    match parsed.host_str() {
        Some(_) => Ok(Own {
            provider,
            url: url.to_owned(),
            key,
        }),
        None => Err(format!("'{url}' names no host")),
    }
}

/// Runs the demo until a signal ends it.
pub fn run(args: DemoArgs) -> Result<ExitCode, Failure> {
    let temporary;
    let state_dir = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => {
            temporary = TempDir::make()?;
            temporary.0.clone()
        }
    };
    let flag = |key: &str, value: String, flag: &str| -> Flag { (key.to_owned(), value, flag.to_owned()) };
    let mut flags = vec![
        flag("gateway.port", args.port.to_string(), "--port"),
        flag("gateway.bind", "loopback".to_owned(), "--bind"),
    ];
    flags.push(flag(
        "egress.allow",
        allowed_hosts(&args.upstream).join(","),
        "--upstream",
    ));
    // Its warnings are about a real installation's credentials.
    flags.push(flag("log.level", "error".to_owned(), "demo"));
    if args.port == 0 {
        flags.push(flag("metrics.listen", "127.0.0.1:0".to_owned(), "--port"));
    }
    let settings = Settings::read(None, Some(state_dir.clone()), &flags)?;
    crate::start_logging(&settings.config);
    crate::runtime()?.block_on(show(settings, args, state_dir))
}

/// The demo's providers are on loopback, and wherever the user says.
fn allowed_hosts(upstreams: &[Own]) -> Vec<String> {
    let named = upstreams
        .iter()
        .filter_map(|own| url::Url::parse(&own.url).ok()?.host_str().map(str::to_owned));
    ["127.0.0.0/8", "::1", "localhost"]
        .into_iter()
        .map(str::to_owned)
        .chain(named)
        .collect()
}

async fn show(settings: Settings, args: DemoArgs, state_dir: PathBuf) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    let simulated = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", simulated.local_addr()?);
    let keys = provider::Keys {
        openai: random_key("sk-demo"),
        anthropic: random_key("sk-ant-demo"),
        google: random_key("AIza-demo"),
    };
    let stored: Vec<_> = Provider::ALL
        .into_iter()
        .map(|provider| stored_key(provider, &args.upstream, &base, &keys))
        .collect();
    let shutdown = CancellationToken::new();
    let simulation = tokio::spawn(provider::serve(simulated, keys, shutdown.clone()));

    let first_admin = FirstAdmin {
        password: Some(Secret::new(ADMIN_PASSWORD.to_owned())),
    };
    let running = Running::start(
        settings,
        Shape {
            no_control_api: false,
            demo: true,
            upgrade: false,
        },
        first_admin,
    )
    .await?;
    let Some(app) = running.app.clone() else {
        return Err(Failure::Control("the demo runs with its control API".to_owned()));
    };
    for key in stored {
        app.store_provider_key(key)
            .await
            .map_err(|error| Failure::Control(error.to_string()))?;
    }
    let tokens = Tokens::issue(&app).await?;
    let machine = Machine::start(&app, &running.url(), &state_dir).await?;
    match args.json {
        true => println!("{}", tokens.ready_line(&running, &machine)),
        false => tokens.tour(&running.url(), running.metrics_url().as_deref(), &machine),
    }
    signals.next().await;
    machine.stop().await;
    drop(app);
    running.stop().await;
    shutdown.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(2), simulation).await;
    Ok(ExitCode::SUCCESS)
}

fn stored_key(provider: Provider, upstreams: &[Own], base: &str, keys: &provider::Keys) -> NewProviderKey {
    if let Some(own) = upstreams.iter().find(|own| own.provider == provider) {
        let key = own.key.clone().unwrap_or_else(|| "none".to_owned());
        return NewProviderKey::new(provider, "demo", Secret::new(key), Some(own.url.clone()));
    }
    let (key, url) = match provider {
        Provider::OpenAi => (&keys.openai, format!("{base}/v1")),
        Provider::Anthropic => (&keys.anthropic, base.to_owned()),
        Provider::Google => (&keys.google, base.to_owned()),
    };
    NewProviderKey::new(provider, "demo", Secret::new(key.clone()), Some(url))
}

fn random_key(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

/// A proxy token for each provider.
struct Tokens(Vec<(Provider, String)>);

impl Tokens {
    async fn issue(app: &App) -> Result<Self, Failure> {
        let mut tokens = Vec::new();
        for provider in Provider::ALL {
            let wish = TokenWish {
                user: UserId(1),
                session: None,
                provider: Some(provider),
                tool: "demo".to_owned(),
                ttl: TOKEN_LIFE,
            };
            let issued = app
                .issue_proxy_token(&wish)
                .await
                .map_err(|error| Failure::Control(error.to_string()))?;
            tokens.push((provider, issued.token));
        }
        Ok(Self(tokens))
    }

    fn of(&self, provider: Provider) -> &str {
        self.0
            .iter()
            .find(|(of, _)| *of == provider)
            .map_or("", |(_, token)| token)
    }

    fn ready_line(&self, running: &Running, machine: &Machine) -> serde_json::Value {
        serde_json::json!({
            "url": running.url(),
            "metrics_url": running.metrics_url(),
            "machine": {"machine_id": machine.id, "cli_tool": machine::CLI, "project_path": machine.project},
            "admin": {"username": "admin", "password": ADMIN_PASSWORD},
            "proxy_tokens": {
                "openai": self.of(Provider::OpenAi),
                "anthropic": self.of(Provider::Anthropic),
                "google": self.of(Provider::Google),
            },
        })
    }

    fn tour(&self, url: &str, metrics: Option<&str>, machine: &Machine) {
        println!("ACE Gateway demo on {url}");
        println!("A simulated provider stands behind it; nothing leaves this machine. Ctrl-C ends it.\n");
        println!("# 1. An LLM call with a proxy token instead of a key; the answer streams.");
        println!("curl -sN {url}/v1/chat/completions -H 'content-type: application/json' \\");
        println!("  -H 'authorization: Bearer {}' \\", self.of(Provider::OpenAi));
        println!(
            "  -d '{{\"model\":\"gpt-5.5\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Say hello\"}}]}}'\n"
        );
        println!("# 2. The same for Anthropic and Gemini.");
        println!("curl -s {url}/v1/messages -H 'content-type: application/json' -H 'anthropic-version: 2023-06-01' \\");
        println!("  -H 'x-api-key: {}' \\", self.of(Provider::Anthropic));
        println!(
            "  -d '{{\"model\":\"claude-opus-5-5\",\"max_tokens\":64,\"messages\":[{{\"role\":\"user\",\"content\":\"Say hello\"}}]}}'\n"
        );
        println!("curl -s {url}/v1beta/models/gemini-3-pro:generateContent -H 'content-type: application/json' \\");
        println!("  -H 'x-goog-api-key: {}' \\", self.of(Provider::Google));
        println!("  -d '{{\"contents\":[{{\"role\":\"user\",\"parts\":[{{\"text\":\"Say hello\"}}]}}]}}'\n");
        println!("# 3. Log in (admin / {ADMIN_PASSWORD}, which only the demo accepts) and see what was counted.");
        println!("curl -sf -c ace-demo-cookies.txt {url}/api/auth/login -H 'content-type: application/json' \\");
        println!("  -d '{{\"username\":\"admin\",\"password\":\"{ADMIN_PASSWORD}\"}}'\n");
        println!("curl -sf -b ace-demo-cookies.txt {url}/api/usage/requests\n");
        println!("# 4. A session on a machine: an agent runs here, with an AI CLI that needs no key.");
        println!(
            "SESSION=$(curl -sf -b ace-demo-cookies.txt {url}/api/remote/sessions -H 'content-type: application/json' \\"
        );
        println!(
            "  -d '{{\"machine_id\":\"{}\",\"project_path\":{:?},\"cli_tool\":\"{}\"}}' | sed 's/.*\"session_id\":\"\\([^\"]*\\).*/\\1/')\n",
            machine.id,
            machine.project,
            machine::CLI
        );
        println!(
            "curl -sf -b ace-demo-cookies.txt {url}/api/remote/sessions/$SESSION/chat -H 'content-type: application/json' \\"
        );
        println!("  -d '{{\"content\":\"Say hello\"}}'\n");
        println!("curl -sf -b ace-demo-cookies.txt {url}/api/remote/sessions/$SESSION\n");
        if let Some(metrics) = metrics {
            println!("# 5. Metrics for Prometheus.");
            println!("curl -sf {metrics}");
        }
    }
}

/// A directory that is removed at the end.
struct TempDir(PathBuf);

impl TempDir {
    fn make() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("ace-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
