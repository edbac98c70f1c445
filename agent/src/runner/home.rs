//! What a session has on this machine besides its CLI: the relay that its CLI's requests go through.

use std::{io, time::Duration};

use ace_policies::{MachineId, SessionId, secret::Secret};
use tokio::time::Instant;

use crate::{
    relay::{Config, Limits, ProxyToken, Relay, TokenFeed, TokenSource, token_channel},
    transport::GatewayUrl,
};

/// A session's relay, from its first token on.
pub struct Home {
    key: String,
    feed: TokenFeed,
    source: TokenSource,
    relay: Option<Relay>,
}

impl Home {
    /// One with a key of its own; nothing listens yet.
    pub fn new(new_key: fn() -> Secret) -> Self {
        let (feed, source) = token_channel();
        let key = new_key().expose().to_owned();
        Self {
            key,
            feed,
            source,
            relay: None,
        }
    }

    /// What the CLI shows the relay.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A fresh token, good for so long.
    pub fn publish(&self, token: String, left_ms: i64) {
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
        self.feed
            .publish(ProxyToken::new(Secret::new(token), Some(Instant::now() + left)));
    }

    /// The relay's address; it stays the same for all processes of the session.
    pub async fn open(
        &mut self,
        gateway: GatewayUrl,
        session: SessionId,
        machine: Option<MachineId>,
    ) -> io::Result<String> {
        if let Some(relay) = &self.relay {
            return Ok(relay.base_url());
        }
        let config = Config {
            gateway,
            local_key: Secret::new(self.key.clone()),
            tokens: self.source.clone(),
            session: Some(session),
            machine,
            port: 0,
            limits: Limits::default(),
        };
        let relay = Relay::start(config).await?;
        Ok(self.relay.insert(relay).base_url())
    }
}
