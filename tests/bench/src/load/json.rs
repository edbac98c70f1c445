//! Small requests: each connection asks again as soon as it is answered, or in its turn where so many a second are wanted.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::AsyncWriteExt,
    task::LocalSet,
    time::{sleep, sleep_until},
};

use super::Endpoint;
use crate::{process, stats::Latencies};

pub const CONNECTIONS: usize = 64;
/// Connections are opened and pools filled before anything is counted.
const WARM_UP: Duration = Duration::from_millis(400);

/// What one round counted.
pub struct Run {
    pub requests: usize,
    pub window: Duration,
    pub latencies: Latencies,
    pub target_cpu: Option<Duration>,
    pub threads_cpu: BTreeMap<String, Duration>,
    pub generator_cpu: Duration,
}

/// How is asked, and for how long.
#[derive(Clone, Copy)]
pub struct Shape {
    pub window: Duration,
    /// Requests a second of all connections together; `None` for as many as are answered.
    pub rate: Option<u32>,
}

/// Asks through `endpoint`.
pub fn run(endpoint: &Endpoint, shape: Shape) -> anyhow::Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measure(endpoint, shape))
}

#[derive(Default)]
struct Tally {
    counting: Cell<bool>,
    latencies: RefCell<Latencies>,
}

async fn measure(endpoint: &Endpoint, shape: Shape) -> anyhow::Result<Run> {
    let tally = Rc::new(Tally::default());
    let began = Instant::now();
    let callers: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let turns = shape.rate.map(|rate| Turns::new(began, number, rate));
            tokio::task::spawn_local(ask(endpoint.clone(), turns, tally.clone()))
        })
        .collect();
    sleep(WARM_UP).await;
    let cpu = || endpoint.pid.map(process::cpu).transpose();
    let by_thread = || endpoint.pid.map_or_else(|| Ok(BTreeMap::new()), process::cpu_by_thread);
    let mut threads_cpu = by_thread()?;
    let (target_before, generator_before, started) = (cpu()?, process::own_thread_cpu()?, Instant::now());
    tally.counting.set(true);
    sleep(shape.window).await;
    tally.counting.set(false);
    let (target_after, generator_after, window) = (cpu()?, process::own_thread_cpu()?, started.elapsed());
    for (name, after) in by_thread()? {
        let before = threads_cpu.entry(name).or_default();
        *before = after.saturating_sub(*before);
    }
    for caller in callers {
        if caller.is_finished() {
            caller.await?.context("a caller gave up")?;
        }
    }
    let latencies = tally.latencies.take();
    Ok(Run {
        requests: latencies.len(),
        window,
        latencies,
        target_cpu: target_after.zip(target_before).map(|(after, before)| after - before),
        threads_cpu,
        generator_cpu: generator_after - generator_before,
    })
}

/// When a connection asks, so that all of them together make the rate.
struct Turns {
    next: Instant,
    every: Duration,
}

impl Turns {
    fn new(began: Instant, number: usize, rate: u32) -> Self {
        let gap = Duration::from_secs(1) / rate;
        Self {
            next: began + gap * number as u32,
            every: gap * CONNECTIONS as u32,
        }
    }

    /// Waits for the next turn. One that was missed is made up for at once.
    async fn wait(&mut self) {
        sleep_until(self.next.into()).await;
        self.next += self.every;
    }
}

async fn ask(endpoint: Endpoint, mut turns: Option<Turns>, tally: Rc<Tally>) -> anyhow::Result<()> {
    let request = endpoint.json_request();
    let mut connection = endpoint.connect().await?;
    loop {
        if let Some(turns) = &mut turns {
            turns.wait().await;
        }
        let asked = Instant::now();
        connection.stream.write_all(&request).await?;
        while !connection.read_some(|_| {}).await? {}
        if tally.counting.get() {
            tally.latencies.borrow_mut().record(asked.elapsed());
        }
    }
}
