//! What an agent can be told to do.

use serde::{Deserialize, Serialize};

use crate::SessionId;
use crate::names::names;

/// Declares the commands and their names from one list.
macro_rules! commands {
    ($($(#[$doc:meta])* $variant:ident = $name:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })+) => {
        /// Something for an agent to do.
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        #[serde(tag = "type")]
        pub enum Command {
            $($(#[$doc])* #[serde(rename = $name)] $variant { $($(#[$field_doc])* $field: $type,)* },)+
            /// Starts a session's CLI.
            #[serde(rename = "start_session")]
            StartSession(Start),
        }

        names! {
            /// The names of the commands.
            CommandKind {
                $($(#[$doc])* $variant = $name,)+
                /// Starts a session's CLI.
                StartSession = "start_session",
            }
            UnknownCommand "command"
        }

        impl Command {
            /// Its name.
            pub const fn kind(&self) -> CommandKind {
                match self {
                    $(Self::$variant { .. } => CommandKind::$variant,)+
                    Self::StartSession(_) => CommandKind::StartSession,
                }
            }
        }
    };
}

commands! {
    /// Says something to the CLI; one that is not running any more is started with its conversation first.
    SendMessage = "send_message" {
        /// Whose.
        session_id: SessionId,
        /// What.
        content: String,
        /// Files that go with it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        attachments: Vec<Attachment>,
    }
    /// Ends the CLI and all its processes.
    StopSession = "stop_session" {
        /// Whose.
        session_id: SessionId,
    }
    /// Holds the CLI's processes where they are.
    PauseSession = "pause_session" {
        /// Whose.
        session_id: SessionId,
    }
    /// Lets held processes go on.
    ResumeSession = "resume_session" {
        /// Whose.
        session_id: SessionId,
    }
    /// Ends the turn that is under way. One that began after this was asked for is left alone.
    AbortRequest = "abort_request" {
        /// Whose.
        session_id: SessionId,
        /// For the log.
        reason: String,
    }
    /// Answers a question of the CLI.
    PermissionResponse = "permission_response" {
        /// Whose.
        session_id: SessionId,
        /// Which question.
        request_id: String,
        /// Yes or no.
        behavior: Behavior,
        /// The tool it was about.
        tool_name: String,
        /// What the CLI is told with a no.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    }
    /// Changes the model, from the next turn on.
    UpdateModel = "update_model" {
        /// Whose.
        session_id: SessionId,
        /// Its name at the provider.
        model: String,
    }
    /// Changes what the CLI may do without asking.
    UpdatePermissionMode = "update_permission_mode" {
        /// Whose.
        session_id: SessionId,
        /// The CLI's own name for it.
        permission_mode: String,
    }
    /// Lists a directory.
    BrowseDirectory = "browse_directory" {
        /// Absolute; empty is where new sessions begin.
        path: String,
    }
    /// Reads a file.
    ReadFile = "read_file" {
        /// Absolute.
        path: String,
    }
    /// Tells the state of the repository that a directory is in.
    GitStatus = "git_status" {
        /// Absolute.
        path: String,
    }
    /// Tells the changes in the repository that a directory is in.
    GitDiff = "git_diff" {
        /// Absolute: a directory, or one file.
        path: String,
    }
    /// Replaces the agent's own token. The old one works until the new one is used.
    RotateToken = "rotate_token" {
        /// Names the rotation.
        rotation_id: String,
        /// The new token; filled in as the command is handed over.
        #[serde(default)]
        new_token: String,
    }
    /// Ends all sessions and forgets the server: the machine was taken off the list.
    Unregister = "unregister" {}
}

/// How a session's CLI is started.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Start {
    /// Whose.
    pub session_id: SessionId,
    /// The run that begins with it.
    pub run: i64,
    /// Where: an absolute path.
    pub project_path: String,
    /// Which CLI.
    pub cli_tool: String,
    /// Which model; `None` leaves it to the CLI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What it may do without asking; `None` leaves it to the CLI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<String>,
    /// The CLI's name for the conversation to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_id: Option<String>,
    /// The number of the session's last line of output that is stored: the agent's next one follows it, even where it has forgotten
    /// the session. Filled in as the command is handed over.
    #[serde(default)]
    pub last_seq: i64,
    /// Filled in as the command is handed over.
    #[serde(default)]
    pub proxy_token: String,
    /// The end of `proxy_token`, UTC seconds.
    #[serde(default)]
    pub proxy_token_expires_at_s: i64,
}

/// A file that goes with a message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// Its name, without a path.
    pub name: String,
    /// Such as `image/png`.
    pub media_type: String,
    /// Its content.
    pub data_base64: String,
}

names! {
    /// The answer to a question of a CLI.
    Behavior {
        /// Yes.
        Allow = "allow",
        /// No.
        Deny = "deny",
    }
    UnknownBehavior "behavior"
}
