//! What an agent and the control API say to each other: JSON objects, told apart by `type`.
//!
//! Over a WebSocket (`/api/remote/agent/ws`) each is a text message. Where there is none, a long poll carries them in lists:
//! [`Sync`] to `/api/remote/agent/message`, [`Synced`] back. The first word is the agent's [`FromAgent::Connect`], the answer to it
//! [`ToAgent::Welcome`]; on a long poll both travel in the first exchange.
//!
//! What is said more than once has no further effect: commands carry ids and are applied once, output carries sequence numbers, a
//! report names its run. Unknown types and fields are skipped, so that either side may be newer.

mod command;
mod line;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::names::names;
use crate::session::Report;
use crate::{MachineId, SessionId};

pub use command::{Attachment, Behavior, Command, CommandKind, Start};
pub use line::{Data, Line, Stream};

/// The version of these messages. It grows where an older side could not go on.
pub const PROTOCOL: u32 = 1;

/// The largest message, in bytes, in either direction.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// The most output in one [`FromAgent::Output`], in bytes of data; a longer line is cut by the agent and marked.
pub const MAX_BATCH_BYTES: usize = 512 << 10;

/// What an agent says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// The first word.
    Connect(Connect),
    /// A sign of life, with what may have changed.
    Heartbeat {
        /// Sessions whose CLI runs.
        active_sessions: u32,
        /// Only where they have changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        capabilities: Option<Capabilities>,
    },
    /// Lines of a session, without a gap; those that were sent before are skipped by their numbers.
    Output {
        /// Whose.
        session_id: SessionId,
        /// In the order of their numbers.
        lines: Vec<Line>,
    },
    /// How a session's CLI is.
    Status {
        /// Whose.
        session_id: SessionId,
        /// The run it speaks of.
        run: i64,
        /// How it is.
        state: Report,
        /// Whether it works on a turn.
        #[serde(default)]
        busy: bool,
        /// The CLI's own name for the conversation, by which it can be gone on with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume_id: Option<String>,
        /// What people should know, such as why it is in error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// A CLI asks whether it may use a tool, and waits for [`Command::PermissionResponse`].
    Approval {
        /// Whose.
        session_id: SessionId,
        /// The run it is asked in.
        run: i64,
        /// The agent's name for the question, unique in the session.
        request_id: String,
        /// Which tool.
        tool_name: String,
        /// What for, as the CLI tells it.
        input: Value,
    },
    /// A question has no one waiting any more: the turn was ended, or the CLI died.
    ApprovalCancelled {
        /// Whose.
        session_id: SessionId,
        /// Which question.
        request_id: String,
    },
    /// A command has arrived and will be applied, or was before. It is not sent again.
    Ack {
        /// Which.
        command_id: Uuid,
    },
    /// A command was applied, or could not be.
    Done {
        /// Which.
        command_id: Uuid,
        /// What it was asked for: a listing, a file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
        /// Why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
    },
    /// A session's proxy token will end soon.
    TokenRequest {
        /// Whose.
        session_id: SessionId,
        /// The run that needs it.
        run: i64,
    },
}

/// Who connects.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Connect {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The agent's version.
    pub agent_version: String,
    /// The machine it is on. It must be the agent token's.
    pub machine_id: MachineId,
    /// What the machine is.
    #[serde(default)]
    pub hostname: String,
    /// `linux`, `macos`, `windows`.
    #[serde(default)]
    pub os_type: String,
    /// As the system tells it.
    #[serde(default)]
    pub os_version: String,
    /// What the machine can do.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// Where new sessions begin when nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_dir: Option<String>,
    /// How many sessions may run here at once.
    pub max_sessions: u32,
    /// The sessions it has something of: a CLI, or output that is not acknowledged yet.
    #[serde(default)]
    pub sessions: Vec<Held>,
}

/// A session as an agent has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Which.
    pub session_id: SessionId,
    /// Its latest run here.
    pub run: i64,
    /// The number of the last line that was written, 0 for none.
    pub last_seq: i64,
}

