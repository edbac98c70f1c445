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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::engine::AnswerHead;
    use crate::engine::stop::Phase;
    use crate::engine::testing::{downstream, stop, upstream};

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n";

    /// Passes on and is short after every piece, always.
    struct Short;

    impl Reader for Short {
        fn take(&mut self, data: &[u8], downstream: &mut Downstream) {
            downstream.push(data);
        }

        fn is_short(&self) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_short_is_asked_with_all_written_and_again_with_every_piece() {
        let (mut server, from) = duplex(1024);
        let (mut client, to) = duplex(1024);
        server.write_all(&[HEAD, b"abc"].concat()).await.unwrap();
        client.write_all(ASK).await.unwrap();
        let (mut from, mut to) = (upstream(Box::new(from)).await, downstream(Box::new(to)).await);
        to.start(&AnswerHead::new(200, Some(8))).unwrap();
        let (_process, mut stop) = stop();
        let limit = Limit::silence(Duration::from_secs(9));
        let mut read = [0; 1024];

        assert!(matches!(
            copy(&mut from, &mut to, limit, &mut stop, &mut Short).await,
            Ending::Short
        ));
        let count = client.read(&mut read).await.unwrap();
        assert!(read[..count].ends_with(b"\r\n\r\nabc"), "the piece is written");

        let silent = copy(&mut from, &mut to, limit, &mut stop, &mut Short).await;
        assert!(
            matches!(silent, Ending::Timeout),
            "nothing is asked without a new piece"
        );
        server.write_all(b"def").await.unwrap();
        assert!(matches!(
            copy(&mut from, &mut to, limit, &mut stop, &mut Short).await,
            Ending::Short
        ));
        server.write_all(b"gh").await.unwrap();
        assert!(
            matches!(
                copy(&mut from, &mut to, limit, &mut stop, &mut Short).await,
                Ending::Complete
            ),
            "what is complete needs nothing"
        );
    }

    /// Takes its time over every piece.
    struct Slow;

    impl Reader for Slow {
        #[expect(clippy::disallowed_methods, reason = "that it blocks is the point")]
        fn take(&mut self, _: &[u8], _: &mut Downstream) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How a stream ends that has always more to read.
    async fn relentless(deadline: Option<Duration>, phase: Phase) -> Ending {
        let body = vec![b'x'; 64 << 20];
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut from = upstream(Box::new(Cursor::new([head.as_bytes(), &body].concat()))).await;
        let mut to = downstream(Box::new(Cursor::new(ASK.to_vec()))).await;
        let (process, mut stop) = stop();
        process.send_replace(phase);
        let limit = Limit {
            deadline: deadline.map(|deadline| Instant::now() + deadline),
            ..Limit::silence(Duration::from_secs(60))
        };
        copy(&mut from, &mut to, limit, &mut stop, &mut Slow).await
    }

    #[tokio::test]
    async fn a_stream_that_never_pauses_hides_neither_the_deadline_nor_the_end_of_the_process() {
        let soon = Some(Duration::from_millis(50));
        assert!(matches!(relentless(soon, Phase::Running).await, Ending::Timeout));
        assert!(matches!(relentless(None, Phase::Ending).await, Ending::Stopped));
    }
}
