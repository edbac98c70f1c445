//! Connections that left HTTP: after a 101, bytes pass both ways until either side closes. What the server sends is read along.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};

use crate::engine::server::{Served, Stop};
use crate::engine::{AnswerHead, Downstream, Headers, ResponseHead, Stream, Upstream};
use crate::ledger::Reservation;
use crate::ticket::Ticket;

/// Bytes of one read; messages of a conversation are small.
const BUFFER: usize = 16 * 1024;

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

    /// Answers 101 and passes bytes on until either side closes or the process ends.
    pub async fn run(self, mut stop: Stop, mut read: impl FnMut(&[u8])) -> Served {
        let Self {
            mut downstream,
            upstream,
            head,
        } = self;
        if downstream.start(&head).is_err() || downstream.flush().await.is_err() {
            return Served::Broken;
        }
        let (Downstream::H1(client), Some(server)) = (downstream, upstream.into_tunnel()) else {
            return Served::Broken;
        };
        let (client, server) = (End::new(client.into_tunnel()), End::new(server));
        let passed = async {
            // Whichever side closes first ends it: neither has anything to say to nobody.
            tokio::select! {
                up = pass(client.read, client.ahead, server.write, |_| {}) => up,
                down = pass(server.read, server.ahead, client.write, &mut read) => down,
            }
        };
        tokio::select! {
            _ = passed => {}
            () = stop.ending() => {}
        }
        Served::Broken
    }

    /// [`Self::run`] for a call that is metered.
    pub async fn run_metered(self, stop: Stop, mut reservation: Box<Reservation>) -> Served {
        let served = self.run(stop, |data| reservation.meter(data)).await;
        reservation.entry().error_kind = None;
        served
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
    mut read: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    read(&ahead);
    to.write_all(&ahead).await?;
    to.flush().await?;
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        read(&buffer[..count]);
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
    }
}
