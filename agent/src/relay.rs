//! The loopback forwarder between an AI CLI and the gateway: the CLI holds a local key that is worth nothing elsewhere,
//! the relay puts in the freshest proxy token, request by request.
//!
//! It carries bytes and decides nothing about them: dialects, metering and policy are the gateway's.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ace_policies::{
    id::{MachineId, SessionId},
    secret::Secret,
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::UPGRADE, request};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

mod credential;
mod head;
mod refusal;
mod replay;
mod silence;
#[cfg(test)]
mod tests;
mod token;
mod upstream;

pub use token::{ProxyToken, TokenFeed, TokenSource, channel as token_channel};

use credential::Style;
use refusal::{Dialect, Refusal};
use replay::{Attempt, Replay};
use silence::StreamError;
use upstream::Upstream;

use crate::transport::{DialError, GatewayUrl, Step};

/// What one relay is for: one session, or one person at a shell.
pub struct Config {
    pub gateway: GatewayUrl,
    /// What the CLI presents instead of a token; constant for the life of the relay.
    pub local_key: Secret,
    pub tokens: TokenSource,
    pub session: Option<SessionId>,
    pub machine: Option<MachineId>,
    /// 0 takes any free port. The address is always 127.0.0.1.
    pub port: u16,
    pub limits: Limits,
}

/// How much and how long, for everything the relay holds or waits for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Callers' connections at a time; more wait to be accepted.
    pub connections: usize,
    /// A request's or an answer's head, and the read buffer of a connection.
    pub head_bytes: usize,
    pub headers: usize,
    /// Until a caller's next head is complete: an idle keep-alive connection's life.
    pub idle: Duration,
    /// Of a request body, kept for a second attempt.
    pub replay_bytes: usize,
    /// For a first or a fresh token.
    pub token_wait: Duration,
    pub connect: Duration,
    /// For a gateway that is not there: a restart of it is sat out.
    pub restart: Duration,
    /// For what a caller that is refused still sends.
    pub discard: Duration,
    /// Until the answer's head; longer than the gateway's own limit, so that the gateway's answer is the one seen.
    pub first_byte: Duration,
    /// Between two chunks of an answer; longer than the gateway's own limit, too.
    pub silence: Duration,
    /// Idle connections to the gateway, and their life: shorter than the gateway keeps them, so that none is reused
    /// while it is being closed.
    pub pool_size: usize,
    pub pool_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            head_bytes: 64 * 1024,
            headers: 256,
            idle: Duration::from_secs(600),
            replay_bytes: 1024 * 1024,
            token_wait: Duration::from_secs(5),
            connect: Duration::from_secs(10),
            restart: Duration::from_secs(20),
            discard: Duration::from_secs(5),
            first_byte: Duration::from_secs(630),
            silence: Duration::from_secs(330),
            pool_size: 32,
            pool_idle: Duration::from_secs(50),
        }
    }
}

/// A running relay. Dropping it ends all of its traffic at once.
pub struct Relay {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Relay {
    pub async fn start(config: Config) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, config.port)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: Upstream::new(&config)?,
            config,
        });
        Ok(Self {
            address,
            accepting: tokio::spawn(accept(listener, shared)),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a CLI takes as its provider's base URL; some add `/v1` to it.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The connections live in the accepting task's JoinSet and go with it.
        self.accepting.abort();
    }
}

struct Shared {
    config: Config,
    upstream: Upstream,
}

type CallerBody = UnsyncBoxBody<Bytes, StreamError>;

