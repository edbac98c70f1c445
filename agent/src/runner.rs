//! The sessions of this machine at work: what the supervisor decides is done here.
//!
//! Each session has a relay of its own on 127.0.0.1: its CLI holds a key that opens that relay and nothing else.

use std::{
    collections::HashMap,
    convert::identity,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ace_policies::{
    MachineId, SessionId,
    secret::Secret,
    wire::{Failure, FailureCode, FromAgent, Start, ToAgent},
};
use tokio::{sync::mpsc, task::spawn_blocking, time::interval};
use tokio_util::sync::CancellationToken;

mod disk;
mod home;

use home::Home;

use crate::{
    adapter::{Adapters, Given},
    conversation::{Ask, Conversation},
    driver::{Input, Refused},
    millis,
    process::{directory, environment::CliEnvironment},
    supervisor::{Effect, End, Event, Limits, ProcessNumber, Saved, Supervisor},
    transport::GatewayUrl,
    uplink::{Down, Up, Uplink},
};

/// What sessions need to run.
#[derive(Clone)]
pub struct Config {
    /// The agent's own executable: it guards the CLIs.
    pub executable: PathBuf,
    /// Where sessions are kept: `sessions/` below it.
    pub dir: PathBuf,
    /// The CLIs.
    pub adapters: Adapters,
    /// What CLIs begin with.
    pub environment: CliEnvironment,
    /// The directories that sessions may be in; none means anywhere.
    pub roots: Vec<PathBuf>,
    /// How long and how many.
    pub limits: Limits,
    /// Where relays forward to.
    pub gateway: GatewayUrl,
    /// This machine.
    pub machine: Option<MachineId>,
    /// Makes a relay's key.
    pub new_key: fn() -> Secret,
    /// The clock.
    pub clock: fn() -> SystemTime,
}

/// The time after which CLIs that do not end are left to their guards.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Runs the sessions until `stop`, or until the connection's side is gone; then ends all CLIs.
pub async fn run(config: Config, uplink: Uplink, stop: CancellationToken) {
    let (mut runner, mut news) = Runner::new(config, uplink.out.clone());
    let mut down = uplink.down;
    let mut ticks = interval(Duration::from_secs(1));
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => break,
            message = down.recv() => match message {
                Some(message) => runner.understand(message),
                None => break,
            },
            event = news.recv() => event,
            _ = ticks.tick() => Some(Event::Tick),
        };
        if let Some(event) = event {
            runner.handle(event).await;
        }
    }
    runner.handle(Event::Shutdown).await;
    let ending = async {
        while !runner.supervisor.is_quiet() {
            let Some(event) = news.recv().await else { return };
            runner.handle(event).await;
        }
    };
    // Whatever is left then is ended by its guard.
    tokio::time::timeout(LAST_WAIT, ending).await.ok();
    runner.flush().await;
}

struct Runner {
    config: Config,
    environment: Arc<CliEnvironment>,
    supervisor: Supervisor,
    homes: HashMap<SessionId, Home>,
    conversations: HashMap<(SessionId, ProcessNumber), mpsc::UnboundedSender<Ask>>,
    news: mpsc::UnboundedSender<Event>,
    out: mpsc::Sender<Up>,
    /// Our own words, in order; a slow spool does not hold up the rest.
    words: mpsc::UnboundedSender<Up>,
    writer: tokio::task::JoinHandle<()>,
}

