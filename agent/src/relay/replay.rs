//! A request body that streams through once and, while it is small, can be sent a second time.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};

/// The caller's body together with a copy of what was read of it so far.
pub(super) struct Replay<B>(Arc<Mutex<Kept<B>>>);

/// One sending of the body. A later one takes over; what is left of an earlier one then fails.
pub(super) struct Attempt<B> {
    kept: Arc<Mutex<Kept<B>>>,
    number: u32,
    next: usize,
}

struct Kept<B> {
    body: B,
    ended: bool,
    frames: Vec<Bytes>,
    bytes: usize,
    limit: usize,
    /// More was read than is kept, so there is no second attempt.
    outgrown: bool,
    attempt: u32,
    waker: Option<Waker>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError<E> {
    #[error("the request is being sent again")]
    Superseded,
    #[error(transparent)]
    Caller(E),
}

impl<B> Replay<B> {
    pub(super) fn new(body: B, limit: usize) -> Self {
        let kept = Kept {
            body,
            ended: false,
            frames: Vec::new(),
            bytes: 0,
            limit,
            outgrown: false,
            attempt: 0,
            waker: None,
        };
        Self(Arc::new(Mutex::new(kept)))
    }

    /// The body from its beginning; none when it outgrew what is kept of it.
    pub(super) fn attempt(&self) -> Option<Attempt<B>> {
        let mut kept = lock(&self.0);
        if kept.outgrown {
            return None;
        }
        kept.attempt += 1;
        // Whoever still waits in the earlier attempt learns that it is over.
        if let Some(waker) = kept.waker.take() {
            waker.wake();
        }
        Some(Attempt {
            kept: self.0.clone(),
            number: kept.attempt,
            next: 0,
        })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Attempt<B> {
    type Data = Bytes;
    type Error = BodyError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let mut kept = lock(&this.kept);
        if kept.attempt != this.number {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(frame) = kept.frames.get(this.next).cloned() {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        let frame = match kept.poll_body(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        this.next = kept.frames.len();
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Caller)))
    }

    fn is_end_stream(&self) -> bool {
        let kept = lock(&self.kept);
        self.next >= kept.frames.len() && (kept.ended || kept.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let kept = lock(&self.kept);
        let again: u64 = kept.frames.iter().skip(self.next).map(|frame| frame.len() as u64).sum();
        let rest = if kept.ended {
            SizeHint::with_exact(0)
        } else {
            kept.body.size_hint()
        };
        let mut hint = SizeHint::new();
        hint.set_lower(again + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(again + upper);
        }
        hint
    }
}

impl<B: Body<Data = Bytes> + Unpin> Kept<B> {
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match &frame {
            Poll::Pending => self.waker = Some(cx.waker().clone()),
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Ok(frame))) => self.keep(frame.data_ref()),
            Poll::Ready(Some(Err(_))) => self.keep(None),
        }
        frame
    }

    /// Remembers `data`; trailers and errors (none) cannot be sent again.
    fn keep(&mut self, data: Option<&Bytes>) {
        self.bytes += data.map_or(0, Bytes::len);
        match data {
            Some(data) if !self.outgrown && self.bytes <= self.limit => self.frames.push(data.clone()),
            _ => {
                self.outgrown = true;
                self.frames = Vec::new();
            }
        }
    }
}

fn lock<B>(kept: &Mutex<Kept<B>>) -> MutexGuard<'_, Kept<B>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads and forgets up to `limit` bytes, so that a caller which is still sending gets to read its refusal.
pub(super) async fn discard<B: Body<Data = Bytes> + Unpin>(mut body: B, limit: usize) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > limit {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};
    use tokio::sync::mpsc;

    use super::*;

    async fn read_all<B: Body<Data = Bytes> + Unpin>(attempt: Attempt<B>) -> Option<String> {
        let whole = attempt.collect().await.ok()?.to_bytes();
        Some(String::from_utf8(whole.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_small_body_is_sent_again_whole() {
        let replay = Replay::new(Full::from("hello"), 5);
        assert_eq!(replay.attempt().unwrap().size_hint().exact(), Some(5));
        for _ in 0..3 {
            assert_eq!(read_all(replay.attempt().unwrap()).await.as_deref(), Some("hello"));
        }
    }

    #[tokio::test]
    async fn a_body_above_the_limit_passes_once() {
        let replay = Replay::new(Full::from("hello!"), 5);
        assert_eq!(read_all(replay.attempt().unwrap()).await.as_deref(), Some("hello!"));
        assert!(replay.attempt().is_none());
    }

    #[tokio::test]
    async fn a_second_attempt_takes_over_in_the_middle() {
        let (sender, mut receiver) = mpsc::unbounded_channel::<&'static str>();
        let stream = futures_util::stream::poll_fn(move |cx| {
            receiver
                .poll_recv(cx)
                .map(|part| part.map(|part| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(part)))))
        });
        let replay = Replay::new(StreamBody::new(stream), 100);
        sender.send("one ").unwrap();
        let mut first = replay.attempt().unwrap();
        assert!(first.frame().await.unwrap().is_ok());
        let waiting = tokio::spawn(async move { first.frame().await.unwrap().is_err() });
        tokio::task::yield_now().await;

        let second = tokio::spawn(read_all(replay.attempt().unwrap()));
        sender.send("two").unwrap();
        drop(sender);
        assert_eq!(second.await.unwrap().as_deref(), Some("one two"));
        assert!(waiting.await.unwrap(), "the first attempt ends with an error");
    }
}
