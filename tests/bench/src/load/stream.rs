//! Many concurrent streams, read to their end; every event tells when it left the mock.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::AsyncWriteExt,
    task::LocalSet,
    time::{sleep_until, timeout},
};

use super::{Connection, Endpoint};
use crate::{
    mock::{self, MARK, MARK_DIGITS},
    process,
    stats::Latencies,
};

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub streams: usize,
    pub events: usize,
    pub period: Duration,
}

/// What one round counted.
pub struct Run {
    pub complete: usize,
    pub window: Duration,
    pub latencies: Latencies,
    pub target_cpu: Option<Duration>,
    pub generator_cpu: Duration,
}

/// A round that takes this much longer than its shape says has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens the streams, spread over one period, and reads them all to the end.
pub fn run(endpoint: &Endpoint, shape: Shape) -> anyhow::Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measure(endpoint, shape))
}

async fn measure(endpoint: &Endpoint, shape: Shape) -> anyhow::Result<Run> {
    let cpu = || endpoint.pid.map(process::cpu).transpose();
    let (target_before, generator_before, started) = (cpu()?, process::own_thread_cpu()?, Instant::now());
    let latencies = Rc::new(RefCell::new(Latencies::default()));
    let readers: Vec<_> = (0..shape.streams)
        .map(|index| {
            let start = started + shape.period.mul_f64(index as f64 / shape.streams as f64);
            tokio::task::spawn_local(read(endpoint.clone(), shape, start, latencies.clone()))
        })
        .collect();
    let mut complete = 0;
    let deadline = shape.period * shape.events as u32 + PATIENCE;
    let all = async {
        for reader in readers {
            reader.await?.context("a stream broke")?;
            complete += 1;
        }
        anyhow::Ok(())
    };
    timeout(deadline, all).await.context("streams did not end in time")??;
    let (target_after, generator_after) = (cpu()?, process::own_thread_cpu()?);
    Ok(Run {
        complete,
        window: started.elapsed(),
        latencies: latencies.take(),
        target_cpu: target_after.zip(target_before).map(|(after, before)| after - before),
        generator_cpu: generator_after - generator_before,
    })
}

async fn read(
    endpoint: Endpoint,
    shape: Shape,
    start: Instant,
    latencies: Rc<RefCell<Latencies>>,
) -> anyhow::Result<()> {
    sleep_until(start.into()).await;
    let mut connection = open(&endpoint, shape).await?;
    let (mut marks, mut events) = (Marks::default(), 0);
    loop {
        let mut on_event = |sent| {
            latencies
                .borrow_mut()
                .record(mock::epoch().elapsed().saturating_sub(sent));
            events += 1;
        };
        let ended = connection.read_some(|bytes| marks.find(bytes, &mut on_event)).await?;
        if ended {
            anyhow::ensure!(events == shape.events, "{events} events of {} arrived", shape.events);
            return Ok(());
        }
    }
}

/// Connects and sends the request for one stream.
pub async fn open(endpoint: &Endpoint, shape: Shape) -> anyhow::Result<Connection> {
    let mut connection = endpoint.connect().await?;
    connection
        .stream
        .write_all(&endpoint.stream_request(shape.events, shape.period))
        .await?;
    Ok(connection)
}

/// Finds the events' times in a body that comes in any pieces.
#[derive(Default)]
struct Marks {
    digits: usize,
    sent: u64,
    inside: bool,
}

impl Marks {
    fn find(&mut self, mut bytes: &[u8], mut found: impl FnMut(Duration)) {
        loop {
            if !self.inside {
                let Some(at) = memchr::memchr(MARK, bytes) else { return };
                bytes = &bytes[at + 1..];
                *self = Self {
                    inside: true,
                    ..Self::default()
                };
            }
            while self.digits < MARK_DIGITS {
                let Some((digit, rest)) = bytes.split_first() else {
                    return;
                };
                (self.sent, self.digits, bytes) = (self.sent * 10 + u64::from(digit - b'0'), self.digits + 1, rest);
            }
            found(Duration::from_nanos(self.sent));
            self.inside = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_whatever_the_cuts() {
        let body = format!("data: @{:016} x\n\ndata: y\n\n@{:016}@{:016}", 7, 1_000_000_000, 9);
        for piece in 1..body.len() {
            let (mut marks, mut found) = (Marks::default(), Vec::new());
            body.as_bytes()
                .chunks(piece)
                .for_each(|bytes| marks.find(bytes, |sent| found.push(sent.as_nanos())));
            assert_eq!(found, [7, 1_000_000_000, 9]);
        }
    }
}
