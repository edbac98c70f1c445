//! Connections that left HTTP: after a 101, bytes pass both ways until either side closes. What the server sends is read along.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::timeout;

use crate::engine::{AnswerHead, Downstream, Headers, ResponseHead, Served, Stop, Stream, Upstream};
use crate::ledger::Reservation;
use crate::metering::{Budget, stopped};
use crate::proxy::Gateway;
use crate::refusal::Refusal;
use crate::ticket::Ticket;

/// Bytes of one read; messages of a conversation are small.
const BUFFER: usize = 16 * 1024;

/// How often it is asked whether the caller still stands: a connection outlives many tokens.
const WATCH: Duration = Duration::from_secs(1);

/// How long a client that is told why its connection ends may take to leave.
const LINGER: Duration = Duration::from_secs(1);

/// RFC 6455, 7.4.1: what was asked for goes against a policy.
const POLICY_VIOLATION: u16 = 1008;
/// The IANA registry of close codes: the server cannot go on now.
const TRY_AGAIN_LATER: u16 = 1013;

/// RFC 6455, 5.5: a control frame carries 125 bytes, two of which are the code.
const MAX_REASON: usize = 123;

/// How a tunnel ended.
enum Ending {
    /// One side closed it, or broke.
    Closed,
    /// The process ends.
    Stopped,
    /// The caller's token was revoked.
    Revoked,
    /// A limit is spent.
    Spent(Box<Refusal>),
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
    pub async fn run(self, write: Duration, mut stop: Stop) -> Served {
        if let Some((mut client, mut server)) = self.open().await {
            tokio::select! {
                _ = pass(&mut client.read, client.ahead, &mut server.write, write) => {}
                _ = pass(&mut server.read, server.ahead, &mut client.write, write) => {}
                () = stop.ending() => {}
            }
        }
        Served::Broken
    }

    /// [`Self::run`] for a call that is metered, until its caller's token is revoked or a limit is spent.
    pub async fn run_metered(self, gateway: &Gateway, mut stop: Stop, mut reservation: Box<Reservation>) -> Served {
        let claims = reservation.entry().claims.clone();
        let revoked = async {
            while gateway.gate.stands(&claims) {
                tokio::time::sleep(WATCH).await;
            }
        };
        let write = gateway.options.limits.write;
        let Some((mut client, mut server)) = self.open().await else {
            reservation.entry().error_kind = None;
            return Served::Broken;
        };
        let listener = Listener {
            reservation: &mut *reservation,
            refusal: None,
            is_cut: false,
        };
        // Whichever side closes first ends it: neither has anything to say to nobody.
        let ending = tokio::select! {
            _ = pass(&mut client.read, client.ahead, &mut server.write, write) => Ending::Closed,
            ending = pass_metered(&mut server.read, server.ahead, &mut client.write, write, listener) => {
                ending.unwrap_or(Ending::Closed)
            }
            () = stop.ending() => Ending::Stopped,
            () = revoked => Ending::Revoked,
        };
        reservation.entry().error_kind = match &ending {
            Ending::Closed => None,
            Ending::Stopped => Some("stopped"),
            Ending::Revoked => Some("revoked"),
            Ending::Spent(refusal) => Some(stopped(gateway, refusal)),
        };
        drop((server.read, server.write));
        if let Ending::Spent(refusal) = ending {
            let _ = timeout(LINGER, close(client.read, client.write, &refusal)).await;
        }
        Served::Broken
    }

    /// Answers 101; gives both ends.
    async fn open(self) -> Option<(End, End)> {
        let Self {
            mut downstream,
            upstream,
            head,
        } = self;
        if downstream.start(&head).is_err() || downstream.flush().await.is_err() {
            return None;
        }
        match (downstream, upstream.into_tunnel()) {
            (Downstream::H1(client), Some(server)) => Some((End::new(client.into_tunnel()), End::new(server))),
            _ => None,
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
    from: &mut ReadHalf<Stream>,
    ahead: BytesMut,
    to: &mut WriteHalf<Stream>,
    write: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    timeout(write, send(to, &ahead)).await??;
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        timeout(write, send(to, &buffer[..count])).await??;
    }
}

/// [`pass`] for what a server says, as long as the budget lasts.
async fn pass_metered(
    from: &mut ReadHalf<Stream>,
    ahead: BytesMut,
    to: &mut WriteHalf<Stream>,
    write: Duration,
    mut listener: Listener<'_, impl Budget>,
) -> io::Result<Ending> {
    let mut buffer = vec![0; BUFFER];
    let mut heard = listener.hear(&ahead);
    timeout(write, send(to, &ahead[..heard])).await??;
    loop {
        if let Some(refusal) = listener.is_over().await {
            return Ok(Ending::Spent(refusal));
        }
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            to.shutdown().await?;
            return Ok(Ending::Closed);
        }
        heard = listener.hear(&buffer[..count]);
        timeout(write, send(to, &buffer[..heard])).await??;
    }
}