impl Runner {
    fn new(config: Config, out: mpsc::Sender<Up>) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (news, incoming) = mpsc::unbounded_channel();
        let (words, mut waiting) = mpsc::unbounded_channel();
        let spool = out.clone();
        let writer = tokio::spawn(async move {
            while let Some(word) = waiting.recv().await {
                if spool.send(word).await.is_err() {
                    return;
                }
            }
        });
        let runner = Self {
            supervisor: Supervisor::new(config.limits.clone(), disk::load(&config.dir)),
            environment: Arc::new(config.environment.clone()),
            homes: HashMap::new(),
            conversations: HashMap::new(),
            config,
            news,
            out,
            words,
            writer,
        };
        (runner, incoming)
    }

    /// UTC milliseconds.
    fn now(&self) -> i64 {
        millis((self.config.clock)())
    }

    fn understand(&self, message: Down) -> Option<Event> {
        let message = match message {
            Down::Heard(message) => message,
            Down::Disconnected => return Some(Event::Disconnected),
        };
        match message {
            ToAgent::Welcome {
                server_time_ms,
                sessions,
                ..
            } => {
                let clock_ahead_ms = server_time_ms - self.now();
                Some(Event::Connected {
                    clock_ahead_ms,
                    known: sessions,
                })
            }
            ToAgent::Command {
                command_id,
                expires_at_ms,
                command,
            } => Some(Event::Command {
                command_id,
                expires_at_ms,
                command,
            }),
            ToAgent::Token {
                session_id,
                token,
                expires_at_s,
            } => Some(Event::Token {
                session_id,
                token,
                expires_at_s,
            }),
            // The transport's own.
            ToAgent::OutputAck { .. } | ToAgent::Error { .. } => None,
        }
    }

    async fn handle(&mut self, event: Event) {
        if let Event::Exited {
            session_id, process, ..
        } = &event
        {
            self.conversations.remove(&(*session_id, *process));
        }
        let effects = self.supervisor.handle(event, self.now());
        self.follow(effects).await;
    }

    /// In order. What is not on the disk is neither acknowledged nor handed to a CLI: its sender hears of it instead.
    async fn follow(&mut self, effects: Vec<Effect>) {
        let mut unsaved = HashMap::new();
        for effect in effects {
            match effect {
                Effect::Save(session_id, saved) => match self.save(*saved).await {
                    Ok(()) => drop(unsaved.remove(&session_id)),
                    Err(why) => drop(unsaved.insert(session_id, why)),
                },
                // A command is about one session: nothing else of it is done either.
                Effect::Say(FromAgent::Ack { command_id }) if !unsaved.is_empty() => {
                    let why = unsaved.into_values().next().unwrap_or_default();
                    let refusal = self.supervisor.take_back(command_id, why);
                    return self.apply(refusal).await;
                }
                Effect::Give {
                    session_id,
                    process,
                    tag,
                    input: Input::Message(_),
                } if unsaved.contains_key(&session_id) => {
                    let refused = unsaved.get(&session_id).cloned().map(Refused::Failed);
                    self.tell(Event::Taken {
                        session_id,
                        process,
                        tag,
                        refused,
                    });
                }
                effect => self.apply(effect).await,
            }
        }
    }

    /// Answers once it is on the disk, or why it is not.
    async fn save(&self, saved: Saved) -> Result<(), String> {
        let (dir, session_id) = (self.config.dir.clone(), saved.start.session_id);
        let written = spawn_blocking(move || disk::save(&dir, &saved)).await;
        written.map_err(io::Error::other).and_then(identity).map_err(|error| {
            tracing::error!(%session_id, %error, "a session cannot be written to the disk");
            format!("this machine's disk does not take it: {error}")
        })
    }

    fn tell(&self, event: Event) {
        self.news.send(event).ok();
    }

    async fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Say(word) => self.word(Up::Say(word)),
            Effect::Print {
                session_id,
                stream,
                data,
            } => {
                let at = self.now();
                self.word(Up::Print {
                    session_id,
                    stream,
                    data,
                    left_out: 0,
                    at,
                    room: None,
                });
            }
            Effect::Token {
                session_id,
                token,
                until_ms,
            } => {
                let left_ms = until_ms - self.now();
                self.home(session_id).publish(token, left_ms);
            }
            Effect::Spawn {
                session_id,
                process,
                start,
            } => self.spawn(session_id, process, *start).await,
            Effect::Give {
                session_id,
                process,
                tag,
                input,
            } => self.ask(session_id, process, Ask::Give { tag, input }),
            Effect::Hold {
                session_id,
                process,
                held,
            } => self.ask(session_id, process, Ask::Hold(held)),
            Effect::End {
                session_id,
                process,
                grace_ms,
            } => self.ask(session_id, process, Ask::End(grace_ms)),
            // It is written in `follow`, where what comes after depends on it.
            Effect::Save(..) => {}
            Effect::Close(session_id) => drop(self.homes.remove(&session_id)),
            Effect::Forget(session_id) => {
                self.homes.remove(&session_id);
                disk::forget(&self.config.dir, session_id);
            }
        }
    }

    fn word(&self, word: Up) {
        self.words.send(word).ok();
    }

    fn ask(&self, session_id: SessionId, process: ProcessNumber, ask: Ask) {
        if let Some(conversation) = self.conversations.get(&(session_id, process)) {
            conversation.send(ask).ok();
        }
    }

    fn home(&mut self, session_id: SessionId) -> &mut Home {
        let new_key = self.config.new_key;
        self.homes.entry(session_id).or_insert_with(|| Home::new(new_key))
    }

    async fn spawn(&mut self, session_id: SessionId, number: ProcessNumber, start: Start) {
        match self.prepare(session_id, number, start).await {
            Ok(conversation) => {
                let (asks, waiting) = mpsc::unbounded_channel();
                self.conversations.insert((session_id, number), asks);
                tokio::spawn(conversation.run(waiting));
            }
            Err(failure) => {
                let end = End::NotStarted(failure);
                self.tell(Event::Exited {
                    session_id,
                    process: number,
                    end,
                });
            }
        }
    }

    async fn prepare(
        &mut self,
        session_id: SessionId,
        number: ProcessNumber,
        start: Start,
    ) -> Result<Conversation, Failure> {
        let no = |code, message| Failure { code, message };
        let adapter = self.config.adapters.find(&start.cli_tool).ok_or_else(|| {
            no(
                FailureCode::Unsupported,
                format!("this machine does not know the CLI `{}`", start.cli_tool),
            )
        })?;
        let project = directory::check(&start.project_path, &self.config.roots)?;
        let dir = disk::cli_dir(&self.config.dir, session_id).map_err(|error| {
            no(
                FailureCode::Failed,
                format!("the session's directory cannot be made: {error}"),
            )
        })?;
        let (gateway, machine) = (self.config.gateway.clone(), self.config.machine);
        let home = self.home(session_id);
        let url = home.open(gateway, session_id, machine).await;
        let url = url.map_err(|error| {
            no(
                FailureCode::Failed,
                format!("the session's relay cannot be started: {error}"),
            )
        })?;
        let given = Given {
            url,
            key: home.key().to_owned(),
            session_id: session_id.to_string(),
            resume_id: start.resume_id,
            model: start.model,
            permission_mode: start.permission_mode,
            project,
            dir,
        };
        Ok(Conversation {
            session_id,
            number,
            adapter,
            given,
            environment: Arc::clone(&self.environment),
            executable: self.config.executable.clone(),
            clock: self.config.clock,
            out: self.out.clone(),
            news: self.news.clone(),
        })
    }

    /// The last words reach the spool.
    async fn flush(self) {
        drop(self.words);
        tokio::time::timeout(LAST_WAIT, self.writer).await.ok();
    }
}
