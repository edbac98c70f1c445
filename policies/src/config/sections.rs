//! Every section and key, with its default and range. `conf/gateway.toml` explains them to operators.

use std::collections::BTreeMap;

use super::{
    schema::{Given, Section, sections},
    secret_ref::SecretRef,
    setting::{self, Fsync, HangUp, LogFormat, LogLevel, Setting},
};
use crate::bind::BindMode;

const DAY_S: u64 = 86_400;
const DAY_MS: u64 = 1_000 * DAY_S;
const GIB: usize = 1 << 30;

sections! {
    /// The public port and the process.
    gateway: Gateway(Clone) {
        /// Which addresses to listen on.
        bind: BindMode = BindMode::Loopback;
        /// The address to listen on in mode `custom`.
        custom_bind_host: String = String::new();
        /// The port; 0 takes a free one.
        port: u16 = 5000;
        /// Worker threads; 0 is one per core.
        threads: usize = 0, 0..=1024;
        /// Where the state is kept; empty is the user's state directory.
        state_dir: String = String::new();
        /// How many client connections may be open at once.
        max_connections: usize = 20_000, 1..=10_000_000;
    }

    /// TLS on the public port.
    tls: Tls(Clone) {
        /// The certificate chain in PEM; empty is no TLS.
        cert_file: String = String::new();
        /// The private key in PEM.
        key_file: String = String::new();
    }

    /// How big the parts of a request or an answer may be.
    limits: Limits(Clone) {
        /// A request's body, as sent.
        max_body_bytes: usize = 64 << 20, 1024..=4 * GIB;
        /// A request's head: request line and headers.
        max_head_bytes: usize = 64 << 10, 1024..=16 << 20;
        /// How many headers a request may have.
        max_headers: usize = 256, 8..=10_000;
        /// A request's target: path and query.
        max_target_bytes: usize = 16 << 10, 128..=1 << 20;
        /// A compressed body after decoding, of which a copy is read.
        max_decoded_body_bytes: usize = 256 << 20, 1024..=16 * GIB;
        /// The head of a provider's answer.
        max_upstream_head_bytes: usize = 64 << 10, 1024..=16 << 20;
        /// One server-sent event, as far as the meter reads it.
        sse_event_bytes: usize = 4 << 20, 1024..=GIB;
    }

    /// How long each step may take, in milliseconds.
    timeouts: Timeouts(Clone) {
        /// From the first byte of a request's head to its last.
        head: u64 = 10_000, 1..=DAY_MS;
        /// For the whole body of a request.
        body: u64 = 300_000, 1..=DAY_MS;
        /// Between two pieces of a request's body.
        body_idle: u64 = 30_000, 1..=DAY_MS;
        /// Until a client takes what is written to it.
        write: u64 = 60_000, 1..=DAY_MS;
        /// That an idle client connection is kept open.
        keepalive: u64 = 75_000, 1..=DAY_MS;
        /// To connect to a provider, TLS included.
        connect: u64 = 10_000, 1..=DAY_MS;
        /// Until a provider's answer begins.
        first_byte: u64 = 600_000, 1..=DAY_MS;
        /// Between two pieces of a provider's answer.
        chunk: u64 = 300_000, 1..=DAY_MS;
        /// For a whole exchange; 0 is no limit.
        total: u64 = 0, 0..=DAY_MS;
        /// That running requests are given at shutdown.
        drain: u64 = 30_000, 0..=DAY_MS;
        /// Until the control API's answer begins.
        control: u64 = 60_000, 1..=DAY_MS;
    }

    /// Connections to providers.
    upstream: Upstream(Clone) {
        /// Whether to offer HTTP/2.
        http2: bool = true;
        /// Idle connections kept for each address.
        pool_size: usize = 256, 0..=100_000;
        /// How long an idle connection is kept, in milliseconds.
        pool_idle_ms: u64 = 60_000, 1..=DAY_MS;
        /// How long a resolved name is kept, in milliseconds.
        dns_ttl_ms: u64 = 30_000, 1..=DAY_MS;
        /// Certificates to trust besides the system's, in PEM.
        ca_file: String = String::new();
    }

    /// Proxy tokens and how fresh the gateway's knowledge must be.
    auth: Auth(Clone) {
        /// The life of a proxy token, in seconds.
        token_ttl_s: u64 = 300, 5..=30 * DAY_S;
        /// The longest life that may be asked for, in seconds.
        token_ttl_max_s: u64 = 300, 5..=30 * DAY_S;
        /// How long to go on without the database, in seconds.
        max_staleness_s: u64 = 300, 1..=DAY_S;
        /// How often to look for changes, in milliseconds.
        refresh_ms: u64 = 250, 10..=60_000;
        /// How many verified tokens to remember.
        verdict_cache: u64 = 10_000, 0..=10_000_000;
    }

    /// Machines' agents.
    agents: Agents(Clone) {
        /// How often agents say that they are there, in seconds.
        heartbeat_interval_s: u64 = 60, 5..=120;
        /// The longest life of the proxy token of a session whose agent cannot renew it, in seconds.
        long_token_ttl_s: u64 = 7 * DAY_S, 60..=30 * DAY_S;
        /// The folder with the agents that are handed out besides the program's own: `ace-agent-<target>`. Empty is none.
        files_dir: String = String::new();
    }

    /// People's logins.
    login: Login(Clone) {
        /// Wrong passwords after which an account and address are locked.
        max_failures: u32 = 10, 1..=10_000;
        /// The window in which they count, in seconds.
        window_s: u64 = 60, 1..=DAY_S;
        /// How long the lock holds, in seconds.
        lock_s: u64 = 300, 1..=DAY_S;
        /// How long a login holds, in seconds.
        session_ttl_s: u64 = 43_200, 60..=365 * DAY_S;
    }

    /// Where provider keys may be sent.
    egress: Egress(Clone) {
        /// Hosts, addresses and networks that a base URL may name although they are not public.
        allow: Vec<String> = Vec::new();
    }

    /// The database.
    database: Database {
        /// Where it is; empty is an SQLite file in the state directory.
        url: SecretRef = SecretRef::Unset;
        /// Connections that read.
        max_connections: u32 = 8, 1..=10_000;
        /// How long to wait for SQLite's lock, in milliseconds.
        busy_timeout_ms: u64 = 5_000, 1..=600_000;
    }

    /// How the request ledger is written.
    ledger: Ledger(Clone) {
        /// Records that may wait to be written.
        queue: usize = 65_536, 1..=10_000_000;
        /// Records in one transaction.
        batch: usize = 4_096, 1..=100_000;
        /// How long a record waits for others, in milliseconds.
        flush_ms: u64 = 100, 1..=60_000;
        /// When the journal is forced to the disk.
        fsync: Fsync = Fsync::Interval;
        /// How often that is, in milliseconds.
        fsync_ms: u64 = 5, 1..=60_000;
        /// Bytes of one file of the journal.
        segment_bytes: u64 = 16 << 20, 64 << 10..=1 << 30;
        /// How long a gateway goes on with its leases when the database is away, in seconds; then they are others'.
        lease_ttl_s: u64 = 300, 1..=DAY_S;
        /// How long a request may be under way before the database hears of it, in milliseconds.
        open_after_ms: u64 = 1_000, 0..=60_000;
    }

    /// Limits and how requests are reserved against them.
    quota: Quota(Clone) {
        /// The time zone by which days and months begin, by its IANA name.
        time_zone: String = "UTC".to_owned();
        /// Output tokens that are reserved for a request that does not limit them.
        default_output_tokens: u64 = 4_096, 1..=10_000_000;
        /// Bytes that are taken for one token when a request is reserved. Less is safer, more lets more through near a limit.
        bytes_per_token: u64 = 3, 1..=16;
        /// Percent of a limit at which a first event tells that it is about to be reached; 0 is never.
        warn_percent: u8 = 80, 0..=100;
        /// The same for the second.
        alert_percent: u8 = 95, 0..=100;
        /// Whether requests go through, journaled but not limited, when leases have run dry and the database is away.
        fail_open: bool = false;
    }

    /// What tokens cost.
    prices: Prices(Clone) {
        /// The price table; empty is the built-in one.
        file: String = String::new();
    }

    /// What becomes of an answer when its client hangs up.
    hangup: Hangup(Clone) {
        /// For OpenAI.
        openai: HangUp = HangUp::Abort;
        /// For Anthropic.
        anthropic: HangUp = HangUp::Abort;
        /// For Google.
        google: HangUp = HangUp::Abort;
        /// Output tokens that are drained at most; 0 is no limit.
        max_tokens: u64 = 2_000, 0..=10_000_000;
        /// How long is drained at most, in seconds.
        max_seconds: u64 = 30, 1..=DAY_S;
        /// Percent of the allowed output (`max_tokens` of the request) that must be there for draining to begin; 0 is always.
        min_percent: u64 = 0, 0..=100;
    }

    /// The key that seals provider keys.
    vault: Vault {
        /// 32 bytes in hexadecimal or base64; empty is `OPENACE_ENCRYPTION_KEY`, else a generated file.
        key: SecretRef = SecretRef::Unset;
    }

    /// The control API.
    control: Control(Clone) {
        /// Where it listens; empty is a Unix socket in the state directory.
        listen: String = String::new();
        /// The control API's nodes, for a gateway that does not run its own.
        upstreams: Vec<String> = Vec::new();
    }

    /// What is kept of sessions.
    sessions: Sessions(Clone) {
        /// Output of one session, in bytes; the oldest goes first.
        output_bytes: u64 = 64 << 20, 64 << 10..=1 << 40;
        /// Days after a session's end that its output and messages are kept; 0 is for ever.
        output_days: u64 = 90, 0..=36_500;
        /// Live streams that one user may follow at one control node at once.
        streams_per_user: usize = 32, 1..=4_096;
    }

    /// What people and other systems are told: notifications, pushes to browsers, webhooks.
    notify: Notify(Clone) {
        /// Hosts, addresses and networks that webhooks and pushes may go to although they are not public.
        allow: Vec<String> = Vec::new();
        /// Whom a push service may write to: `mailto:` and an address, or a URL. Empty is nobody.
        contact: String = String::new();
        /// How long a receiver of a webhook or a push may take, in milliseconds.
        timeout_ms: u64 = 10_000, 100..=14_000;
        /// How many receivers are served at once by one node.
        parallel: usize = 16, 1..=1_000;
        /// After how many days in which nothing got through a webhook is switched off.
        webhook_disable_days: u64 = 3, 1..=365;
        /// How long events and deliveries are kept, in days.
        events_days: u64 = 7, 2..=365;
        /// How long notifications are kept, in days.
        notifications_days: u64 = 90, 1..=3650;
    }

    /// Metrics for Prometheus.
    metrics: Metrics(Clone) {
        /// Where they are served; empty is nowhere.
        listen: String = "127.0.0.1:5001".to_owned();
    }

    /// The log on standard error.
    log: Log(Clone) {
        /// For people or for programs.
        format: LogFormat = LogFormat::Pretty;
        /// The least important level that is written.
        level: LogLevel = LogLevel::Info;
    }

    /// Signs of life in silent streams.
    keepalive: Keepalive(Clone) {
        /// After this silence of OpenAI, in milliseconds; 0 is never.
        openai_ms: u64 = 0, 0..=DAY_MS;
        /// After this silence of Anthropic, in milliseconds; 0 is never.
        anthropic_ms: u64 = 0, 0..=DAY_MS;
    }

    /// Model names.
    models: Models(Clone) {
        /// Names that clients may ask for, and what the provider is asked for instead.
        alias: BTreeMap<String, String> = BTreeMap::new();
    }

    /// The meter.
    meter: Meter(Clone) {
        /// Whether to ask OpenAI for usage where a client did not; the extra chunk is taken out again.
        include_usage: bool = true;
    }
}
