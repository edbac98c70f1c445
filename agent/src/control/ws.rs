//! The WebSocket: messages the moment there are any, pings, and an ear for silence.

use std::{future::pending, time::Duration};

use ace_policies::{
    Secret,
    wire::{FromAgent, MAX_MESSAGE_BYTES, ToAgent},
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use http::{
    HeaderValue,
    header::{AUTHORIZATION, USER_AGENT},
};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Bytes, Error, Message, client::IntoClientRequest, protocol::WebSocketConfig},
};
use tokio_util::sync::CancellationToken;

use super::{exchange::Exchange, lost::Lost};
use crate::{
    http::{CONNECT_PATIENCE, bearer, problem_in},
    transport::{GatewayUrl, Stream},
};

const PATH: &str = "api/remote/agent/ws";
/// The server answers each ping; two that are missed are enough.
const PING: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(35);
/// What was said is known to have arrived so soon, and is not said again if the connection ends then.
const CONFIRM: Duration = Duration::from_secs(1);
/// How long the server may take to say who it is.
const WELCOME: Duration = Duration::from_secs(15);
/// A message that cannot be written for so long goes to nobody.
const WRITE: Duration = Duration::from_secs(30);
/// Idle agents are many, and their messages small.
const BUFFER_BYTES: usize = 16 << 10;

/// An open WebSocket on which nothing has been said.
pub(super) struct WebSocket {
    url: String,
    stream: WebSocketStream<Stream>,
}

/// Opens a WebSocket to the server.
pub(super) async fn connect(gateway: &GatewayUrl, token: &Secret) -> Result<WebSocket, Lost> {
    let mut url = gateway.at(PATH);
    let shown = url.to_string();
    let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
    let broken = |problem: String| Lost::Broken {
        url: shown.clone(),
        problem,
    };
    url.set_scheme(scheme)
        .map_err(|()| broken("it cannot be a WebSocket's".to_owned()))?;
    let mut request = url
        .as_str()
        .into_client_request()
        .map_err(|error| broken(error.to_string()))?;
    let headers = request.headers_mut();
    headers.insert(AUTHORIZATION, bearer(token).map_err(|error| broken(error.to_string()))?);
    headers.insert(USER_AGENT, HeaderValue::from_static(crate::USER_AGENT));
    let stream = gateway.dial(CONNECT_PATIENCE).await?;
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(Some(2 * MAX_MESSAGE_BYTES))
        .max_frame_size(Some(2 * MAX_MESSAGE_BYTES));
    let shaken = timeout(
        CONNECT_PATIENCE,
        client_async_with_config(request, stream, Some(config)),
    )
    .await;
    match shaken {
        Ok(Ok((stream, _))) => Ok(WebSocket { url: shown, stream }),
        Ok(Err(Error::Http(answer))) => Err(Lost::Refused {
            status: answer.status(),
            problem: problem_in(answer.body().as_deref().unwrap_or_default()),
            retry_after: retry_after(&answer),
            url: shown,
        }),
        // A proxy that does not know WebSockets may answer anything.
        Ok(Err(_)) | Err(_) => Err(Lost::Speechless {
            url: shown,
            after: CONNECT_PATIENCE,
        }),
    }
}

fn retry_after<B>(answer: &http::Response<B>) -> Option<Duration> {
    let text = answer.headers().get(http::header::RETRY_AFTER)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_secs)
}

/// Converses until the connection ends, and says why it did.
pub(super) async fn converse(socket: WebSocket, exchange: &mut Exchange<'_>, stop: &CancellationToken) -> Lost {
    let WebSocket { url, stream } = socket;
    let (sink, stream) = stream.split();
    let mut talk = Talk {
        url,
        sink,
        heard: Instant::now(),
        begun: Instant::now(),
        confirm: None,
    };
    let lost = match talk.run(stream, exchange, stop).await {
        Ok(never) => match never {},
        Err(lost) => lost,
    };
    // A clean end shows at once in the list of machines.
    let _ = timeout(Duration::from_secs(2), talk.sink.close()).await;
    lost
}

struct Talk {
    url: String,
    sink: SplitSink<WebSocketStream<Stream>, Message>,
    heard: Instant,
    begun: Instant,
    /// When a ping asks whether what was said has arrived.
    confirm: Option<Instant>,
}

enum Never {}

impl Talk {
    async fn run(
        &mut self,
        mut stream: SplitStream<WebSocketStream<Stream>>,
        exchange: &mut Exchange<'_>,
        stop: &CancellationToken,
    ) -> Result<Never, Lost> {
        self.say(&exchange.first_word()).await?;
        let mut pings = interval_at(Instant::now() + PING, PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let welcome_by = (!exchange.welcomed).then_some(self.begun + WELCOME);
            tokio::select! {
                () = stop.cancelled() => return Err(Lost::Stopping),
                frame = stream.next() => self.frame(frame, exchange).await?,
                _ = pings.tick() => self.ping(exchange.mark()).await?,
                () = sleep_until(self.heard + SILENCE) => {
                    return Err(Lost::Silent { url: self.url.clone(), after: SILENCE });
                }
                () = until(welcome_by) => {
                    return Err(Lost::Speechless { url: self.url.clone(), after: WELCOME });
                }
                () = until(self.confirm) => self.ping(exchange.mark()).await?,
                message = exchange.next() => {
                    self.say(&message?).await?;
                    if exchange.is_unconfirmed() {
                        self.confirm.get_or_insert(Instant::now() + CONFIRM);
                    }
                }
            }
        }
    }

    async fn frame(&mut self, frame: Option<Result<Message, Error>>, exchange: &mut Exchange<'_>) -> Result<(), Lost> {
        self.heard = Instant::now();
        match frame {
            Some(Ok(Message::Text(text))) => match understand(text.as_bytes()) {
                Some(message) => exchange.hear(message),
                None => Ok(()),
            },
            Some(Ok(Message::Pong(mark))) => {
                if let Ok(mark) = <[u8; 8]>::try_from(mark.as_ref()) {
                    exchange.confirm(u64::from_be_bytes(mark));
                }
                Ok(())
            }
            Some(Ok(Message::Close(frame))) => {
                let why = frame.map(|frame| format!("{} {}", u16::from(frame.code), frame.reason));
                Err(Lost::Closed(why.unwrap_or_else(|| "without a reason".to_owned())))
            }
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(self.broken(&error)),
            None => Err(Lost::Closed("without a word".to_owned())),
        }
    }

    async fn say(&mut self, message: &FromAgent) -> Result<(), Lost> {
        let text = serde_json::to_string(message).map_err(|error| self.broken(&error))?;
        self.send(Message::text(text)).await
    }

    async fn ping(&mut self, mark: u64) -> Result<(), Lost> {
        self.confirm = None;
        self.send(Message::Ping(Bytes::copy_from_slice(&mark.to_be_bytes())))
            .await
    }

    async fn send(&mut self, message: Message) -> Result<(), Lost> {
        match timeout(WRITE, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.broken(&error)),
            Err(_) => Err(Lost::Silent {
                url: self.url.clone(),
                after: WRITE,
            }),
        }
    }

    fn broken(&self, problem: &dyn std::fmt::Display) -> Lost {
        Lost::Broken {
            url: self.url.clone(),
            problem: problem.to_string(),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// A message of the server; one that is not known is newer than we are, and is left out.
pub(super) fn understand(text: &[u8]) -> Option<ToAgent> {
    let message = serde_json::from_slice(text);
    message
        .inspect_err(|error| tracing::warn!(%error, "the server says something that is not understood"))
        .ok()
}
