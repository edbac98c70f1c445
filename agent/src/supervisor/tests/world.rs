//! A supervisor with a clock, and what it wants done in words.

pub use ace_policies::wire::{Behavior, Start};

pub use super::super::*;
pub use crate::driver::{Input, Message, Refused};

pub const SECOND: i64 = 1000;

/// A supervisor with a clock, and what it wants done in words.
pub struct World {
    pub supervisor: Supervisor,
    pub now: i64,
    commands: u128,
    pub disk: BTreeMap<SessionId, Saved>,
}

pub fn session(number: u128) -> SessionId {
    SessionId::from(Uuid::from_u128(number))
}

pub fn start(number: u128, run: i64) -> Start {
    Start {
        session_id: session(number),
        run,
        project_path: "/repo".to_owned(),
        cli_tool: "fake".to_owned(),
        model: None,
        permission_mode: None,
        resume_id: None,
        proxy_token: "secret".to_owned(),
        proxy_token_expires_at_s: 10_000,
        last_seq: 0,
    }
}

pub fn say(content: &str) -> Command {
    Command::SendMessage {
        session_id: session(1),
        content: content.to_owned(),
        attachments: Vec::new(),
    }
}

pub fn abort() -> Command {
    Command::AbortRequest {
        session_id: session(1),
        reason: String::new(),
    }
}

pub fn stop() -> Command {
    Command::StopSession { session_id: session(1) }
}

pub fn model(name: &str) -> Command {
    Command::UpdateModel {
        session_id: session(1),
        model: name.to_owned(),
    }
}

pub fn exit(code: i32) -> End {
    End::Exit(Exit {
        code,
        words: String::new(),
    })
}

impl World {
    pub fn new() -> Self {
        let limits = Limits {
            max_sessions: 2,
            ..Limits::default()
        };
        Self {
            supervisor: Supervisor::new(limits, []),
            now: 0,
            commands: 0,
            disk: BTreeMap::new(),
        }
    }

    /// With a session whose CLI is ready.
    pub fn ready() -> Self {
        let mut world = Self::new();
        world.command(Command::StartSession(start(1, 1)));
        world.told(1, Told::Ready);
        world
    }

    /// With a turn under way.
    pub fn busy() -> Self {
        let mut world = Self::ready();
        world.command(say("one"));
        world.taken(1, None);
        world
    }

    pub fn handle(&mut self, event: Event) -> Vec<String> {
        let effects = self.supervisor.handle(event, self.now);
        effects.into_iter().filter_map(|effect| self.word(effect)).collect()
    }

    pub fn command(&mut self, command: Command) -> Vec<String> {
        self.commands += 1;
        self.again(self.commands, command)
    }

    pub fn again(&mut self, number: u128, command: Command) -> Vec<String> {
        let command_id = Uuid::from_u128(number);
        self.handle(Event::Command {
            command_id,
            expires_at_ms: self.now + 60 * SECOND,
            command,
        })
    }

    pub fn told(&mut self, process: u64, told: Told) -> Vec<String> {
        self.handle(Event::Told {
            session_id: session(1),
            process,
            told,
        })
    }

    /// The CLI took the latest command, or not.
    pub fn taken(&mut self, process: u64, refused: Option<Refused>) -> Vec<String> {
        let tag = Some(Uuid::from_u128(self.commands));
        self.handle(Event::Taken {
            session_id: session(1),
            process,
            tag,
            refused,
        })
    }

    pub fn exited(&mut self, process: u64, end: End) -> Vec<String> {
        self.handle(Event::Exited {
            session_id: session(1),
            process,
            end,
        })
    }

    pub fn later(&mut self, ms: i64) -> Vec<String> {
        self.now += ms;
        self.handle(Event::Tick)
    }

    pub fn connected(&mut self, known: &[(u128, i64, bool)]) -> Vec<String> {
        let known = known.iter().map(|(number, run, live)| Known {
            session_id: session(*number),
            run: *run,
            live: *live,
            last_seq: 0,
        });
        let known = known.collect();
        self.handle(Event::Connected {
            clock_ahead_ms: 0,
            known,
        })
    }

    /// The agent is killed and started again with what is on the disk.
    pub fn crash(&mut self) {
        self.supervisor = Supervisor::new(self.supervisor.limits.clone(), self.disk.values().cloned());
    }

    fn word(&mut self, effect: Effect) -> Option<String> {
        Some(match effect {
            Effect::Say(word) => said(word),
            Effect::Print { stream, data, .. } => {
                let text = String::from_utf8(data).unwrap();
                let event: Value = serde_json::from_str(&text).unwrap_or_default();
                format!("{stream}: {}", event["result"].as_str().unwrap_or(text.trim_end()))
            }
            Effect::Token { token, until_ms, .. } => format!("token {token} until {until_ms}"),
            Effect::Spawn { process, start, .. } => {
                let model = start.model.as_deref().unwrap_or("-");
                format!(
                    "spawn {process} {} {model}{}",
                    start.resume_id.as_deref().unwrap_or("new"),
                    start.proxy_token
                )
            }
            Effect::Give { process, input, .. } => format!("give {process} {}", given(input)),
            Effect::Hold { process, held, .. } => format!("hold {process} {held}"),
            Effect::End { process, .. } => format!("end {process}"),
            Effect::Save(id, saved) => {
                self.disk.insert(id, *saved);
                return None;
            }
            Effect::Close(_) => "close".to_owned(),
            Effect::Forget(id) => {
                self.disk.remove(&id);
                "forget".to_owned()
            }
        })
    }
}

pub fn said_by(effect: Effect) -> String {
    match effect {
        Effect::Say(word) => said(word),
        other => format!("{other:?}"),
    }
}

pub fn said(word: FromAgent) -> String {
    match word {
        FromAgent::Ack { command_id } => format!("ack {}", command_id.as_u128()),
        FromAgent::Done { command_id, error, .. } => {
            let error = error.map(|error| format!(": {} {}", error.code, error.message));
            format!("done {}{}", command_id.as_u128(), error.unwrap_or_default())
        }
        FromAgent::Status {
            run,
            state,
            busy,
            resume_id,
            message,
            ..
        } => {
            let busy = if busy { " busy" } else { "" };
            let resume_id = resume_id.map(|id| format!(" {id}")).unwrap_or_default();
            let message = message.map(|message| format!(": {message}")).unwrap_or_default();
            format!("status {run} {state}{busy}{resume_id}{message}")
        }
        FromAgent::Approval {
            request_id, tool_name, ..
        } => format!("asks {request_id} {tool_name}"),
        FromAgent::ApprovalCancelled { request_id, .. } => format!("asks no more {request_id}"),
        FromAgent::TokenRequest { run, .. } => format!("wants a token {run}"),
        other => format!("{other:?}"),
    }
}

pub fn given(input: Input) -> String {
    match input {
        Input::Message(Message { content, .. }) => format!("message {content}"),
        Input::Interrupt => "interrupt".to_owned(),
        Input::Answer {
            request_id,
            allow,
            message,
        } => {
            format!("answer {request_id} {allow} {}", message.unwrap_or_default())
        }
        Input::Model(model) => format!("model {model}"),
        Input::PermissionMode(mode) => format!("mode {mode}"),
    }
}

#[track_caller]
pub fn check<const N: usize>(words: Vec<String>, expected: [&str; N]) {
    assert_eq!(words, expected);
}
