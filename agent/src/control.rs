//! The connection to the server: WebSocket first, long poll where there is none, and again and again.
//!
//! The story of a connection stands in [`Control::run`]; what is said on it in [`exchange`], and why it ended in [`lost`].

mod backoff;
mod commands;
mod exchange;
mod flow;
mod hello;
mod lost;
mod poll;
mod standing;
mod ws;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use ace_policies::{
    Secret,
    wire::{Capabilities, Cli},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    config::Config,
    credentials::Credentials,
    files::Looking,
    http::Http,
    machine::Facts,
    mask::Mask,
    outbox::Outbox,
    spool::Spool,
    status::{Reporter, Transport},
    uplink::Down,
};
use backoff::{Backoff, STABLE};
use commands::Leaving;
use exchange::Exchange;
pub use lost::Lost;
use lost::Next;
use poll::{Poll, rest};
use standing::Standing;

/// While the long poll works, WebSockets are tried again after this time, then after twice as long, up to the second.
const WS_AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(900));

/// What all parts of the agent see.
pub struct Shared {
    pub config: Arc<Config>,
    pub facts: Facts,
    /// The CLIs of this machine, as they were found at the start.
    pub clis: watch::Receiver<Vec<Cli>>,
    pub spool: Arc<Spool>,
    pub mask: Arc<RwLock<Mask>>,
    pub looking: Arc<Looking>,
    pub status: Arc<Reporter>,
    /// To the sessions.
    pub down: mpsc::Sender<Down>,
    pub clock: fn() -> SystemTime,
    /// From 0 to 1.
    pub chance: fn() -> f64,
    /// How soon WebSockets are tried again; [`None`] is the usual time.
    pub ws_again: Option<Duration>,
}

/// What only the connection sees.
struct Own {
    credentials: Credentials,
    outbox: Arc<Outbox>,
    standing: Standing,
    /// The sessions were told of a connection, and not yet of its end.
    connected: bool,
    leaving: Option<Leaving>,
}

/// Keeps the agent connected.
pub struct Control {
    shared: Arc<Shared>,
    own: Own,
    http: Http,
    backoff: Backoff,
    ws_again: Duration,
}

/// Why the agent is not connected any more, for good.
#[derive(Debug)]
pub enum End {
    /// It was asked to end.
    Stopped,
    /// The machine was taken off the server's list. Its credentials are forgotten.
    Unregistered,
    /// The server does not take its credentials; the text says what to do.
    Unauthorized(String),
}

/// Opens a WebSocket and closes it again: whether the token is good, and whether there is a way.
pub async fn try_out(config: &Config, token: &Secret) -> Result<(), Lost> {
    ws::connect(&config.server, token).await.map(|_| ())
}

impl Shared {
    /// What this machine can do.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            clis: self.clis.borrow().clone(),
            generic_clis: self.config.generic_clis.clone(),
            ..self.facts.capabilities()
        }
    }

    /// A secret that is not to be printed or said from now on.
    pub fn learn(&self, secret: &str) {
        self.mask.write().unwrap_or_else(PoisonError::into_inner).learn(secret);
    }

    fn noted(&self, standing: &Standing) {
        self.status.sessions(standing.live());
    }
}

impl Control {
    /// `outbox` is where everybody says what is not output.
    pub fn new(shared: Arc<Shared>, credentials: Credentials, outbox: Arc<Outbox>) -> std::io::Result<Self> {
        let config = &shared.config;
        Ok(Self {
            http: Http::new(&config.server)?,
            backoff: Backoff::new(config.reconnect_base_delay, config.reconnect_max_delay),
            ws_again: shared.ws_again.unwrap_or(WS_AGAIN.0),
            own: Own {
                standing: Standing::open(&config.sessions_dir())?,
                outbox,
                credentials,
                connected: false,
                leaving: None,
            },
            shared,
        })
    }

