//! GET /api/remote/agent/ws: the WebSocket of an agent.

use std::future::ready;
use std::time::Duration;

use ace_policies::wire::{FromAgent, MAX_MESSAGE_BYTES, ToAgent};
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::time::{Instant, interval_at, timeout};

use super::Agent;
use super::connections::{self, Connection, End, Transport};
use super::link::{Link, Standing, said};
use super::links::Held;
use super::words::understand;
use crate::error::ApiError;
use crate::wakeups::{Listening, Wakeup};
use crate::{App, chance};

/// Between two pings.
const PING: Duration = Duration::from_secs(15);

/// A connection on which nothing was heard for so long is broken.
const SILENCE: Duration = Duration::from_secs(45);

/// Until the first word.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Until an agent takes what is sent to it.
const WRITE: Duration = Duration::from_secs(30);

/// How long an agent may take to answer a good-bye.
const FAREWELL: Duration = Duration::from_secs(1);

/// RFC 6455 11.7 and the IANA registry: the service is restarted; come again.
const RESTART: u16 = close_code::RESTART;

/// Connects a machine's agent: JSON messages of `policies::wire`, the first one `connect`. Commands are sent the moment they are
/// queued.
#[utoipa::path(get, path = "/api/remote/agent/ws", tag = "agents",
    responses((status = 101, description = "a WebSocket"), (status = 401, body = crate::error::ErrorBody),
              (status = 426, body = crate::error::ErrorBody)))]
pub(super) async fn connect(
    State(app): State<App>,
    agent: Agent,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|_| {
        let message = "this is a WebSocket; where there can be none, POST /api/remote/agent/message";
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
    })?;
    let upgrade = upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES);
    Ok(upgrade.on_upgrade(|socket| serve(app, agent, socket)))
}

/// The life of a connection.
async fn serve(app: App, agent: Agent, mut socket: WebSocket) {
    let connection = Connection {
        machine: agent.machine,
        id: chance::id(),
        transport: Transport::Ws,
    };
    let held = Held {
        machine: agent.machine,
        token_hash: agent.token_hash.clone(),
    };
    let _held = app.links().hold(connection.id, held);
    // Listening begins before the first look: what is pushed in between is heard.
    let bell = app.wakeups().listen(Wakeup::Machine(agent.machine));
    let (link, welcome) = match meet(app, agent, connection, &mut socket).await {
        Ok(Some(met)) => met,
        Ok(None) => return,
        Err(error) => return part(&mut socket, &error).await,
    };
    let mut talk = Talk {
        link,
        socket,
        bell,
        more: false,
    };
    let end = talk.run(welcome).await;
    talk.close(end).await;
}

/// Hears the first word. `None` where there is none.
async fn meet(
    app: App,
    agent: Agent,
    connection: Connection,
    socket: &mut WebSocket,
) -> Result<Option<(Link, ToAgent)>, ApiError> {
    let Ok(first) = timeout(FIRST_WORD, first_message(socket)).await else {
        return Err(not_connect());
    };
    let Some(first) = first else { return Ok(None) };
    match understand(&first)? {
        Some(FromAgent::Connect(hello)) => Link::open(app, agent, connection, &hello).await.map(Some),
        _ => Err(not_connect()),
    }
}

fn not_connect() -> ApiError {
    ApiError::bad("connect_first", "the first message must be connect")
}

async fn first_message(socket: &mut WebSocket) -> Option<String> {
    loop {
        match socket.recv().await?.ok()? {
            Message::Text(text) => return Some(text.as_str().to_owned()),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Binary(_) | Message::Close(_) => return None,
        }
    }
}

/// Says why a connection does not come about.
async fn part(socket: &mut WebSocket, error: &ApiError) {
    let code = match error.status().is_client_error() {
        true => close_code::POLICY,
        false => close_code::AGAIN,
    };
    let _gone = timeout(FAREWELL, async {
        send(socket, &said(error, true)).await.ok()?;
        say_good_bye(socket, code, error.code()).await
    });
    let _gone = _gone.await;
}

async fn say_good_bye(socket: &mut WebSocket, code: u16, reason: &'static str) -> Option<()> {
    let frame = CloseFrame {
        code,
        reason: reason.into(),
    };
    socket.send(Message::Close(Some(frame))).await.ok()?;
    // The agent's own close ends it properly; a reset could take what was said last with it.
    while let Some(Ok(_)) = socket.recv().await {}
    Some(())
}

