//! What the control plane is told when it starts: limits and rules, no secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ace_policies::bind::BindMode;
use ace_policies::config::{Config, Notify};
use ace_policies::quota::{Calendar, UnknownTimeZone};
use ace_policies::ssrf::{EgressAllow, EgressError};

/// The settings of the control plane.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Failed logins of one account from one address within `login_window`; one more and it is locked out.
    pub login_max_failures: u32,
    pub login_window: Duration,
    /// How long a lock-out lasts.
    pub login_lock: Duration,
    /// How long a login lasts.
    pub login_ttl: Duration,
    /// How long a proxy token lasts when nothing is said.
    pub token_ttl: Duration,
    /// The longest life of a proxy token that may be asked for.
    pub token_ttl_max: Duration,
    /// The longest life of the proxy token of a session whose agent cannot renew it.
    pub long_token_ttl: Duration,
    /// How often agents say that they are there.
    pub heartbeat_interval: Duration,
    /// By which days and months of limits and sums begin.
    pub calendar: Calendar,
    /// Private hosts and networks that a provider key's base URL may name.
    pub egress: EgressAllow,
    /// Certificates to trust besides the system's when a provider key is tried out, in PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// The price table; `None` is the built-in one.
    pub price_file: Option<PathBuf>,
    /// Names of models that clients may ask for, and what they stand for.
    pub model_aliases: BTreeMap<String, String>,
    /// Output that is kept of each session, in bytes; the oldest goes first.
    pub session_output_bytes: u64,
    /// Days after its end that a session's output and messages are kept; 0 is for ever.
    pub session_output_days: u64,
    /// Live streams that one user may follow at this node at once.
    pub streams_per_user: usize,
    /// How people and other systems are told.
    pub notify: NotifyConfig,
    /// Where agents for other platforms lie.
    pub agent_files: Option<PathBuf>,
    /// The running program, where it is the agent as well.
    pub agent_program: Option<PathBuf>,
    /// How the public port listens.
    pub bind: BindMode,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// How long a request may take until its answer begins.
    pub request_timeout: Duration,
    /// How long requests under way are waited for when the program ends.
    pub drain: Duration,
}

impl ControlConfig {
    /// Takes the control plane's part of the configuration. `ca_pem` is the content of `upstream.ca_file`.
    pub fn new(config: &Config, ca_pem: Option<Vec<u8>>) -> Result<Self, ControlConfigError> {
        Ok(Self {
            login_max_failures: config.login.max_failures,
            login_window: Duration::from_secs(config.login.window_s),
            login_lock: Duration::from_secs(config.login.lock_s),
            login_ttl: Duration::from_secs(config.login.session_ttl_s),
            token_ttl: Duration::from_secs(config.auth.token_ttl_s),
            token_ttl_max: Duration::from_secs(config.auth.token_ttl_max_s),
            long_token_ttl: Duration::from_secs(config.agents.long_token_ttl_s),
            heartbeat_interval: Duration::from_secs(config.agents.heartbeat_interval_s),
            calendar: Calendar::new(&config.quota.time_zone)?,
            egress: EgressAllow::parse(&config.egress.allow)?,
            ca_pem,
            price_file: Some(&config.prices.file)
                .filter(|file| !file.is_empty())
                .map(PathBuf::from),
            model_aliases: config.models.alias.clone(),
            session_output_bytes: config.sessions.output_bytes,
            session_output_days: config.sessions.output_days,
            streams_per_user: config.sessions.streams_per_user,
            notify: NotifyConfig::new(&config.notify)?,
            agent_files: Some(&config.agents.files_dir)
                .filter(|folder| !folder.is_empty())
                .map(PathBuf::from),
            agent_program: None,
            bind: config.gateway.bind,
            tls: !config.tls.cert_file.is_empty(),
            request_timeout: Duration::from_millis(config.timeouts.control),
            drain: Duration::from_millis(config.timeouts.drain),
        })
    }
}

/// How people and other systems are told what happens.
#[derive(Clone, Debug)]
pub struct NotifyConfig {
    /// Private hosts and networks that webhooks and pushes may go to.
    pub allow: EgressAllow,
    /// Whom a push service may write to.
    pub contact: Option<String>,
    /// How long a receiver may take.
    pub timeout: Duration,
    /// How many receivers are served at once.
    pub parallel: usize,
    /// How long nothing may get through to a webhook until it is switched off.
    pub webhook_patience: Duration,
    /// How long events and deliveries are kept.
    pub keep_events: Duration,
    /// How long notifications are kept.
    pub keep_notifications: Duration,
}

impl NotifyConfig {
    /// Takes it out of its section.
    pub fn new(section: &Notify) -> Result<Self, ControlConfigError> {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Ok(Self {
            allow: EgressAllow::parse(&section.allow).map_err(ControlConfigError::Notify)?,
            contact: Some(&section.contact).filter(|contact| !contact.is_empty()).cloned(),
            timeout: Duration::from_millis(section.timeout_ms),
            parallel: section.parallel,
            webhook_patience: days(section.webhook_disable_days),
            keep_events: days(section.events_days),
            keep_notifications: days(section.notifications_days),
        })
    }
}

/// What of the configuration cannot be used. The text names the key.
#[derive(Debug, thiserror::Error)]
pub enum ControlConfigError {
    #[error("[egress] allow: {0}")]
    Egress(#[from] EgressError),
    #[error("[notify] allow: {0}")]
    Notify(#[source] EgressError),
    #[error("[quota] time_zone: {0}")]
    TimeZone(#[from] UnknownTimeZone),
}
