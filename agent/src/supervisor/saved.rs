//! What of a session is on the disk, so that neither a dead agent nor a dead machine applies a command twice or loses one.

use std::collections::VecDeque;

use ace_policies::{session::Report, wire::Start};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ProcessNumber;
use crate::driver::Message;

/// A session on the disk.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// How its CLI is started, without its token. Model and permission mode are those of now, `resume_id` the conversation of now.
    pub start: Start,
    /// The command that began the run, until it is done.
    pub starting: Option<Uuid>,
    /// Whether the CLI's processes are held.
    #[serde(default)]
    pub paused: bool,
    /// Whether a turn is under way.
    #[serde(default)]
    pub busy: bool,
    /// How it ended, if it has, and why.
    pub ended: Option<(Report, Option<String>)>,
    /// Messages that wait.
    #[serde(default)]
    pub queue: VecDeque<Queued>,
    /// The message that was handed to the CLI, until the CLI has it.
    pub handed: Option<Uuid>,
    /// Commands that were applied, the latest last.
    #[serde(default)]
    pub applied: VecDeque<Uuid>,
    /// The number of the latest process.
    #[serde(default)]
    pub processes: ProcessNumber,
    /// Whether the conversation has begun.
    #[serde(default)]
    pub spoken: bool,
}

/// A message that waits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Queued {
    /// The command it came with.
    pub command_id: Uuid,
    /// What was said.
    pub message: Message,
}

/// A command that comes again comes soon; so many of a session are remembered.
const REMEMBERED: usize = 256;

impl Saved {
    /// A session that begins.
    pub fn new(mut start: Start, command_id: Uuid) -> Self {
        // Secrets are not for the disk.
        start.proxy_token.clear();
        Self {
            start,
            starting: Some(command_id),
            paused: false,
            busy: false,
            ended: None,
            queue: VecDeque::new(),
            handed: None,
            applied: VecDeque::new(),
            processes: 0,
            spoken: false,
        }
    }

    /// Remembers a command that is new.
    pub fn apply(&mut self, command_id: Uuid) {
        self.applied.push_back(command_id);
        if self.applied.len() > REMEMBERED {
            self.applied.pop_front();
        }
    }
}