    /// Connects, converses, and when that ends does what follows from why it ended.
    pub async fn run(mut self, stop: &CancellationToken) -> End {
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let lost = self.connect(stop).await;
            self.shared.status.lost(&lost);
            self.tell_sessions();
            if begun.elapsed() >= STABLE {
                self.backoff.reset();
            }
            let wait = match lost.next() {
                Next::End => return self.end(lost),
                Next::Unauthorized if !self.fall_back_to_old_token(&lost) => {
                    return End::Unauthorized(lost.to_string());
                }
                Next::Now | Next::Unauthorized => {
                    tracing::info!("{lost}: connecting anew");
                    Duration::ZERO
                }
                Next::LongWait => self.backoff.long((self.shared.chance)()),
                Next::Retry(least) => self.backoff.next((self.shared.chance)(), least),
                Next::OtherTransport => self.backoff.next((self.shared.chance)(), None),
            };
            if !wait.is_zero() {
                tracing::warn!("{lost}; the next attempt is in {wait:.1?}");
            }
            rest(Instant::now() + wait, stop).await;
        }
        End::Stopped
    }

    /// Nobody hears the sessions until they are told of the next connection.
    fn tell_sessions(&mut self) {
        if std::mem::take(&mut self.own.connected) {
            // Sessions that do not keep up miss it, and ask in vain.
            drop(self.shared.down.try_send(Down::Disconnected));
        }
    }

    /// One connection, by whichever transport there is.
    async fn connect(&mut self, stop: &CancellationToken) -> Lost {
        let Some(token) = self.token() else {
            return Lost::NoToken;
        };
        self.shared.learn(token.expose());
        let lost = match self.open_ws(&token, stop).await {
            Ok(lost) => return lost,
            Err(lost) => lost,
        };
        // A proxy that lets the handshake through and nothing after it shows as a connection that breaks at once.
        let broke = matches!(lost, Lost::Broken { .. } | Lost::Closed(_) | Lost::Silent { .. });
        match lost.next() {
            Next::OtherTransport => self.poll(&token, &lost, stop).await,
            _ if broke => self.poll(&token, &lost, stop).await,
            _ => lost,
        }
    }

    /// `Err` where there was no connection at all.
    async fn open_ws(&mut self, token: &Secret, stop: &CancellationToken) -> Result<Lost, Lost> {
        let socket = tokio::select! {
            () = stop.cancelled() => return Ok(Lost::Stopping),
            socket = ws::connect(&self.shared.config.server, token) => socket?,
        };
        let mut exchange = Exchange::new(&self.shared, &mut self.own, Transport::WebSocket);
        let lost = ws::converse(socket, &mut exchange, stop).await;
        if !exchange.welcomed {
            return Err(lost);
        }
        self.ws_again = self.shared.ws_again.unwrap_or(WS_AGAIN.0);
        Ok(lost)
    }

    /// Long polls, and from time to time a look whether WebSockets work by now.
    async fn poll(&mut self, token: &Secret, why: &Lost, stop: &CancellationToken) -> Lost {
        tracing::debug!("WebSockets do not work: {why}");
        let shared = self.shared.clone();
        loop {
            let poll = Poll::new(&self.http, token, Uuid::new_v4());
            let mut exchange = Exchange::new(&shared, &mut self.own, Transport::Polling);
            if let Err(lost) = poll.open(&mut exchange).await {
                return lost;
            }
            let socket = loop {
                let until = Instant::now() + self.ws_again;
                self.ws_again = (self.ws_again * 2).min(WS_AGAIN.1);
                if let Err(lost) = poll.converse(&mut exchange, stop, until).await {
                    return lost;
                }
                match ws::connect(&shared.config.server, token).await {
                    Ok(socket) => break socket,
                    Err(lost) => tracing::debug!("WebSockets still do not work: {lost}"),
                }
            };
            drop(exchange);
            let mut exchange = Exchange::new(&shared, &mut self.own, Transport::WebSocket);
            let lost = ws::converse(socket, &mut exchange, stop).await;
            if exchange.welcomed {
                self.ws_again = shared.ws_again.unwrap_or(WS_AGAIN.0);
                return lost;
            }
        }
    }

    fn token(&self) -> Option<Secret> {
        let token = self.own.credentials.token()?;
        Some(Secret::new(token.expose().to_owned()))
    }

    /// A new token that is refused is given up for the old one, which may still be good.
    fn fall_back_to_old_token(&mut self, lost: &Lost) -> bool {
        if !self.own.credentials.is_rotating() {
            return false;
        }
        tracing::warn!("the new agent token is refused ({lost}); the old one is used again");
        if let Err(error) = self.own.credentials.rotation_failed() {
            tracing::error!(%error, "that cannot be stored");
        }
        true
    }

    fn end(&mut self, lost: Lost) -> End {
        if !matches!(lost, Lost::Unregistered) {
            return End::Stopped;
        }
        tracing::warn!("{lost}: the agent forgets its credentials and ends");
        if let Err(error) = self.own.credentials.forget() {
            tracing::error!(%error, "the credentials cannot be taken out of config.json");
        }
        End::Unregistered
    }
}
