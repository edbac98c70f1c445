//! What is said and heard on a connection, whatever carries it.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, UNIX_EPOCH},
};

use ace_policies::{
    Secret, SessionId,
    wire::{Cli, Command, Connect, Failure, FailureCode, FromAgent, Known, PROTOCOL, ToAgent},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{Own, Shared, flow::Flow, lost::Lost};
use crate::{files, spool::Said, status::Transport};

/// From here on a wrong clock is worth a warning: tokens last minutes.
const MAX_SKEW_MS: i64 = 60_000;
/// A word about a session waits so long for the output that was printed before it.
const HOLD: Duration = Duration::from_secs(5);
/// The server looks at no more sessions in a first word; those that are left out have their turn later.
const MAX_NAMED: usize = 1000;
/// What the server says, as a last word, to a machine that was taken off the list while it was away.
const UNREGISTERED: &str = "machine_unregistered";
/// How long the sessions have to end when the machine was taken off the list.
const UNREGISTER: Duration = Duration::from_secs(20);

/// One connection's conversation.
pub(super) struct Conversation<'a> {
    shared: &'a Shared,
    own: &'a mut Own,
    transport: Transport,
    flow: Flow,
    queue: VecDeque<FromAgent>,
    held: VecDeque<(Instant, Said)>,
    heartbeat: Instant,
    period: Duration,
    clis: watch::Receiver<Vec<Cli>>,
    /// The CLIs are others than the server knows.
    news_of_clis: bool,
    skew_ms: i64,
    pub welcomed: bool,
    /// The sessions that the first word has named.
    named: Vec<SessionId>,
    /// Ends the connection once the queue is empty.
    ending: Option<Lost>,
    /// The command that took the machine off the list, and until when its end is waited for.
    unregistering: Option<(Uuid, Instant)>,
}

impl<'a> Conversation<'a> {
    pub fn new(shared: &'a Shared, own: &'a mut Own, transport: Transport) -> Self {
        let period = shared.config.heartbeat_interval;
        Self {
            shared,
            own,
            transport,
            flow: Flow::default(),
            queue: VecDeque::new(),
            held: VecDeque::new(),
            heartbeat: Instant::now() + period,
            period,
            clis: shared.clis.clone(),
            news_of_clis: false,
            skew_ms: 0,
            welcomed: false,
            named: Vec::new(),
            ending: None,
            unregistering: None,
        }
    }

    /// The first word.
    pub fn first_word(&mut self) -> FromAgent {
        let Shared {
            config, facts, spool, ..
        } = self.shared;
        let standing = &self.own.standing;
        let live: Vec<_> = standing.live().into_iter().map(|(session, _)| session).collect();
        let mut sessions: Vec<_> = spool.pending().iter().map(|pending| pending.session_id).collect();
        sessions.extend(live);
        sessions.sort_unstable();
        sessions.dedup();
        sessions.truncate(MAX_NAMED);
        self.named.clone_from(&sessions);
        self.clis.mark_unchanged();
        FromAgent::Connect(Connect {
            protocol: PROTOCOL,
            agent_version: crate::VERSION.to_owned(),
            machine_id: self.own.credentials.machine_id(),
            hostname: facts.hostname.clone(),
            os_type: facts.os_type.clone(),
            os_version: facts.os_version.clone(),
            capabilities: self.shared.capabilities(),
            work_dir: config.work_dir.to_str().map(str::to_owned),
            max_sessions: config.max_sessions,
            sessions: sessions
                .into_iter()
                .map(|session| standing.held(session, spool.last_seq(session)))
                .collect(),
        })
    }

    /// The next thing to say, when there is one. Dropped half-way it has lost nothing.
    pub async fn next(&mut self) -> Result<FromAgent, Lost> {
        loop {
            let ready = self.shared.spool.ready();
            tokio::pin!(ready);
            ready.as_mut().enable();
            if let Some(message) = self.at_once().await? {
                self.own.outbox.sending(&message);
                return Ok(message);
            }
            let deadline = self.deadline();
            let room = self.own.outbox.has_room();
            let said = tokio::select! {
                said = self.own.said.recv(), if room => said,
                () = ready => None,
                () = sleep_until(deadline) => None,
                () = changed(&mut self.clis) => {
                    self.news_of_clis = true;
                    None
                }
            };
            if let Some(said) = said {
                self.take(said);
            }
        }
    }

    async fn at_once(&mut self) -> Result<Option<FromAgent>, Lost> {
        if !self.welcomed {
            return Ok(None);
        }
        if let Some(message) = self.queue.pop_front() {
            return Ok(Some(message));
        }
        self.unregister_when_done();
        if self.queue.is_empty()
            && let Some(lost) = self.ending.take()
        {
            return Err(lost);
        }
        let now = Instant::now();
        if now >= self.heartbeat || self.news_of_clis {
            self.heartbeat = now + self.period;
            return Ok(Some(self.sign_of_life()));
        }
        while self.own.outbox.has_room()
            && let Ok(said) = self.own.said.try_recv()
        {
            self.take(said);
        }
        if let Some(message) = self.queue.pop_front().or_else(|| self.released(now)) {
            return Ok(Some(message));
        }
        self.output(now).await
    }

