//! Connections that left HTTP: after a 101, bytes pass both ways until either side closes. What the server sends is read along.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::timeout;

use crate::engine::{AnswerHead, Downstream, Headers, ResponseHead, Served, Stop, Stream, Upstream};
use crate::ledger::Reservation;
use crate::proxy::Gateway;
use crate::ticket::Ticket;

/// Bytes of one read; messages of a conversation are small.
const BUFFER: usize = 16 * 1024;

/// How often it is asked whether the caller still stands: a connection outlives many tokens.
const WATCH: Duration = Duration::from_secs(1);

/// How a tunnel ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// One side closed it, or broke.
    Closed,
    /// The process ends.
    Stopped,
    /// The caller's token was revoked.
    Revoked,
}

/// Both ends, before the client knows.
pub struct Tunnel {
    downstream: Downstream,
    upstream: Upstream,
    head: AnswerHead,
}

impl Tunnel {
    /// A tunnel whose server answered 101 with `answer`; `headers` are those of its headers that go on.
    pub fn new(
        downstream: Downstream,
        upstream: Upstream,
        answer: &ResponseHead,
        headers: Headers,
        ticket: &Ticket,
    ) -> Self {
        let mut head = AnswerHead::new(101, None);
        head.headers = headers;
        head.headers.push("connection", b"upgrade");
        head.headers
            .push("upgrade", answer.headers.get("upgrade").unwrap_or(b"websocket"));
        ticket.stamp(&mut head);
        Self {
            downstream,
            upstream,
            head,
        }
    }

    /// Answers 101 and passes bytes on until either side closes or the process ends. `write` is for either side to take what is
    /// written to it.
    pub async fn run(self, write: Duration, stop: Stop) -> Served {
        self.pass(write, stop, std::future::pending(), |_| {}).await;
        Served::Broken
    }

    /// [`Self::run`] for a call that is metered, until its caller's token is revoked.
    pub async fn run_metered(self, gateway: &Gateway, stop: Stop, mut reservation: Box<Reservation>) -> Served {
        let claims = reservation.entry().claims.clone();
        let revoked = async {
            while gateway.gate.stands(&claims) {
                tokio::time::sleep(WATCH).await;
            }
        };
        let write = gateway.options.limits.write;
        let ending = self.pass(write, stop, revoked, |data| reservation.meter(data)).await;
        reservation.entry().error_kind = match ending {
            Ending::Closed => None,
            Ending::Stopped => Some("stopped"),
            Ending::Revoked => Some("revoked"),
        };
        Served::Broken
    }

    async fn pass(
        self,
        write: Duration,
        mut stop: Stop,
        revoked: impl Future<Output = ()>,
        mut read: impl FnMut(&[u8]),
    ) -> Ending {
        let Self {
            mut downstream,
            upstream,
            head,
        } = self;
        if downstream.start(&head).is_err() || downstream.flush().await.is_err() {
            return Ending::Closed;
        }
        let (Downstream::H1(client), Some(server)) = (downstream, upstream.into_tunnel()) else {
            return Ending::Closed;
        };
        let (client, server) = (End::new(client.into_tunnel()), End::new(server));
        // Whichever side closes first ends it: neither has anything to say to nobody.
        tokio::select! {
            _ = pass(client.read, client.ahead, server.write, write, |_| {}) => Ending::Closed,
            _ = pass(server.read, server.ahead, client.write, write, &mut read) => Ending::Closed,
            () = stop.ending() => Ending::Stopped,
            () = revoked => Ending::Revoked,
        }
    }
}

struct End {
    read: ReadHalf<Stream>,
    write: WriteHalf<Stream>,
    /// What was read before HTTP was left.
    ahead: BytesMut,
}

impl End {
    fn new((stream, ahead): (Stream, BytesMut)) -> Self {
        let (read, write) = split(stream);
        Self { read, write, ahead }
    }
}

async fn pass(
    mut from: ReadHalf<Stream>,
    ahead: BytesMut,
    mut to: WriteHalf<Stream>,
    write: Duration,
    mut read: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    read(&ahead);
    timeout(write, send(&mut to, &ahead)).await??;
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        read(&buffer[..count]);
        timeout(write, send(&mut to, &buffer[..count])).await??;
    }
}

async fn send(to: &mut WriteHalf<Stream>, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}
