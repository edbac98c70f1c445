//! What the control API does with many agents: how soon a message reaches one, how fast output is stored and shown, how long a page of
//! sessions takes.
//!
//! A real gateway on SQLite with its control API inside, and agents on WebSockets that heartbeat and answer.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ace_tests::{Browser, Registered, SocketAgent, World};
use anyhow::Context;
use clap::Parser;
use serde_json::json;
use tokio::task::JoinSet;

/// Measures sessions: latency of messages, rate of output, length of lists.
#[derive(Parser)]
#[command(name = "ace-bench-sessions", version)]
struct Args {
    /// Agents that are connected.
    #[arg(long, default_value_t = 1_000)]
    agents: usize,
    /// Sessions that are stored.
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    /// Lines that one agent prints.
    #[arg(long, default_value_t = 50_000)]
    lines: usize,
    /// Messages whose way to an idle agent is timed.
    #[arg(long, default_value_t = 200)]
    messages: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ace-bench-sessions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let world = World::builder().without_keys().start().await;
    let begun = Instant::now();
    let mut timed = connect(&world, "timed").await?;
    let mut crowd = JoinSet::new();
    for number in 1..args.agents {
        let agent = connect(&world, &format!("build-{number}")).await?;
        crowd.spawn(lives(agent));
    }
    println!(
        "{} agents registered and connected in {:.1} s",
        args.agents,
        begun.elapsed().as_secs_f64()
    );
    let session = start_session(&world, &mut timed).await?;
    messages(&world, &mut timed, &session, args.messages).await?;
    store(&world, &timed.registered.machine, args.sessions).await?;
    lists(&world).await;
    output(&world, &mut timed, &session, args.lines).await?;
    let online = world.admin.get("/api/status").await.ok()["machines"].clone();
    println!("machines in the end: {online}");
    anyhow::ensure!(crowd.try_join_next().is_none(), "an agent lost its connection");
    Ok(())
}

async fn connect(world: &World, name: &str) -> anyhow::Result<SocketAgent> {
    let registered = Registered::by(&world.admin, &world.door, name).await;
    Ok(SocketAgent::try_connect(registered).await?)
}

/// An idle agent: it heartbeats and answers.
async fn lives(mut agent: SocketAgent) -> anyhow::Result<()> {
    loop {
        agent.say(json!({"type": "heartbeat", "active_sessions": 0})).await?;
        agent.hears_within(Duration::from_secs(10)).await?;
    }
}

async fn start_session(world: &World, agent: &mut SocketAgent) -> anyhow::Result<String> {
    let body = json!({"machine_id": agent.registered.machine, "project_path": "/p", "cli_tool": "claude-code"});
    let created = world.admin.post("/api/remote/sessions", body).await.ok();
    let session = created["session"]["session_id"]
        .as_str()
        .context("no session")?
        .to_owned();
    agent.hears().await?;
    agent.status(&session, "running").await?;
    Ok(session)
}

async fn messages(world: &World, agent: &mut SocketAgent, session: &str, count: usize) -> anyhow::Result<()> {
    let path = format!("/api/remote/sessions/{session}/chat");
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        let (said, heard) = tokio::join!(world.admin.post(&path, json!({"content": "hi"})), async {
            let heard = agent.hears().await;
            (heard, begun.elapsed())
        });
        said.ok();
        heard.0?;
        times.push(heard.1);
    }
    print_times("from a message to its agent", times);
    Ok(())
}

/// Stores ended sessions, behind the API's back.
async fn store(world: &World, machine: &str, count: usize) -> anyhow::Result<()> {
    let url = ace_migrations::sqlite_url(&world.state().join("ace.db"));
    let db = ace_migrations::open(&url, &ace_migrations::Options::default()).await?;
    let mut transaction = db.begin_write().await?;
    for number in 0..count {
        sqlx::query(
            "INSERT INTO agent_sessions (session_id, user_id, tenant_id, remote_machine_id, status, project_path, cli_tool, title,
                                         created_at, updated_at, ended_at)
             VALUES ($1, $2, 1, $3, 'stopped', '/home/user/project', 'claude-code', $4, $5, $5, $5)",
        )
        .bind(ace_tests::uuid())
        .bind(world.alice.id)
        .bind(machine)
        .bind(format!("Fix bug {number}"))
        .bind(1_700_000_000_000 + i64::try_from(number)? * 60_000)
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    db.close().await;
    Ok(())
}

async fn lists(world: &World) {
    let (mut times, mut after) = (Vec::new(), String::new());
    for _ in 0..50 {
        let begun = Instant::now();
        let page = world
            .alice
            .get(&format!("/api/remote/sessions?limit=50{after}"))
            .await
            .ok();
        times.push(begun.elapsed());
        after = page["next"]
            .as_str()
            .map_or_else(String::new, |next| format!("&after={next}"));
    }
    print_times("a page of 50 sessions", times);
    let mut times = Vec::new();
    for number in 0..20 {
        let begun = Instant::now();
        world
            .alice
            .get(&format!("/api/remote/sessions?q=bug%20{number}7"))
            .await
            .ok();
        times.push(begun.elapsed());
    }
    print_times("a search in all of them", times);
}

async fn output(world: &World, agent: &mut SocketAgent, session: &str, count: usize) -> anyhow::Result<()> {
    let path = format!("/api/remote/sessions/{session}/stream");
    let mut browser = Browser::of(&world.admin, &world.door, &path);
    let watching = tokio::spawn(async move {
        let mut seen = 0;
        while seen < count {
            let event = browser.next_within(Duration::from_secs(60)).await?;
            seen += usize::from(event.event == "output");
        }
        Some(())
    });
    let text = "x".repeat(120);
    let begun = Instant::now();
    let mut printed = 0;
    while printed < count || !agent.is_stored() {
        if printed < count {
            let lines: Vec<_> = (printed..printed + 250)
                .map(|number| format!("{number} {text}"))
                .collect();
            printed += 250;
            agent.prints(session, &lines).await?;
        }
        agent.hears_within(Duration::from_millis(1)).await?;
    }
    let stored = begun.elapsed();
    watching.await?.context("the browser was not shown all")?;
    let rate = |elapsed: Duration| count as f64 / elapsed.as_secs_f64();
    println!(
        "output: {:.0} lines/s stored, {:.0} lines/s shown in a browser",
        rate(stored),
        rate(begun.elapsed())
    );
    Ok(())
}

fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!("{what}: median {:.1} ms, 99 % {:.1} ms", at(0.5), at(0.99));
}
