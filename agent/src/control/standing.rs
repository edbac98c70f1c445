//! What the connection knows of the sessions beyond one connection: each one's run, and how its CLI is.

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
    /// The latest state of each session whose CLI runs, as it was said.
    live: BTreeMap<SessionId, Report>,
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
        let FromAgent::Status {
            session_id, run, state, ..
        } = message
        else {
            return;
        };
        self.begun(*session_id, *run);
        match is_over(*state) {
            true => self.live.remove(session_id),
            false => self.live.insert(*session_id, *state),
        };
    }

    /// Notes what the server says.
    pub fn heard(&mut self, message: &ToAgent) {
        if let ToAgent::Command {
            command: Command::StartSession(start),
            ..
        } = message
        {
            self.begun(start.session_id, start.run);
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
        self.live.remove(&session);
        let path = self.dir.join(session.to_string()).join(RUN_FILE);
        drop(fs::remove_file(path));
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
        self.live.iter().map(|(session, state)| (*session, *state)).collect()
    }
}

const fn is_over(state: Report) -> bool {
    matches!(state, Report::Stopped | Report::Completed | Report::Error)
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn sessions_are_live_until_they_have_ended_and_their_runs_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut standing = Standing::open(dir.path()).unwrap();
        standing.said(&status(1, Report::Running));
        assert_eq!(standing.live(), [(ONE, Report::Running)]);
        standing.said(&status(1, Report::Completed));
        assert!(standing.live().is_empty());
        let standing = Standing::open(dir.path()).unwrap();
        assert_eq!(standing.held(ONE, 7).run, 1);
    }
}