    fn sign_of_life(&mut self) -> FromAgent {
        let news = std::mem::take(&mut self.news_of_clis);
        FromAgent::Heartbeat {
            active_sessions: self.own.standing.live().len() as u32,
            capabilities: news.then(|| self.shared.capabilities()),
        }
    }

    /// Sorts what the sessions said: what follows output that is not sent yet waits for it.
    fn take(&mut self, said: Said) {
        self.own.standing.said(&said.message);
        self.shared.noted(&self.own.standing);
        if let (FromAgent::Done { command_id, .. }, Some((waiting, _))) = (&said.message, &self.unregistering)
            && command_id == waiting
        {
            self.unregistering = Some((*waiting, Instant::now()));
        }
        let session = said.after.map(|(session, _)| session);
        let must_wait = session.is_some_and(|session| {
            let others = self.held.iter();
            others
                .into_iter()
                .any(|(_, held)| held.after.is_some_and(|(of, _)| of == session))
                || !self.is_due(&said)
        });
        match must_wait {
            true => self.held.push_back((Instant::now() + HOLD, said)),
            false => self.queue.push_back(said.message),
        }
    }

    fn is_due(&self, said: &Said) -> bool {
        said.after
            .is_none_or(|(session, seq)| self.flow.sent_up_to(session) >= seq)
    }

    fn released(&mut self, now: Instant) -> Option<FromAgent> {
        let due = self.held.iter().enumerate().find(|(index, (until, said))| {
            let first = !self.held.iter().take(*index).any(|(_, earlier)| {
                earlier.after.map(|(session, _)| session) == said.after.map(|(session, _)| session)
            });
            first && (now >= *until || self.is_due(said))
        });
        let index = due.map(|(index, _)| index)?;
        self.held.remove(index).map(|(_, said)| said.message)
    }

    async fn output(&mut self, now: Instant) -> Result<Option<FromAgent>, Lost> {
        let Some((session_id, from)) = self.flow.next(&self.shared.spool.pending(), now) else {
            return Ok(None);
        };
        let spool = self.shared.spool.clone();
        let read = tokio::task::spawn_blocking(move || spool.batch(session_id, from)).await;
        let lines = read.map_err(io::Error::other).flatten().unwrap_or_else(|error| {
            tracing::error!(session = %session_id, %error, "the spool cannot be read");
            Vec::new()
        });
        let Some(last) = lines.last() else { return Ok(None) };
        self.flow.sent(session_id, last.seq, now);
        Ok(Some(FromAgent::Output { session_id, lines }))
    }

    fn deadline(&self) -> Instant {
        let held = self.held.iter().map(|(until, _)| *until).min();
        let unregistering = self.unregistering.map(|(_, until)| until);
        let others = [self.flow.deadline(), held, unregistering];
        others.into_iter().flatten().fold(self.heartbeat, Instant::min)
    }

    /// Acts on what the server says.
    pub async fn hear(&mut self, message: ToAgent) -> Result<(), Lost> {
        self.own.standing.heard(&message);
        match message {
            ToAgent::Welcome { .. } => self.welcome(message).await,
            ToAgent::OutputAck { session_id, last_seq } => {
                self.flow.acknowledged(session_id, last_seq, Instant::now());
                self.stored(session_id, last_seq);
                Ok(())
            }
            ToAgent::Command {
                command_id,
                expires_at_ms,
                command,
            } => self.command(command_id, expires_at_ms, command).await,
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
    fn stored(&self, session: SessionId, seq: i64) {
        let spool = self.shared.spool.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = spool.acknowledge(session, seq) {
                tracing::error!(session = %session, %error, "stored output cannot be taken out of the spool");
            }
        });
    }

    async fn welcome(&mut self, message: ToAgent) -> Result<(), Lost> {
        let ToAgent::Welcome {
            protocol,
            heartbeat_interval_s,
            server_time_ms,
            ref sessions,
        } = message
        else {
            return Ok(());
        };
        if protocol != PROTOCOL {
            tracing::warn!(
                protocol,
                ours = PROTOCOL,
                "the server speaks another version of the protocol"
            );
        }
        self.compare_clocks(server_time_ms);
        let wanted = Duration::from_secs(heartbeat_interval_s.max(1));
        self.period = wanted.min(self.shared.config.heartbeat_interval);
        self.heartbeat = Instant::now() + self.period;
        self.settle(sessions);
        if let Err(error) = self.own.credentials.rotated() {
            tracing::error!(%error, "the new agent token works but cannot be stored");
        }
        let unconfirmed = self.own.outbox.again();
        let standing = self.own.standing.again();
        self.queue
            .extend(standing.into_iter().filter(|message| !unconfirmed.contains(message)));
        self.queue.extend(unconfirmed);
        self.welcomed = true;
        self.shared.status.connected(self.transport);
        tracing::info!(
            "connected to {} over {}",
            self.shared.config.server.name(),
            self.transport
        );
        self.pass_on(message)
    }