/// What a machine can do.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Logical processors.
    #[serde(default)]
    pub cpu_cores: u32,
    /// Main memory in GiB.
    #[serde(default)]
    pub memory_gb: f64,
    /// The CLIs that its agent knows, installed or not.
    #[serde(default)]
    pub clis: Vec<Cli>,
    /// CLIs that are run by their name alone although the agent does not know them.
    #[serde(default)]
    pub generic_clis: Vec<String>,
    /// What an agent of another version says besides.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
}

/// A CLI on a machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cli {
    /// The name by which a session asks for it, such as `claude-code`.
    pub id: String,
    /// For people.
    #[serde(default)]
    pub name: String,
    /// `None` where it is not installed.
    #[serde(default)]
    pub version: Option<String>,
    /// Whether it is installed.
    #[serde(default)]
    pub installed: bool,
    /// What it can: `resume`, `model`, `permission_mode`, `approvals`, `abort`, `attachments`.
    #[serde(default)]
    pub features: Vec<String>,
}

/// What the control API says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// The answer to the first word.
    Welcome {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Seconds between two heartbeats.
        heartbeat_interval_s: u64,
        /// UTC milliseconds, to tell a clock that is wrong.
        server_time_ms: i64,
        /// What the agent's sessions are here. One that the agent has and that is not live here, or in another run, is to be ended.
        sessions: Vec<Known>,
    },
    /// Something to do. It comes again until it is acknowledged.
    Command {
        /// Its id: applied once.
        command_id: Uuid,
        /// After this, in UTC milliseconds, it is not to be begun any more.
        expires_at_ms: i64,
        /// What.
        command: Command,
    },
    /// Output is stored up to this line; the agent forgets it. A gap makes it fall back: lines after it are to be sent again.
    OutputAck {
        /// Whose.
        session_id: SessionId,
        /// The last line that is stored.
        last_seq: i64,
    },
    /// A fresh proxy token.
    Token {
        /// Whose.
        session_id: SessionId,
        /// The token.
        token: String,
        /// Its end, UTC seconds.
        expires_at_s: i64,
    },
    /// Something the agent said cannot be used. `fatal` closes the connection, for good where the code says so.
    Error {
        /// Stable.
        code: String,
        /// For people.
        message: String,
        /// Whether the connection ends with it.
        fatal: bool,
    },
}

/// A session as the control API knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// Which.
    pub session_id: SessionId,
    /// Its current run.
    pub run: i64,
    /// Whether it is to run.
    pub live: bool,
    /// The last line that is stored.
    pub last_seq: i64,
}

/// Why a command could not be applied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Stable.
    pub code: FailureCode,
    /// For people.
    pub message: String,
}

names! {
    /// Why a command could not be applied.
    FailureCode {
        /// The path, session or question is not there.
        NotFound = "not_found",
        /// The path lies outside what the machine allows, or its system refuses.
        Forbidden = "forbidden",
        /// What was asked for makes no sense.
        Invalid = "invalid",
        /// More than is allowed: sessions, bytes.
        TooMuch = "too_much",
        /// The CLI is not installed, or cannot do it.
        Unsupported = "unsupported",
        /// It was begun, and the agent cannot tell how it ended.
        Interrupted = "interrupted",
        /// Anything else.
        Failed = "failed",
    }
    UnknownFailure "failure code"
}

/// One exchange of a long poll, there.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sync {
    /// Always `sync`.
    pub r#type: String,
    /// Chosen by the agent, the same for all exchanges of one connection.
    pub connection_id: Uuid,
    /// What the agent says.
    #[serde(default)]
    pub messages: Vec<FromAgent>,
    /// How long to wait for something to say, in milliseconds; the server waits for 25 s at most.
    #[serde(default)]
    pub wait_ms: u64,
}

/// One exchange of a long poll, back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Synced {
    /// Always true.
    pub success: bool,
    /// What the control API says.
    pub messages: Vec<ToAgent>,
}

#[cfg(test)]
mod tests;
