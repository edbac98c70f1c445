//! Copying an answer's body: what arrives goes on at once, and whatever ends it is told apart.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::engine::h1::client::AnswerError;
use crate::engine::{Downstream, Stop, Upstream};

/// How copying ended.
#[derive(Debug)]
pub enum Ending {
    /// The answer is complete.
    Complete,
    /// The reader is short. What it has passed on is written; copying can go on.
    Short,
    /// The client went away, or does not take what is written to it.
    ClientGone,
    /// The provider broke off, or sent what is no HTTP.
    Broken(AnswerError),
    /// The provider was silent for too long, or the request took too long.
    Timeout,
    /// The process ends.
    Stopped,
}

/// How long copying may take, and what keeps a silent stream awake.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The longest silence of the provider.
    pub silence: Duration,
    /// The end of the whole request, if there is one.
    pub deadline: Option<Instant>,
    /// What the client gets in a silence, if anything.
    pub keep_alive: Option<KeepAlive>,
}

/// Bytes that a client of the dialect skips.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// After how much silence, and again.
    pub every: Duration,
    /// The bytes.
    pub bytes: &'static [u8],
}

impl Limit {
    /// Only silence is limited.
    pub fn silence(silence: Duration) -> Self {
        Self {
            silence,
            deadline: None,
            keep_alive: None,
        }
    }

    /// When to look again, `last` being when the provider was heard of and `awake` when the client was.
    fn next(&self, last: Instant, awake: Instant) -> Instant {
        let ping = self.keep_alive.map(|keep_alive| awake + keep_alive.every);
        [self.deadline, ping]
            .into_iter()
            .flatten()
            .fold(last + self.silence, Instant::min)
    }

    fn is_over(&self, last: Instant, now: Instant) -> bool {
        last + self.silence <= now || self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// Reads along, and decides what of an answer the client gets.
pub trait Reader {
    /// Takes a piece of the body and passes on what the client is to get of it.
    fn take(&mut self, data: &[u8], downstream: &mut Downstream);

    /// Whether to stop for a while, asked after each piece that was taken.
    fn is_short(&self) -> bool {
        false
    }

    /// Whether an answer that the connection's end has ended has not come to its own.
    fn is_cut(&self) -> bool {
        false
    }

    /// Whether a keep-alive would be in nobody's way now.
    fn may_ping(&self) -> bool {
        false
    }
}

/// Passes everything on unread.
pub struct Unread;

impl Reader for Unread {
    fn take(&mut self, data: &[u8], downstream: &mut Downstream) {
        downstream.push(data);
    }
}

/// How long a stream that never pauses goes on before anything else is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Copies an answer's body to its end, whatever that is, or to where the reader is short.
pub async fn copy(
    upstream: &mut Upstream,
    downstream: &mut Downstream,
    limit: Limit,
    stop: &mut Stop,
    reader: &mut impl Reader,
) -> Ending {
    let mut last = Instant::now();
    let (mut awake, mut looked) = (last, last);
    let mut timer = pin!(sleep_until(limit.next(last, awake)));
    let mut stopped = pin!(stop.ending());
    // Not before something new was taken: whoever goes on although the reader is short waits for that.
    let mut taken = false;
    loop {
        let decoded = upstream.decode(&mut |data| {
            reader.take(data, downstream);
            taken = true;
        });
        match decoded {
            Ok(true) => return Ending::Complete,
            Ok(false) => {}
            Err(error) => return Ending::Broken(error),
        }
        if downstream.pending() > 0 && downstream.flush().await.is_err() {
            return Ending::ClientGone;
        }
        if taken && reader.is_short() {
            return Ending::Short;
        }
        tokio::select! {
            biased;
            filled = upstream.fill() => match filled {
                Ok(true) => {
                    last = Instant::now();
                    awake = last;
                    // While there is always more to read, nothing below is reached.
                    if last - looked >= LOOK {
                        looked = last;
                        if limit.deadline.is_some_and(|deadline| deadline <= last) {
                            return Ending::Timeout;
                        }
                        if is_ready(stopped.as_mut()).await {
                            return Ending::Stopped;
                        }
                    }
                }
                Ok(false) if reader.is_cut() => return Ending::Broken(AnswerError::Closed),
                Ok(false) => return Ending::Complete,
                Err(error) => return Ending::Broken(error),
            },
            () = downstream.gone() => return Ending::ClientGone,
            () = &mut stopped => return Ending::Stopped,
            // Set anew only when it fires: most streams never let it.
            () = &mut timer => {
                let now = Instant::now();
                if limit.is_over(last, now) {
                    return Ending::Timeout;
                }
                if let Some(keep_alive) = limit.keep_alive.filter(|ping| awake + ping.every <= now) {
                    awake = now;
                    if reader.may_ping() {
                        downstream.push(keep_alive.bytes);
                    }
                }
                timer.as_mut().reset(limit.next(last, awake));
            }
        }
    }
}

/// Whether a future is ready, without waiting for it.
async fn is_ready(mut future: Pin<&mut impl Future<Output = ()>>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await
}
