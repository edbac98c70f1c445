//! An answer's body that fails when nothing arrives for too long, so that no stream outlives its peer.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

pub(super) struct Watched<B> {
    inner: B,
    limit: Duration,
    heard: Instant,
    alarm: Pin<Box<Sleep>>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("the gateway has sent nothing for {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

impl<B> Watched<B> {
    pub(super) fn new(inner: B, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            heard: Instant::now(),
            alarm: Box::pin(sleep(limit)),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B>
where
    StreamError: From<B::Error>,
{
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.heard = Instant::now();
            return Poll::Ready(frame.map(|frame| frame.map_err(StreamError::from)));
        }
        // The alarm is moved only when it rings: a chunk costs no timer.
        while self.alarm.as_mut().poll(cx).is_ready() {
            let deadline = self.heard + self.limit;
            if deadline <= Instant::now() {
                return Poll::Ready(Some(Err(StreamError::Silent(self.limit))));
            }
            self.alarm.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tokio::{sync::mpsc, time::advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_chunk_starts_the_wait_anew() {
        let (sender, mut receiver) = mpsc::unbounded_channel::<Bytes>();
        let stream = futures_util::stream::poll_fn(move |cx| {
            receiver
                .poll_recv(cx)
                .map(|part| part.map(|part| Ok::<_, hyper::Error>(Frame::data(part))))
        });
        let limit = Duration::from_secs(10);
        let mut body = Watched::new(StreamBody::new(stream), limit);
        for _ in 0..3 {
            advance(limit - Duration::from_secs(1)).await;
            sender.send(Bytes::from_static(b"x")).unwrap();
            assert!(body.frame().await.unwrap().is_ok());
        }
        let last = Instant::now();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, StreamError::Silent(_)));
        assert_eq!(last.elapsed(), limit);
    }
}
