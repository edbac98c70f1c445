//! The first words of a connection: who we are and what we have, and what the server has.

use std::time::Duration;

use ace_policies::{
    SessionId,
    wire::{Connect, FromAgent, Known, PROTOCOL, ToAgent},
};
use tokio::time::Instant;

use super::{Shared, exchange::Exchange, lost::Lost};

/// From here on a wrong clock is worth a warning: tokens last minutes.
const MAX_SKEW_MS: i64 = 60_000;
/// The server looks at no more sessions in a first word; those that are left out have their turn later.
const MAX_NAMED: usize = 1000;

impl Exchange<'_> {
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

    pub(super) fn welcome(&mut self, message: ToAgent) -> Result<(), Lost> {
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
        self.welcomed = true;
        self.own.connected = true;
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
}