    /// Takes over what the server has, and lets go of sessions that it does not know.
    fn settle(&mut self, known: &[Known]) {
        for session in known {
            self.flow.begin(session.session_id, session.last_seq);
            self.stored(session.session_id, session.last_seq);
        }
        let is_known = |session: SessionId| known.iter().any(|known| known.session_id == session);
        for session in std::mem::take(&mut self.named)
            .into_iter()
            .filter(|session| !is_known(*session))
        {
            tracing::warn!(session = %session, "the server does not know this session: its output is dropped");
            self.shared.spool.forget(session);
            self.own.standing.forget(session);
        }
    }

    fn compare_clocks(&mut self, server_time_ms: i64) {
        self.skew_ms = server_time_ms - self.now_ms();
        if self.skew_ms.abs() > MAX_SKEW_MS {
            let seconds = self.skew_ms / 1000;
            tracing::warn!(
                "this machine's clock is {} s {} the server's: tokens may seem expired or not yet valid; set it by NTP",
                seconds.abs(),
                if seconds > 0 { "behind" } else { "ahead of" },
            );
        }
        self.shared.status.skew(self.skew_ms);
    }

    fn now_ms(&self) -> i64 {
        let now = (self.shared.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
    }

    async fn command(&mut self, command_id: Uuid, expires_at_ms: i64, command: Command) -> Result<(), Lost> {
        if expires_at_ms < self.now_ms() + self.skew_ms {
            tracing::info!(%command_id, kind = %command.kind(), "a command has come too late and is left");
            return Ok(());
        }
        match command {
            Command::BrowseDirectory { .. }
            | Command::ReadFile { .. }
            | Command::GitStatus { .. }
            | Command::GitDiff { .. } => {
                self.queue.push_back(FromAgent::Ack { command_id });
                files::answer(self.shared.looking.clone(), self.own.say.clone(), command_id, command);
                Ok(())
            }
            Command::RotateToken { new_token, .. } => self.rotate(command_id, new_token),
            Command::Unregister {} => {
                self.queue.push_back(FromAgent::Ack { command_id });
                self.unregistering = Some((command_id, Instant::now() + UNREGISTER));
                self.forward(command_id, expires_at_ms, Command::Unregister {})
            }
            Command::StartSession(start) => {
                self.shared.learn(&start.proxy_token);
                if let Err(error) = self.shared.spool.begin(start.session_id, start.last_seq) {
                    tracing::error!(session = %start.session_id, %error, "the spool cannot be opened");
                }
                self.flow.begin(start.session_id, start.last_seq);
                self.forward(command_id, expires_at_ms, Command::StartSession(start))
            }
            command => self.forward(command_id, expires_at_ms, command),
        }
    }

    fn forward(&mut self, command_id: Uuid, expires_at_ms: i64, command: Command) -> Result<(), Lost> {
        self.pass_on(ToAgent::Command {
            command_id,
            expires_at_ms,
            command,
        })
    }

    fn pass_on(&mut self, message: ToAgent) -> Result<(), Lost> {
        self.shared.down.try_send(message).map_err(|_| Lost::Overrun)
    }

    /// Stores the new token first, so that it is not lost if we are killed now; then connects with it.
    fn rotate(&mut self, command_id: Uuid, new_token: String) -> Result<(), Lost> {
        self.queue.push_back(FromAgent::Ack { command_id });
        self.shared.learn(&new_token);
        let stored = match new_token.is_empty() {
            true => Err("the command has no token".to_owned()),
            false => self
                .own
                .credentials
                .rotate_to(Secret::new(new_token))
                .map_err(|error| format!("the new token cannot be stored: {error}")),
        };
        let error = stored.err().map(|message| Failure {
            code: FailureCode::Failed,
            message,
        });
        if error.is_none() && self.own.credentials.is_rotating() {
            self.ending = Some(Lost::Rotated);
        }
        self.queue.push_back(FromAgent::Done {
            command_id,
            result: None,
            error,
        });
        Ok(())
    }

    /// The sessions have ended, or had their time: the last word, and then nothing binds us to the server.
    fn unregister_when_done(&mut self) {
        let Some((command_id, _)) = self.unregistering.filter(|(_, until)| Instant::now() >= *until) else {
            return;
        };
        self.unregistering = None;
        self.queue.push_back(FromAgent::Done {
            command_id,
            result: None,
            error: None,
        });
        self.ending = Some(Lost::Unregistered);
    }

    /// Names everything that was said until now, for [`Self::confirm`].
    pub fn mark(&self) -> u64 {
        self.own.outbox.mark()
    }

    /// Everything up to a mark has arrived.
    pub fn confirm(&mut self, mark: u64) {
        self.own.outbox.confirm(mark);
    }
}
/// Waits for others than those that were seen.
async fn changed(clis: &mut watch::Receiver<Vec<Cli>>) {
    if clis.changed().await.is_err() {
        // All versions are told.
        std::future::pending().await
    }
}
