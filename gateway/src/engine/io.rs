//! Reading without a buffer per waiting connection, and writing with a deadline.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::Stream;

/// How much one read can bring.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    /// Shared by all connections of a thread: a connection that waits for bytes holds no buffer for them.
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Reads what is there and appends it to `into`; 0 is the end of the stream. Cancel-safe: bytes are read and kept in the
/// same poll.
pub async fn fill(stream: &mut Stream, into: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| poll_fill(stream, into, cx)).await
}

/// [`fill`] as a poll function.
pub fn poll_fill(stream: &mut Stream, into: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => {
                into.extend_from_slice(buffer.filled());
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    })
}

/// Writes all of `bytes` and flushes, within `deadline`. Not cancel-safe: a cancelled write leaves the peer with a part.
pub async fn write_all(stream: &mut Stream, bytes: &[u8], deadline: Duration) -> io::Result<()> {
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    match tokio::time::timeout(deadline, write).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            ErrorKind::TimedOut,
            "the peer does not take what is written to it",
        )),
    }
}

/// Gives back the memory of a buffer that is empty and was large.
pub fn shrink(buffer: &mut Vec<u8>) {
    const KEPT: usize = 4 * 1024;
    buffer.clear();
    if buffer.capacity() > KEPT {
        *buffer = Vec::new();
    }
}