async fn send(socket: &mut WebSocket, message: &ToAgent) -> Result<(), Over> {
    let text = serde_json::to_string(message).map_err(|_| Over::Broken)?;
    write(socket, Message::Text(text.into())).await
}

async fn write(socket: &mut WebSocket, message: Message) -> Result<(), Over> {
    match timeout(WRITE, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Over::Broken),
    }
}

/// Why a conversation is over.
#[derive(Debug)]
enum Over {
    /// The agent closed it.
    Closed,
    /// It broke, or the agent fell silent.
    Broken,
    /// It does not stand any more.
    Ended(Standing),
    /// This node ends.
    Restart,
    /// Something of ours went wrong: the agent is to come again, and say again what was not acknowledged.
    Failed(ApiError),
    /// The agent does not speak as agreed.
    Nonsense(ApiError),
}

impl From<ApiError> for Over {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// A conversation under way.
struct Talk {
    link: Link,
    socket: WebSocket,
    bell: Listening,
    /// Whether more is due than was handed over at once.
    more: bool,
}

impl Talk {
    async fn run(&mut self, welcome: ToAgent) -> Over {
        match self.talk(welcome).await {
            Ok(never) => never,
            Err(over) => over,
        }
    }

    async fn talk(&mut self, welcome: ToAgent) -> Result<Over, Over> {
        send(&mut self.socket, &welcome).await?;
        self.hand_over().await?;
        let closing = self.link.app.closing().clone();
        let mut pings = interval_at(Instant::now() + PING, PING);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                () = closing.cancelled() => return Ok(Over::Restart),
                message = self.socket.recv() => {
                    heard = Instant::now();
                    self.hear(message).await?;
                }
                () = self.bell.rung() => self.look().await?,
                // Between two batches the agent is heard: it acknowledges the one before.
                () = ready(()), if self.more => self.hand_over().await?,
                _ = pings.tick() => {
                    if heard.elapsed() >= SILENCE {
                        return Ok(Over::Broken);
                    }
                    write(&mut self.socket, Message::Ping(Default::default())).await?;
                }
            }
        }
    }

    async fn hear(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), Over> {
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Close(_))) => return Err(Over::Closed),
            Some(Ok(Message::Binary(_))) => {
                let error = ApiError::bad("invalid_message", "messages are text");
                return Err(Over::Nonsense(error));
            }
            Some(Err(_)) | None => return Err(Over::Broken),
        };
        let answers = match understand(text.as_str()) {
            Ok(Some(message)) => self.link.hear(message).await?,
            Ok(None) => return Ok(()),
            Err(error) => vec![said(&error, false)],
        };
        for answer in &answers {
            send(&mut self.socket, answer).await?;
        }
        Ok(())
    }

    /// Somebody rang.
    async fn look(&mut self) -> Result<(), Over> {
        match self.link.standing().await? {
            Standing::Good => self.hand_over().await,
            over => Err(Over::Ended(over)),
        }
    }

    async fn hand_over(&mut self) -> Result<(), Over> {
        let (batch, more) = self.link.due().await?;
        for command in &batch {
            send(&mut self.socket, command).await?;
        }
        self.more = more;
        Ok(())
    }

    async fn close(mut self, over: Over) {
        let (code, reason, last) = match &over {
            Over::Closed | Over::Broken => (None, "", None),
            Over::Ended(standing) => (Some(close_code::POLICY), "ended", standing.farewell()),
            Over::Restart => (Some(RESTART), "restart", None),
            Over::Failed(error) => (Some(close_code::AGAIN), error.code(), Some(said(error, true))),
            Over::Nonsense(error) => (Some(close_code::UNSUPPORTED), error.code(), Some(said(error, true))),
        };
        if let Over::Failed(error) = &over {
            tracing::warn!(%error, machine = %self.link.agent.machine, "an agent's connection is closed");
        }
        let end = if matches!(over, Over::Closed) {
            End::Clean
        } else {
            End::Broken
        };
        let connection = self.link.connection;
        if let Err(error) = connections::release(&self.link.app, connection, end).await {
            tracing::warn!(%error, machine = %connection.machine, "the end of an agent's connection is not written down");
        }
        let Some(code) = code else { return };
        let _gone = timeout(FAREWELL, async {
            if let Some(last) = &last {
                send(&mut self.socket, last).await.ok()?;
            }
            say_good_bye(&mut self.socket, code, reason).await
        })
        .await;
    }
}
