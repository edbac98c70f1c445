//! Thousands of streams on which almost nothing happens: what one costs in memory, and what all cost in CPU.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    sync::Semaphore,
    task::{JoinSet, LocalSet},
    time::{sleep, timeout},
};

use crate::{
    load::{
        Endpoint,
        stream::{self, Shape},
    },
    process,
};

/// What the target looked like before the streams and with all of them open.
pub struct Run {
    pub streams: usize,
    pub resident_before: u64,
    pub resident_with: u64,
    pub cpu: Duration,
    pub window: Duration,
}

/// One event each on every stream.
const PERIOD: Duration = Duration::from_secs(2);
/// More events than any run waits for.
const ENDLESS: usize = 1_000_000;
/// Connections being opened at a time.
const OPENING: usize = 64;
/// All streams must be open by then.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

/// Opens `streams` streams, waits until each has had an event, and watches the target for `window`.
pub fn run(endpoint: &Endpoint, streams: usize, window: Duration) -> anyhow::Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measure(endpoint, streams, window))
}

async fn measure(endpoint: &Endpoint, streams: usize, window: Duration) -> anyhow::Result<Run> {
    let pid = endpoint.pid.context("idle streams need a process to look at")?;
    warm_up(endpoint).await?;
    let resident_before = process::resident(pid)?;
    let (alive, opening) = (Rc::new(Cell::new(0)), Rc::new(Semaphore::new(OPENING)));
    let mut readers = JoinSet::new();
    for _ in 0..streams {
        readers.spawn_local(hold(endpoint.clone(), alive.clone(), opening.clone()));
    }
    let all_open = async {
        while alive.get() < streams {
            sleep(Duration::from_millis(50)).await;
            if let Some(ended) = readers.try_join_next() {
                ended?.context("an idle stream")?;
            }
        }
        anyhow::Ok(())
    };
    timeout(OPEN_WITHIN, all_open)
        .await
        .context("the idle streams could not be opened in time")??;
    let (cpu_before, started) = (process::cpu(pid)?, Instant::now());
    sleep(window).await;
    let (cpu, window) = (process::cpu(pid)? - cpu_before, started.elapsed());
    let resident_with = process::resident(pid)?;
    if let Some(ended) = readers.try_join_next() {
        ended?.context("an idle stream")?;
    }
    Ok(Run {
        streams,
        resident_before,
        resident_with,
        cpu,
        window,
    })
}

/// What the first request makes a process allocate once is not what a stream costs.
async fn warm_up(endpoint: &Endpoint) -> anyhow::Result<()> {
    let mut connection = stream::open(
        endpoint,
        Shape {
            streams: 1,
            events: 1,
            period: Duration::from_millis(1),
        },
    )
    .await?;
    while !connection.read_some(|_| {}).await? {}
    Ok(())
}

/// Holds one stream for ever; counts itself as alive with its first event.
async fn hold(endpoint: Endpoint, alive: Rc<Cell<usize>>, opening: Rc<Semaphore>) -> anyhow::Result<()> {
    let place = opening.acquire().await?;
    let mut connection = stream::open(
        &endpoint,
        Shape {
            streams: 1,
            events: ENDLESS,
            period: PERIOD,
        },
    )
    .await?;
    let mut heard = false;
    // The head has arrived: the stream is open, and the next one may be.
    connection.read_some(|_| heard = true).await?;
    drop(place);
    loop {
        if heard {
            alive.set(alive.get() + 1);
            break;
        }
        connection.read_some(|_| heard = true).await?;
    }
    loop {
        anyhow::ensure!(!connection.read_some(|_| {}).await?, "a stream ended that has no end");
    }
}