/// Reads what a server says, and when it is to be cut short.
struct Listener<'r, B> {
    reservation: &'r mut B,
    refusal: Option<Box<Refusal>>,
    /// The last frame that goes on has ended.
    is_cut: bool,
}

impl<B: Budget> Listener<'_, B> {
    /// Reads a piece and says how much of it goes on: beyond its budget a connection ends with the frame that is passing.
    fn hear(&mut self, data: &[u8]) -> usize {
        if self.refusal.is_none() {
            self.reservation.meter(data);
            return data.len();
        }
        for (at, byte) in data.iter().enumerate() {
            if self.reservation.is_between_frames() {
                self.is_cut = true;
                self.reservation.meter_unsent(&data[at..]);
                return at;
            }
            self.reservation.meter(std::slice::from_ref(byte));
        }
        data.len()
    }

    /// Waits for more budget where there is too little, and says why the connection is to end here.
    async fn is_over(&mut self) -> Option<Box<Refusal>> {
        if self.refusal.is_none() && self.reservation.is_short() {
            self.refusal = self.reservation.extend().await.err().map(Box::new);
        }
        self.refusal
            .take_if(|_| self.is_cut || self.reservation.is_between_frames())
    }
}

/// Says why the connection ends, in a frame of the protocol, and waits for the client to leave: closing on bytes that it has
/// sent would take the frame back.
async fn close(mut client: ReadHalf<Stream>, mut to: WriteHalf<Stream>, refusal: &Refusal) -> io::Result<()> {
    let code = if refusal.is_limit() {
        POLICY_VIOLATION
    } else {
        TRY_AGAIN_LATER
    };
    let reason = format!("{}: {}", refusal.reason(), refusal.message());
    send(&mut to, &close_frame(code, &reason)).await?;
    to.shutdown().await?;
    let mut unread = [0; 1024];
    while client.read(&mut unread).await? > 0 {}
    Ok(())
}

/// A server's close frame, its reason cut to what fits in.
fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    const FINAL_CLOSE: u8 = 0x88;
    let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
    let mut frame = vec![FINAL_CLOSE, 2 + reason.len() as u8];
    frame.extend(code.to_be_bytes());
    frame.extend(reason.as_bytes());
    frame
}

async fn send(to: &mut WriteHalf<Stream>, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::testing::spent;
    use crate::provider::{Meter, RealtimeMeter};
    use crate::websocket::testing::{FINAL, TEXT, frame};

    /// A connection whose budget was spent from its beginning.
    struct Broke(RealtimeMeter);

    impl Budget for Broke {
        fn meter(&mut self, data: &[u8]) {
            self.0.feed(data);
        }

        fn meter_unsent(&mut self, data: &[u8]) {
            self.0.feed(data);
        }

        fn is_short(&self) -> bool {
            true
        }

        async fn extend(&mut self) -> Result<(), Refusal> {
            Err(spent(7))
        }

        fn answer(&self) -> Option<&Meter> {
            None
        }

        fn is_between_frames(&self) -> bool {
            self.0.is_between_frames()
        }
    }

    #[tokio::test]
    async fn a_connection_beyond_its_budget_ends_with_the_frame_that_is_passing() {
        let (first, second) = (frame(FINAL | TEXT, b"{\"a\":1}"), frame(FINAL | TEXT, &[b'x'; 300]));
        let wire = [&first[..], &second, &first].concat();
        for piece in [1, 2, 3, 5, 100, first.len(), first.len() + 1, wire.len()] {
            let mut reservation = Broke(RealtimeMeter::new(1 << 20));
            let mut listener = Listener {
                reservation: &mut reservation,
                refusal: None,
                is_cut: false,
            };
            let (mut heard, mut over) = (0, false);
            for piece in wire.chunks(piece) {
                heard += listener.hear(piece);
                over = listener.is_over().await.is_some();
                if over {
                    break;
                }
            }
            let ends = [first.len(), first.len() + second.len(), wire.len()];
            assert!(over && ends.contains(&heard), "{heard} bytes in pieces of {piece}");
            assert!(piece >= wire.len() || heard < wire.len(), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_close_frame_has_a_code_and_as_much_of_the_reason_as_fits() {
        assert_eq!(close_frame(POLICY_VIOLATION, "why"), b"\x88\x05\x03\xf0why");
        let long = close_frame(TRY_AGAIN_LATER, &"ä".repeat(100));
        assert_eq!((long.len(), usize::from(long[1])), (2 + 2 + 122, 2 + 122));
        assert!(std::str::from_utf8(&long[4..]).is_ok());
    }
}
