//! What the ledger costs: the CPU of admitting and settling a request, how fast rows get into the database, and how fast sums are read
//! beside ten million of them.
//!
//! The real ledger on a real database, without a proxy around it: what it costs here it costs there.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ace_gateway::clock::{now_ms, request_id};
use ace_gateway::ledger::row::Entry;
use ace_gateway::ledger::tasks::{self, Around};
use ace_gateway::ledger::{Estimate, Ledger};
use ace_gateway::metrics::Metrics;
use ace_gateway::prices::Prices;
use ace_gateway::snapshot::Limits;
use ace_gateway::store::{Refresher, Store};
use ace_migrations::{Db, Options};
use ace_policies::config::Config;
use ace_policies::token::Claims;
use ace_policies::usage::{Source, Usage};
use ace_policies::vault::{MasterKey, Vault};
use ace_policies::{KeyId, Provider, SessionId, TenantId, UserId};
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// Measures the ledger on SQLite, or on the PostgreSQL that is named.
#[derive(Parser)]
#[command(name = "ace-bench-ledger", version)]
struct Args {
    /// A PostgreSQL database of its own, postgres://…; without it a SQLite file.
    #[arg(long)]
    database: Option<String>,
    /// When the journal is forced to the disk: always, interval or never.
    #[arg(long, default_value = "interval")]
    fsync: String,
    /// Requests that are admitted and settled.
    #[arg(long, default_value_t = 200_000)]
    requests: u64,
    /// Requests at once.
    #[arg(long, default_value_t = 64)]
    parallel: u64,
    /// Set no limits: only the journal and the rows.
    #[arg(long)]
    unlimited: bool,
    /// Requests of so many users; each has a hundred sessions.
    #[arg(long, default_value_t = 1)]
    users: u64,
    /// Spread over so many days that have passed.
    #[arg(long, default_value_t = 0)]
    days: u64,
    /// Where database and journal are made and kept; without it they are made in a temporary folder.
    #[arg(long)]
    state_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ace-bench-ledger: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A ledger that runs on a runtime of its own, as in the gateway.
struct Running {
    ledger: Ledger,
    tasks: tasks::Tasks,
    store: Store,
}

fn run(args: Args) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let state = args.state_dir.clone().unwrap_or_else(|| folder.path().to_owned());
    let url = match &args.database {
        Some(url) => url.clone(),
        None => ace_migrations::sqlite_url(&state.join("ace.db")),
    };
    let text = format!("[ledger]\nfsync = \"{}\"\nqueue = 1000000\n", args.fsync);
    let config = Config::from_sources(Some(("bench", &text)), [], &[])?;
    let store_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let running = store_runtime.block_on(start(&url, &config, state.join("journal"), args.unlimited))?;
    let limits = running.store.snapshot().limits.clone();
    println!(
        "{} requests, {} at once, fsync {}, {}, {}",
        args.requests,
        args.parallel,
        args.fsync,
        if args.database.is_some() {
            "PostgreSQL"
        } else {
            "SQLite"
        },
        if args.unlimited { "no limits" } else { "5 limits" }
    );

    let began = Instant::now();
    let process_before = process_cpu();
    let per_request = load(&running.ledger, &limits, &args)?;
    let took = began.elapsed();
    let behind = running.ledger.waiting();
    let Running { ledger, tasks, .. } = running;
    let catching_up = Instant::now();
    let backlog = ledger.backlog();
    while backlog.rows() > 0 {
        pause(Duration::from_millis(5));
    }
    let caught_up = catching_up.elapsed();
    let all = process_cpu() - process_before;
    drop(ledger);
    store_runtime.block_on(tasks.stop());
    let count = args.requests as f64;
    println!("admit and settle:      {per_request:.2} µs of CPU a request on the caller's thread");
    println!(
        "whole process:         {:.2} µs of CPU a request, rows written",
        all.as_secs_f64() * 1e6 / count
    );
    println!("rate:                  {:.0} requests/s", count / took.as_secs_f64());
    println!(
        "behind at the end:     {behind} rows, caught up in {:.2} s",
        caught_up.as_secs_f64()
    );
    println!(
        "rows written:          {:.0} rows/s overall",
        count / (took + caught_up).as_secs_f64()
    );
    Ok(())
}

