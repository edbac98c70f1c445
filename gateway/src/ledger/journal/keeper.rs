//! The journal's own thread: makes segments ahead, deletes old ones, forces records to the disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle, park, park_timeout};
use std::time::Duration;

use super::Fsync;
use super::shared::{RETRY_AFTER, Shared};

/// Intervals without a record after which the keeper waits to be woken by the next one. Waking costs whoever appends a system
/// call, so it is not done with every record.
const IDLE_INTERVALS: u32 = 100;

/// A running keeper.
pub(super) struct Keeper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Keeper {
    pub fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let told = stop.clone();
        let keep = shared.clone();
        let thread = Builder::new()
            .name("journal".to_owned())
            .spawn(move || run(&keep, &told))?;
        let _ = shared.keeper.set(thread.thread().clone());
        Ok(Self { stop, thread })
    }

    /// Returns when it has ended.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the journal's thread has panicked");
        }
    }
}

fn run(shared: &Shared, stop: &AtomicBool) {
    let mut idle = 0;
    while !stop.load(Ordering::Acquire) {
        shared.delete_garbage();
        let well = shared.flush_now() & shared.renew() & shared.prepare();
        let interval = (shared.options.fsync == Fsync::Interval).then_some(shared.options.interval);
        if interval.is_some() {
            idle = if shared.sync() { 0 } else { idle + 1 };
        }
        match nap(shared, interval, idle, well) {
            Some(nap) => park_timeout(nap),
            None => park(),
        }
    }
}

/// How long to wait; `None` is until woken.
fn nap(shared: &Shared, interval: Option<Duration>, idle: u32, well: bool) -> Option<Duration> {
    let retry = (!well).then_some(RETRY_AFTER);
    match interval {
        Some(interval) if idle < IDLE_INTERVALS || !fall_asleep(shared) => {
            Some(retry.map_or(interval, |retry| retry.min(interval)))
        }
        _ => retry,
    }
}

/// Has the next record wake the keeper, unless there is one already.
fn fall_asleep(shared: &Shared) -> bool {
    let mut pen = shared.pen();
    pen.asleep = !pen.is_worth_syncing();
    pen.asleep
}
