//! Idle connections, kept per thread and per origin, newest first.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;

use super::Stream;
use super::h1::client::is_alive;

thread_local! {
    /// Which shard the current thread uses. A connection is driven by the reactor of the thread that opened it.
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// Says which shard the current thread uses from now on.
pub fn use_shard(shard: usize) {
    SHARD.set(shard);
}

/// All idle connections of the process.
pub struct Pool {
    shards: Vec<Mutex<HashMap<Arc<str>, Origin>>>,
    size: usize,
    idle: Duration,
}

#[derive(Default)]
struct Origin {
    idle: Vec<(Stream, Instant)>,
    shared: Vec<Shared>,
}

/// An HTTP/2 connection. It lives for as long as anybody holds on to it.
struct Shared {
    requests: SendRequest<Bytes>,
    streams: Streams,
    used: Instant,
}

/// Counts the streams of a connection: each holds a copy.
pub type Streams = Arc<()>;

impl Shared {
    /// Whether the server takes another stream. Its own queue would hold a request until some other answer has ended.
    fn has_room(&self) -> bool {
        Arc::strong_count(&self.streams) <= self.requests.current_max_send_streams()
    }
}

impl Pool {
    /// A pool for `threads` threads that keeps up to `size` idle connections per origin and thread, each for `idle`.
    pub fn new(threads: usize, size: usize, idle: Duration) -> Self {
        let shards = (0..threads.max(1)).map(|_| Mutex::default()).collect();
        Self { shards, size, idle }
    }

    /// The newest idle HTTP/1 connection to `origin` that is still open.
    pub fn take(&self, origin: &Arc<str>) -> Option<Stream> {
        let mut shard = self.shard();
        let idle = &mut shard.get_mut(origin)?.idle;
        while let Some((mut stream, since)) = idle.pop() {
            if since.elapsed() < self.idle && is_alive(&mut stream) {
                return Some(stream);
            }
        }
        None
    }

    /// A shared HTTP/2 connection to `origin` that takes another request at once. Connections that have ended are forgotten.
    pub fn shared(&self, origin: &Arc<str>) -> Option<(SendRequest<Bytes>, Streams)> {
        let mut shard = self.shard();
        let shared = &mut shard.get_mut(origin)?.shared;
        let mut found = None;
        shared.retain_mut(
            |connection| match connection.requests.poll_ready(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Err(_)) => false,
                Poll::Ready(Ok(())) if found.is_none() && connection.has_room() => {
                    connection.used = Instant::now();
                    found = Some((connection.requests.clone(), connection.streams.clone()));
                    true
                }
                _ => true,
            },
        );
        found
    }

    /// Keeps an HTTP/1 connection for the next request; the oldest goes where there are too many.
    pub fn put(&self, origin: &Arc<str>, stream: Stream) {
        let mut shard = self.shard();
        let idle = &mut shard.entry(origin.clone()).or_default().idle;
        if idle.len() >= self.size {
            idle.remove(0);
        }
        if self.size > 0 {
            idle.push((stream, Instant::now()));
        }
    }

    /// Shares an HTTP/2 connection with the requests that follow.
    pub fn share(&self, origin: &Arc<str>, requests: SendRequest<Bytes>, streams: Streams) {
        let shared = Shared {
            requests,
            streams,
            used: Instant::now(),
        };
        self.shard().entry(origin.clone()).or_default().shared.push(shared);
    }

    /// Closes the current thread's connections that were idle for too long or that their servers have closed.
    pub fn sweep(&self) {
        self.shard().retain(|_, origin| {
            origin
                .idle
                .retain_mut(|(stream, since)| since.elapsed() < self.idle && is_alive(stream));
            // Streams in flight keep their connection open without our help.
            origin.shared.retain(|connection| connection.used.elapsed() < self.idle);
            !origin.idle.is_empty() || !origin.shared.is_empty()
        });
    }

    /// How often [`Self::sweep`] is worth its while.
    pub fn sweep_interval(&self) -> Duration {
        (self.idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(10))
    }

    fn shard(&self) -> MutexGuard<'_, HashMap<Arc<str>, Origin>> {
        let shard = SHARD.get() % self.shards.len();
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
