//! The life of a client's connection: which version it speaks, and one request after the other.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora_core::protocols::ALPN;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;
use super::downstream::{Downstream, Limits};
use super::h1::server::{H1Server, NoRequest};
use super::h2_server::H2Server;
use super::io::fill;
use super::server::App;
use super::service::{HeadRefusal, Incoming, Served, Service};
use super::stop::{Phase, Stop};

/// What a client that speaks HTTP/2 sends first (RFC 9113 §3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection, or a stream of one, that is counted while it lives.
pub(super) struct Counted {
    connections: Arc<AtomicUsize>,
    /// How many there were before.
    pub(super) before: usize,
}

impl Counted {
    pub(super) fn new(connections: &Arc<AtomicUsize>) -> Self {
        Self {
            connections: connections.clone(),
            before: connections.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An accepted connection, before it is known what its client speaks.
pub(super) struct Connection<S> {
    service: Arc<S>,
    stream: Stream,
    limits: Limits,
    peer: IpAddr,
    tls: bool,
    stop: Stop,
    _count: Counted,
}

impl<S: Service> Connection<S> {
    /// `None` where the peer is gone already.
    pub(super) fn new(app: &App<S>, stream: Stream, count: Counted) -> Option<Self> {
        let peer: SocketAddr = stream
            .get_socket_digest()
            .and_then(|digest| digest.peer_addr().and_then(|peer| peer.as_inet().copied()))?;
        let tls = stream.get_ssl_digest().is_some();
        Some(Self {
            service: app.service.clone(),
            stream,
            limits: app.limits,
            peer: peer.ip().to_canonical(),
            tls,
            stop: app.stop.clone(),
            _count: count,
        })
    }

    /// Serves it to its end.
    pub(super) async fn run(mut self) {
        if self.tls {
            return match self.stream.selected_alpn_proto() {
                Some(ALPN::H2) => Box::pin(self.run_h2(BytesMut::new())).await,
                _ => self.run_h1(BytesMut::new()).await,
            };
        }
        let mut first = BytesMut::new();
        match self.speaks_h2(&mut first).await {
            Some(true) => Box::pin(self.run_h2(first)).await,
            Some(false) => self.run_h1(first).await,
            None => {}
        }
    }

    /// Reads until it is clear which version the client speaks; `None` if it goes away, or says nothing for too long.
    async fn speaks_h2(&mut self, first: &mut BytesMut) -> Option<bool> {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            read = tokio::time::timeout(self.limits.keepalive, fill(&mut self.stream, first)) => read.ok()?.ok().filter(|read| *read > 0)?,
            () = stop.nothing_came() => return None,
        };
        let read_on = async {
            loop {
                let known = first.len().min(H2_PREFACE.len());
                if first[..known] != H2_PREFACE[..known] {
                    return Some(false);
                }
                if known == H2_PREFACE.len() {
                    return Some(true);
                }
                fill(&mut self.stream, first).await.ok().filter(|read| *read > 0)?;
            }
        };
        tokio::time::timeout(self.limits.head, read_on).await.ok()?
    }

    async fn run_h1(self, first: BytesMut) {
        let Self {
            service,
            stream,
            limits,
            peer,
            tls,
            mut stop,
            _count,
        } = self;
        let mut session = Box::new(H1Server::new(stream));
        session.unread(&first);
        drop(first);
        let mut is_first = true;
        loop {
            // Not when it is polled: a request that is there already would keep its successor the first one.
            let awaits_first = std::mem::take(&mut is_first);
            let over = async {
                match awaits_first {
                    true => stop.nothing_came().await,
                    false => stop.reached(Phase::Draining).await,
                }
            };
            let head = tokio::select! {
                biased;
                head = session.read_head(&limits, limits.keepalive) => head,
                () = over => return,
            };
            let head = match head {
                Ok(head) => Ok(head),
                Err(NoRequest::Closed) => return,
                Err(NoRequest::Timeout) => Err(HeadRefusal::Timeout),
                Err(NoRequest::Refused(why)) => Err(HeadRefusal::Head(why)),
            };
            if head.is_err() || stop.is_draining() {
                session.close_after();
            }
            let active = stop.enter();
            let request = Incoming {
                downstream: Downstream::H1(session),
                head,
                peer,
                tls,
                stop: stop.clone(),
            };
            let served = service.serve(request).await;
            drop(active);
            session = match served {
                Served::Answered(Downstream::H1(session)) if session.is_reusable() && !stop.is_draining() => session,
                Served::Answered(Downstream::H1(session)) => return session.close().await,
                _ => return,
            };
        }
    }

    async fn run_h2(self, first: BytesMut) {
        let Self {
            service,
            stream,
            limits,
            peer,
            tls,
            mut stop,
            _count,
        } = self;
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(256)
            .max_header_list_size(limits.heads.bytes as u32)
            .initial_window_size(1024 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024)
            .max_pending_accept_reset_streams(32)
            .max_local_error_reset_streams(Some(128));
        let Ok(Ok(mut connection)) =
            tokio::time::timeout(limits.head, builder.handshake(Rewound { first, stream })).await
        else {
            return;
        };
        let streams = Arc::new(AtomicUsize::new(0));
        let mut closing = false;
        // Holds the end of the process up: what was answered may still be on its way to a slow client.
        let mut unsent = None;
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = connection.accept() => accepted,
                () = stop.reached(Phase::Draining), if !closing => {
                    closing = true;
                    unsent = (streams.load(Ordering::Relaxed) > 0).then(|| stop.enter());
                    connection.graceful_shutdown();
                    continue;
                }
                () = idle(&streams, limits.keepalive) => {
                    if closing {
                        return;
                    }
                    // Not at once: the last answer may not have been written, and the next request be under way.
                    closing = true;
                    connection.graceful_shutdown();
                    continue;
                }
            };
            let Some(Ok((request, respond))) = accepted else {
                drop(unsent);
                return;
            };
            let (session, head) = H2Server::new(request, respond, &limits);
            let head = head.map_err(HeadRefusal::Head);
            let request = Incoming {
                downstream: Downstream::H2(Box::new(session)),
                head,
                peer,
                tls,
                stop: stop.clone(),
            };
            let (service, active) = (service.clone(), (stop.enter(), Counted::new(&streams)));
            tokio::spawn(async move {
                if let Served::Answered(Downstream::H2(session)) = service.serve(request).await {
                    drop(session);
                }
                drop(active);
            });
        }
    }
}

/// Ready when a connection had no stream for `limit`.
async fn idle(streams: &AtomicUsize, limit: Duration) {
    loop {
        tokio::time::sleep(limit).await;
        if streams.load(Ordering::Relaxed) == 0 {
            return;
        }
    }
}

/// A transport with bytes put back in front.
struct Rewound {
    first: BytesMut,
    stream: Stream,
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..count]);
            self.first.advance(count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