async fn start(url: &str, config: &Config, folder: PathBuf, unlimited: bool) -> anyhow::Result<Running> {
    let db = ace_migrations::open(url, &Options::default()).await?;
    ace_migrations::migrate(&db).await?;
    if !unlimited {
        for (kind, name) in [
            ("user", "tokens_per_day"),
            ("user", "cost_micro_usd_per_month"),
            ("user", "requests_per_minute"),
            ("user", "parallel_requests"),
            ("tenant", "tokens_per_month"),
        ] {
            limit(&db, kind, name).await?;
        }
    }
    let vault = Vault::new(&MasterKey::from_bytes([7; 32]));
    let (store, refresher) = Refresher::start(db.clone(), vault, Duration::from_millis(250)).await?;
    tokio::spawn(refresher.run());
    let metrics = Arc::new(Metrics::new()?);
    let around = Around {
        db,
        folder,
        gateway_id: "bench".to_owned(),
        store: store.clone(),
        prices: Prices::load(config, metrics.clone())?,
        metrics,
    };
    let (ledger, tasks) = tasks::start(config, around).await?;
    Ok(Running { ledger, tasks, store })
}

async fn limit(db: &Db, kind: &str, name: &str) -> anyhow::Result<()> {
    let text =
        "INSERT INTO quota_limits (account_kind, account_id, name, maximum, updated_at) VALUES ($1, '1', $2, $3, 0)
                ON CONFLICT DO NOTHING";
    let query = sqlx::query(text)
        .bind(kind.to_owned())
        .bind(name.to_owned())
        .bind(1_i64 << 50);
    query.execute(&db.write).await?;
    Ok(())
}

/// Admits and settles requests on one thread, several at once. Gives the CPU of one in µs.
fn load(ledger: &Ledger, limits: &Arc<Limits>, args: &Args) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let left = Arc::new(AtomicU64::new(args.requests));
    let people: Arc<Vec<_>> = Arc::new(
        (0..args.users * SESSIONS)
            .map(|number| Arc::new(claims(number, args.users)))
            .collect(),
    );
    let days = i64::try_from(args.days)?;
    let before = thread_cpu();
    runtime.block_on(async {
        let local = tokio::task::LocalSet::new();
        for _ in 0..args.parallel {
            let (ledger, limits, left, people) = (ledger.clone(), limits.clone(), left.clone(), people.clone());
            local.spawn_local(async move {
                while let Ok(number) =
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                {
                    // Requests of a session follow each other.
                    let claims = &people[usize::try_from(number / 64).unwrap_or(0) % people.len()];
                    let ago_ms = i64::try_from(number % 1_000_003).unwrap_or(0) * days * 86_400_000 / 1_000_003;
                    while !one(&ledger, &limits, entry(claims, number, ago_ms)).await {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            });
        }
        local.await;
    });
    Ok((thread_cpu() - before).as_secs_f64() * 1e6 / args.requests as f64)
}

/// One request; `false` where the ledger takes none for now.
async fn one(ledger: &Ledger, limits: &Limits, entry: Entry) -> bool {
    let Some(mut reservation) = ledger.record(entry, Instant::now()) else {
        return false;
    };
    let estimate = Estimate {
        input_bytes: 3_000,
        max_output: Some(500),
        answers: 1,
        service_tier: None,
    };
    if let Err(refusal) = reservation.admit(estimate, limits).await {
        eprintln!("refused: {}", refusal.message());
        return true;
    }
    // The provider thinks, others have their turn.
    tokio::task::yield_now().await;
    let entry = reservation.entry();
    entry.status = 200;
    entry.error_kind = None;
    entry.usage = Usage {
        input: 900,
        output: 300,
        ..Usage::default()
    };
    entry.source = Source::Provider;
    true
}

const SESSIONS: u64 = 100;
const MODELS: [&str; 4] = [
    "claude-sonnet-4-5",
    "claude-opus-4-5",
    "claude-haiku-4-5",
    "claude-3-5-haiku-latest",
];

fn entry(claims: &Arc<Claims>, number: u64, ago_ms: i64) -> Entry {
    let now = now_ms() - ago_ms;
    Entry {
        key: Some(KeyId(3)),
        method: "POST".parse().unwrap_or_default(),
        path: "/v1/messages".to_owned(),
        model_asked: Some(MODELS[usize::try_from(number / 1000).unwrap_or(0) % MODELS.len()].to_owned()),
        streamed: true,
        ttfb_ms: Some(2),
        bytes_in: 3_000,
        bytes_out: 900,
        upstream_request_id: Some("req_0123456789abcdef".to_owned()),
        ..Entry::new(request_id(now), claims.clone(), Provider::Anthropic, now)
    }
}

fn claims(number: u64, users: u64) -> Claims {
    Claims {
        session: (users > 1).then(|| SessionId(Uuid::from_u128(u128::from(number)))),
        user: UserId(i64::try_from(number % users.max(1)).unwrap_or(0) + 1),
        tenant: TenantId(1),
        machine: None,
        provider: None,
        tool: "bench".to_owned(),
        models: None,
        iat: 0,
        exp: 0,
        jti: Uuid::nil(),
        generation: 0,
    }
}

fn thread_cpu() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

fn process_cpu() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "no runtime runs in this thread; there is nothing else to do meanwhile"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
