//! How a family of CLIs is spoken to. Pure: lines go in, what is to be written and told comes out.
//!
//! Whatever a CLI's own protocol is, what people see of it are events in the vocabulary of Claude Code's `stream-json`. A driver
//! whose CLI speaks that passes its lines on as they are; the others translate. Lines that a driver does not know are passed on, too.

use ace_policies::wire::{Attachment, Stream};
use serde_json::Value;

mod acp;
mod app_server;
mod attachment;
mod events;
mod one_shot;
mod rpc;
mod stream_json;
#[cfg(test)]
mod testing;

use crate::adapter::{Adapter, DriverKind};

/// What a driver is told before it begins.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Where the CLI runs.
    pub cwd: String,
    /// The conversation to go on with.
    pub resume_id: Option<String>,
    /// The model, where one was asked for.
    pub model: Option<String>,
    /// The permission mode, where one was asked for.
    pub permission_mode: Option<String>,
}

/// Something for a CLI.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A message of a person: it begins a turn.
    Message(Message),
    /// Ends the turn.
    Interrupt,
    /// Answers a question.
    Answer {
        /// The CLI's name for it.
        request_id: String,
        /// Yes or no.
        allow: bool,
        /// What the CLI is told with a no.
        message: Option<String>,
    },
    /// Another model, from the next turn on.
    Model(String),
    /// Another permission mode.
    PermissionMode(String),
}

/// What a person says.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// The text.
    pub content: String,
    /// Files that go with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
}

/// What a driver tells about its CLI.
#[derive(Clone, PartialEq, Debug)]
pub enum Told {
    /// It takes messages.
    Ready,
    /// It cannot be used. It is ended.
    Failed(String),
    /// It cannot go on with the conversation that it was told to. It is ended.
    NotResumed(String),
    /// Its own name for the conversation.
    Conversation(String),
    /// It asks whether it may use a tool.
    Asked {
        /// Its name for the question.
        request_id: String,
        /// Which tool.
        tool_name: String,
        /// What for.
        input: Value,
    },
    /// It does not wait for an answer any more.
    Withdrawn(String),
    /// It has not taken what it was given after all; with what it said.
    Rejected(String),
    /// The turn is over; with what went wrong.
    TurnEnded(Option<String>),
}

/// Why an input cannot be given to a CLI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The CLI takes it as an argument only: it has to be started again.
    Restart,
    /// It cannot be done.
    Never(String),
    /// It could have been done, and went wrong on this machine.
    Failed(String),
}

/// What follows.
#[derive(Clone, PartialEq, Debug)]
pub enum Act {
    /// A line for the CLI, its newline included.
    Write(Vec<u8>),
    /// The CLI gets no more: its standard input is closed.
    Close,
    /// A line for people.
    Print(Stream, Vec<u8>),
    /// What the supervisor should know.
    Tell(Told),
}

/// What follows, in order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Acts(pub Vec<Act>);

impl Acts {
    fn write(&mut self, message: &Value) {
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        self.0.push(Act::Write(line));
    }

    fn event(&mut self, event: &Value) {
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        self.pass(line);
    }

    fn pass(&mut self, line: Vec<u8>) {
        self.0.push(Act::Print(Stream::Stdout, line));
    }

    fn tell(&mut self, told: Told) {
        self.0.push(Act::Tell(told));
    }
}

/// How a CLI ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code; 128 + n for signal n.
    pub code: i32,
    /// The last that it complained about.
    pub words: String,
}

impl Exit {
    /// For people.
    pub fn describe(&self) -> String {
        let how = match self.code {
            code if code > 128 => format!("was ended by signal {}", code - 128),
            code => format!("ended with exit code {code}"),
        };
        let words = self.words.trim();
        if words.is_empty() {
            how
        } else {
            format!("{how}: {words}")
        }
    }
}

/// A conversation with one CLI.
#[derive(Debug)]
pub enum Driver {
    /// Claude Code's own protocol.
    StreamJson(stream_json::StreamJson),
    /// The Agent Client Protocol.
    Acp(acp::Acp),
    /// Codex's.
    AppServer(app_server::AppServer),
    /// None: a process a turn.
    OneShot(one_shot::OneShot),
}

impl Driver {
    /// The driver for a CLI.
    pub fn new(adapter: &Adapter, setting: Setting) -> Self {
        match adapter.driver {
            DriverKind::StreamJson => {
                Self::StreamJson(stream_json::StreamJson::new(adapter.stream_json.initialize, &setting))
            }
            DriverKind::Acp => Self::Acp(acp::Acp::new(setting)),
            DriverKind::AppServer => Self::AppServer(app_server::AppServer::new(setting)),
            DriverKind::OneShot => Self::OneShot(one_shot::OneShot::new(adapter.one_shot.clone(), setting)),
        }
    }

    /// Whether each turn has a process of its own.
    pub const fn is_one_shot(&self) -> bool {
        matches!(self, Self::OneShot(_))
    }

    /// The first words.
    pub fn begin(&mut self) -> Acts {
        let mut acts = Acts::default();
        match self {
            Self::StreamJson(driver) => driver.begin(&mut acts),
            Self::Acp(driver) => driver.begin(&mut acts),
            Self::AppServer(driver) => driver.begin(&mut acts),
            Self::OneShot(driver) => driver.begin(&mut acts),
        }
        acts
    }

    /// Something for the CLI. Nothing has changed where it is refused.
    pub fn input(&mut self, input: Input) -> Result<Acts, Refused> {
        let mut acts = Acts::default();
        match self {
            Self::StreamJson(driver) => driver.input(input, &mut acts),
            Self::Acp(driver) => driver.input(input, &mut acts),
            Self::AppServer(driver) => driver.input(input, &mut acts),
            Self::OneShot(driver) => driver.input(input, &mut acts),
        }?;
        Ok(acts)
    }

    /// A line that the CLI printed.
    pub fn line(&mut self, line: Vec<u8>) -> Acts {
        let mut acts = Acts::default();
        match self {
            Self::StreamJson(driver) => driver.line(line, &mut acts),
            Self::Acp(driver) => driver.line(line, &mut acts),
            Self::AppServer(driver) => driver.line(line, &mut acts),
            Self::OneShot(driver) => driver.line(line, &mut acts),
        }
        acts
    }

    /// The process has ended. For a process a turn that is the end of the turn.
    pub fn ended(&mut self, exit: &Exit) -> Acts {
        let mut acts = Acts::default();
        match self {
            Self::OneShot(driver) => driver.ended(exit, &mut acts),
            Self::Acp(driver) => driver.ended(&mut acts),
            Self::AppServer(driver) => driver.ended(&mut acts),
            Self::StreamJson(_) => {}
        }
        acts
    }
}

/// The event of a turn that came to nothing.
pub fn failed_turn(message: &str) -> Value {
    events::failure(message)
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}
