//! What is said and heard on a connection, whatever carries it.

use std::{
    io,
    time::{Duration, UNIX_EPOCH},
};

use ace_policies::{
    SessionId,
    wire::{Cli, FromAgent, Line, ToAgent},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Own, Shared, flow::Flow, lost::Lost};
use crate::{status::Transport, uplink::Down};

/// What the server says, as a last word, to a machine that was taken off the list while it was away.
const UNREGISTERED: &str = "machine_unregistered";

/// One connection's part of the conversation with the server.
pub(super) struct Exchange<'a> {
    pub(super) shared: &'a Shared,
    pub(super) own: &'a mut Own,
    pub(super) transport: Transport,
    pub(super) flow: Flow,
    pub(super) heartbeat: Instant,
    pub(super) period: Duration,
    pub(super) clis: watch::Receiver<Vec<Cli>>,
    /// The CLIs are others than the server knows.
    news_of_clis: bool,
    /// The server's clock less ours.
    pub(super) skew_ms: i64,
    pub welcomed: bool,
    /// The sessions that the first word has named.
    pub(super) named: Vec<SessionId>,
    /// Ends the connection once nothing more can be said at once.
    pub(super) ending: Option<Lost>,
}

impl<'a> Exchange<'a> {
    pub fn new(shared: &'a Shared, own: &'a mut Own, transport: Transport) -> Self {
        own.outbox.again();
        let period = shared.config.heartbeat_interval;
        Self {
            shared,
            own,
            transport,
            flow: Flow::default(),
            heartbeat: Instant::now() + period,
            period,
            clis: shared.clis.clone(),
            news_of_clis: false,
            skew_ms: 0,
            welcomed: false,
            named: Vec::new(),
            ending: None,
        }
    }

    /// The next thing to say, when there is one. Dropped half-way it has lost nothing.
    pub async fn next(&mut self) -> Result<FromAgent, Lost> {
        loop {
            let ready = self.shared.spool.ready();
            tokio::pin!(ready);
            ready.as_mut().enable();
            if let Some(message) = self.at_once().await? {
                return Ok(message);
            }
            let deadline = self.deadline();
            tokio::select! {
                () = self.own.outbox.news() => {}
                () = ready => {}
                () = sleep_until(deadline) => {}
                () = changed(&mut self.clis) => self.news_of_clis = true,
            }
        }
    }

    async fn at_once(&mut self) -> Result<Option<FromAgent>, Lost> {
        if !self.welcomed {
            return Ok(None);
        }
        let now = Instant::now();
        if now >= self.heartbeat || self.news_of_clis {
            self.heartbeat = now + self.period;
            return Ok(Some(self.sign_of_life()));
        }
        if let Some(message) = self.word(now) {
            return Ok(Some(message));
        }
        match self.end(now) {
            Some(lost) => Err(lost),
            None => Ok(self.output(now).await),
        }
    }

    fn sign_of_life(&mut self) -> FromAgent {
        let news = std::mem::take(&mut self.news_of_clis);
        FromAgent::Heartbeat {
            active_sessions: self.own.standing.live().len() as u32,
            capabilities: news.then(|| self.shared.capabilities()),
        }
    }

    /// What the agent says beside output; what follows output that is not sent yet waits for it.
    fn word(&mut self, now: Instant) -> Option<FromAgent> {
        let (flow, spool) = (&self.flow, &self.shared.spool);
        let is_out = |session, seq| flow.sent_up_to(session) >= seq || spool.acked(session) >= seq;
        let message = self.own.outbox.next(now, is_out)?;
        self.own.standing.said(&message);
        self.shared.noted(&self.own.standing);
        self.look_for_the_last(&message);
        Some(message)
    }

    async fn output(&mut self, now: Instant) -> Option<FromAgent> {
        while let Some((session_id, from)) = self.flow.next(&self.shared.spool.pending(), now) {
            let lines = self.read(session_id, from).await;
            if let Some(last) = lines.last() {
                self.flow.sent(session_id, last.seq, now);
                return Some(FromAgent::Output { session_id, lines });
            }
            self.flow.unreadable(session_id, now);
        }
        None
    }

    async fn read(&self, session: SessionId, from: i64) -> Vec<Line> {
        let spool = self.shared.spool.clone();
        let read = tokio::task::spawn_blocking(move || spool.batch(session, from)).await;
        read.map_err(io::Error::other).flatten().unwrap_or_else(|error| {
            tracing::error!(%session, %error, "the spool cannot be read");
            Vec::new()
        })
    }

    fn deadline(&self) -> Instant {
        let others = [self.flow.deadline(), self.own.outbox.deadline(), self.leaving_until()];
        others.into_iter().flatten().fold(self.heartbeat, Instant::min)
    }

    /// Acts on what the server says.
    pub fn hear(&mut self, message: ToAgent) -> Result<(), Lost> {
        self.own.standing.heard(&message);
        match message {
            ToAgent::Welcome { .. } => self.welcome(message),
            ToAgent::OutputAck { session_id, last_seq } => {
                self.flow.acknowledged(session_id, last_seq, Instant::now());
                self.stored(session_id, last_seq);
                Ok(())
            }
            ToAgent::Command {
                command_id,
                expires_at_ms,
                command,
            } => self.command(command_id, expires_at_ms, command),
            ToAgent::Token { ref token, .. } => {
                self.shared.learn(token);
                self.pass_on(message)
            }
            ToAgent::Error { code, message, fatal } => {
                tracing::error!(%code, fatal, "the server says: {message}");
                match fatal {
                    true if code == UNREGISTERED => Err(Lost::Unregistered),
                    true => Err(Lost::Told { code, message }),
                    false => Ok(()),
                }
            }
        }
    }

    /// On a thread of its own: segments are deleted by it, and disks can be slow.
    pub(super) fn stored(&self, session: SessionId, seq: i64) {
        let spool = self.shared.spool.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = spool.acknowledge(session, seq) {
                tracing::error!(session = %session, %error, "stored output cannot be taken out of the spool");
            }
        });
    }

    pub(super) fn pass_on(&mut self, message: ToAgent) -> Result<(), Lost> {
        let down = &self.shared.down;
        down.try_send(Down::Heard(message)).map_err(|_| Lost::Overrun)
    }

    pub(super) fn now_ms(&self) -> i64 {
        let now = (self.shared.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
    }

    /// Names everything that was said until now, for [`Self::confirm`].
    pub fn mark(&self) -> u64 {
        self.own.outbox.mark()
    }

    /// Everything up to a mark has arrived.
    pub fn confirm(&mut self, mark: u64) {
        self.own.outbox.confirm(mark);
    }

    /// Whether something was said of which it is not known that it has arrived.
    pub fn is_unconfirmed(&self) -> bool {
        self.own.outbox.is_unconfirmed()
    }
}

/// Waits for others than those that were seen.
async fn changed(clis: &mut watch::Receiver<Vec<Cli>>) {
    if clis.changed().await.is_err() {
        // All versions are told.
        std::future::pending().await
    }
}