/// Pause after a failed accept (out of descriptors): trying again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Between two looks at whether the gateway is there again.
const RESTART_PAUSE: Duration = Duration::from_millis(250);

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(shared.config.limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    serve(stream, shared).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the relay cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One caller's connection. When the caller leaves, hyper drops the request that is being answered, and with it the
/// gateway's connection or stream.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let limits = &shared.config.limits;
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_buf_size(limits.head_bytes)
        .max_headers(limits.headers);
    let service = service_fn(|request| answer(&shared, request));
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a caller's connection ended early");
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Response<CallerBody>, Infallible> {
    let dialect = Dialect::of(request.headers(), request.uri());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = match shared.forward(request).await {
        Ok(answer) => answer,
        Err(refusal) => {
            tracing::info!(%method, path, reason = %refusal, "request refused");
            refusal.into_response(dialect, &method).map(whole)
        }
    };
    tracing::debug!(%method, path, status = answer.status().as_u16(), "answered");
    Ok(answer)
}

impl Shared {
    async fn forward(&self, request: Request<Incoming>) -> Result<Response<CallerBody>, Refusal> {
        if request.headers().contains_key(UPGRADE) {
            return Err(Refusal::Upgrade);
        }
        if is_probe(&request) {
            return Ok(Response::new(whole(Bytes::new())));
        }
        let (caller, body) = request.into_parts();
        let Some(style) = credential::check(&caller.headers, &caller.uri, &self.config.local_key) else {
            let limits = &self.config.limits;
            let discarded = timeout(limits.discard, replay::discard(body, limits.replay_bytes)).await;
            discarded.unwrap_or_default();
            return Err(Refusal::LocalKey);
        };
        let head = head::outgoing(&caller, &self.config)?;
        self.send(head, style, Replay::new(body, self.config.limits.replay_bytes))
            .await
    }

    /// Sends with the freshest token, and once more if that one had run out on the way.
    async fn send(
        &self,
        head: request::Parts,
        style: Style,
        body: Replay<Incoming>,
    ) -> Result<Response<CallerBody>, Refusal> {
        let (token, answer) = self.reach(&head, style, &body).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(self.to_caller(answer));
        }
        let Some(fresh) = self.config.tokens.after(&token, self.config.limits.token_wait).await else {
            return Ok(self.to_caller(answer));
        };
        let Some(second) = body.attempt() else {
            return Ok(self.to_caller(answer));
        };
        drop(answer);
        tracing::debug!("the token had run out; sending again with a fresh one");
        Ok(self.to_caller(self.exchange(&head, style, &fresh, second).await?))
    }

    /// Sends; again while there is no connection, since nothing has left then.
    async fn reach(
        &self,
        head: &request::Parts,
        style: Style,
        body: &Replay<Incoming>,
    ) -> Result<(Arc<ProxyToken>, Response<Incoming>), Refusal> {
        let limits = &self.config.limits;
        let until = Instant::now() + limits.restart;
        loop {
            let token = self.config.tokens.latest(limits.token_wait).await;
            let token = token.ok_or(Refusal::NoToken)?;
            let attempt = body.attempt().ok_or(Refusal::Target)?;
            match self.exchange(head, style, &token, attempt).await {
                Err(Refusal::Unreachable {
                    worth_waiting: true, ..
                }) if Instant::now() < until => sleep(RESTART_PAUSE).await,
                answer => return Ok((token, answer?)),
            }
        }
    }

    async fn exchange(
        &self,
        head: &request::Parts,
        style: Style,
        token: &ProxyToken,
        body: Attempt<Incoming>,
    ) -> Result<Response<Incoming>, Refusal> {
        let mut request = Request::from_parts(head.clone(), body);
        credential::inject(request.headers_mut(), style, token.expose()).map_err(|_| Refusal::NoToken)?;
        match timeout(self.config.limits.first_byte, self.upstream.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Refusal::Unreachable {
                worth_waiting: error.is_connect() && !is_distrust(&error),
                gateway: self.upstream.name(),
                reason: reason(&error),
            }),
            Err(_) => Err(Refusal::Timeout {
                gateway: self.upstream.name(),
            }),
        }
    }

    fn to_caller(&self, answer: Response<Incoming>) -> Response<CallerBody> {
        let mut answer = answer.map(|body| silence::Watched::new(body, self.config.limits.silence).boxed_unsync());
        head::strip_hop_by_hop(answer.headers_mut());
        *answer.version_mut() = http::Version::HTTP_11;
        answer
    }
}

/// What CLIs ask without a credential to see whether somebody is there.
fn is_probe(request: &Request<Incoming>) -> bool {
    request.method() == Method::HEAD && matches!(request.uri().path(), "/" | "/api/hello")
}

fn whole(body: Bytes) -> CallerBody {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// Whether who answered is not who was meant. That does not pass by waiting, and the CLI's user must hear of it.
fn is_distrust(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.any(|cause| {
        cause
            .downcast_ref::<DialError>()
            .is_some_and(|error| error.step == Step::Tls)
    })
}

/// The last cause: the outer layers only say that there was one.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}
