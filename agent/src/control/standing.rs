//! What holds beyond one connection: each session's run and how its CLI is, and the questions that wait for an answer. It is told
//! again at the start of every connection.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use ace_policies::{
    SessionId,
    session::Report,
    wire::{Command, FromAgent, Held, ToAgent},
};

use crate::config::write_private;

/// Holds a session's latest run, in its directory.
const RUN_FILE: &str = "run";

/// What the sessions have said last.
#[derive(Default)]
pub(super) struct Standing {
    dir: PathBuf,
    runs: HashMap<SessionId, i64>,
    /// The latest status of each session of this process.
    statuses: BTreeMap<SessionId, FromAgent>,
    questions: BTreeMap<(SessionId, String), FromAgent>,
}

impl Standing {
    /// Reads the runs that were begun before.
    pub fn open(sessions_dir: &Path) -> io::Result<Self> {
        let mut runs = HashMap::new();
        for entry in fs::read_dir(sessions_dir)? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let run = fs::read_to_string(entry.path().join(RUN_FILE)).ok();
            if let (Some(id), Some(run)) = (id, run.and_then(|text| text.trim().parse().ok())) {
                runs.insert(id, run);
            }
        }
        Ok(Self {
            dir: sessions_dir.to_owned(),
            runs,
            ..Self::default()
        })
    }

    /// Notes what the agent says.
    pub fn said(&mut self, message: &FromAgent) {
        match message {
            FromAgent::Status {
                session_id, run, state, ..
            } => {
                self.begun(*session_id, *run);
                if is_over(*state) {
                    self.questions.retain(|(session, _), _| session != session_id);
                }
                self.statuses.insert(*session_id, message.clone());
            }
            FromAgent::Approval {
                session_id, request_id, ..
            } => {
                _ = self
                    .questions
                    .insert((*session_id, request_id.clone()), message.clone())
            }
            FromAgent::ApprovalCancelled { session_id, request_id } => {
                self.questions.remove(&(*session_id, request_id.clone()));
            }
            _ => {}
        }
    }

    /// Notes what the server says.
    pub fn heard(&mut self, message: &ToAgent) {
        match message {
            ToAgent::Command {
                command: Command::StartSession(start),
                ..
            } => self.begun(start.session_id, start.run),
            ToAgent::Command {
                command: Command::PermissionResponse {
                    session_id, request_id, ..
                },
                ..
            } => _ = self.questions.remove(&(*session_id, request_id.clone())),
            _ => {}
        }
    }

    fn begun(&mut self, session: SessionId, run: i64) {
        if self.runs.insert(session, run) != Some(run) {
            let path = self.dir.join(session.to_string()).join(RUN_FILE);
            if let Err(error) = write_private(&path, format!("{run}\n").as_bytes()) {
                tracing::warn!(session = %session, %error, "a session's run cannot be noted");
            }
        }
    }

    /// The server does not know the session.
    pub fn forget(&mut self, session: SessionId) {
        self.runs.remove(&session);
        self.statuses.remove(&session);
        self.questions.retain(|(of, _), _| *of != session);
        let path = self.dir.join(session.to_string()).join(RUN_FILE);
        drop(fs::remove_file(path));
    }

    /// What a new connection is told, beside what it has not heard yet.
    pub fn again(&self) -> Vec<FromAgent> {
        self.statuses.values().chain(self.questions.values()).cloned().collect()
    }

    /// A session as the server is told of it.
    pub fn held(&self, session_id: SessionId, last_seq: i64) -> Held {
        Held {
            session_id,
            run: self.runs.get(&session_id).copied().unwrap_or(0),
            last_seq,
        }
    }

    /// The sessions whose CLI runs, with its state.
    pub fn live(&self) -> Vec<(SessionId, Report)> {
        let states = self.statuses.iter().filter_map(|(session, status)| match status {
            FromAgent::Status { state, .. } => Some((*session, *state)),
            _ => None,
        });
        states.filter(|(_, state)| !is_over(*state)).collect()
    }
}

const fn is_over(state: Report) -> bool {
    matches!(state, Report::Stopped | Report::Completed | Report::Error)
}

#[cfg(test)]
mod tests {
    use ace_policies::wire::Behavior;
    use uuid::Uuid;

    use super::*;

    const ONE: SessionId = SessionId(Uuid::from_u128(1));

    fn status(run: i64, state: Report) -> FromAgent {
        FromAgent::Status {
            session_id: ONE,
            run,
            state,
            busy: false,
            resume_id: None,
            message: None,
        }
    }

    fn question(request_id: &str) -> FromAgent {
        FromAgent::Approval {
            session_id: ONE,
            run: 1,
            request_id: request_id.to_owned(),
            tool_name: "Bash".to_owned(),
            input: serde_json::Value::Null,
        }
    }

    #[test]
    fn the_latest_status_and_open_questions_are_told_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut standing = Standing::open(dir.path()).unwrap();
        standing.said(&status(1, Report::Running));
        standing.said(&question("a"));
        standing.said(&question("b"));
        standing.said(&question("c"));
        standing.said(&FromAgent::ApprovalCancelled {
            session_id: ONE,
            request_id: "b".to_owned(),
        });
        let answer = Command::PermissionResponse {
            session_id: ONE,
            request_id: "a".to_owned(),
            behavior: Behavior::Allow,
            tool_name: "Bash".to_owned(),
            message: None,
        };
        standing.heard(&ToAgent::Command {
            command_id: Uuid::nil(),
            expires_at_ms: 0,
            command: answer,
        });
        assert_eq!(standing.again(), [status(1, Report::Running), question("c")]);
        assert_eq!(standing.live(), [(ONE, Report::Running)]);
        standing.said(&status(1, Report::Completed));
        assert_eq!(standing.again(), [status(1, Report::Completed)]);
        assert!(standing.live().is_empty());
        let standing = Standing::open(dir.path()).unwrap();
        assert_eq!(standing.held(ONE, 7).run, 1, "runs outlive the process");
        assert!(standing.again().is_empty());
    }
}
