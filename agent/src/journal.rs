//! Which commands a session was told already: a command that comes again, even after the agent was restarted, is not applied again.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// The file in a session's directory; a command id a line.
pub const FILE: &str = "applied";
/// A command is sent again for a day at most. Of more than so many lines the older half is forgotten when the file is opened.
const MAX_LINES: usize = 10_000;

/// The commands that were applied to one session.
pub struct Journal {
    path: PathBuf,
    applied: HashSet<Uuid>,
    file: File,
}

impl Journal {
    /// Opens the journal in a session's directory, which is made if it is not there.
    pub fn open(session_dir: &Path) -> io::Result<Self> {
        crate::config::private_dir(session_dir)?;
        let path = session_dir.join(FILE);
        let text = fs::read(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(Vec::new()),
            _ => Err(error),
        })?;
        let ids: Vec<Uuid> = text.split(|byte| *byte == b'\n').filter_map(parse).collect();
        let recent = &ids[ids.len().saturating_sub(MAX_LINES / 2)..];
        // Rewritten where it has grown long, and where its last line was cut short: the next must not continue it.
        if ids.len() > MAX_LINES || text.last().is_some_and(|last| *last != b'\n') {
            let lines: String = recent.iter().map(|id| format!("{id}\n")).collect();
            crate::config::write_private(&path, lines.as_bytes())?;
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Self {
            file: options.open(&path)?,
            applied: ids.into_iter().collect(),
            path,
        })
    }

    /// Whether a command was applied, or at least begun.
    pub fn applied(&self, command: Uuid) -> bool {
        self.applied.contains(&command)
    }

    /// Notes a command, and tells whether it is new. It is on disk when this returns: apply it after that, and not before.
    pub fn note(&mut self, command: Uuid) -> io::Result<bool> {
        if !self.applied.insert(command) {
            return Ok(false);
        }
        let written = self
            .file
            .write_all(format!("{command}\n").as_bytes())
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.applied.remove(&command);
            return Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", self.path.display()),
            ));
        }
        Ok(true)
    }
}

fn parse(line: &[u8]) -> Option<Uuid> {
    str::from_utf8(line).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_new_once_even_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let session = dir.path().join("session");
        let (one, two, three) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        let mut journal = Journal::open(&session).unwrap();
        assert!(journal.note(one).unwrap() && !journal.note(one).unwrap());
        assert!(journal.note(two).unwrap());
        // Killed in the middle of the last line.
        let path = session.join(FILE);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let mut journal = Journal::open(&session).unwrap();
        assert!(journal.applied(one) && !journal.applied(two));
        assert!(journal.note(three).unwrap());
        let journal = Journal::open(&session).unwrap();
        assert!(journal.applied(one) && journal.applied(three));
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let lines: String = (0..MAX_LINES as u128 + 1)
            .map(|id| format!("{}\n", Uuid::from_u128(id)))
            .collect();
        fs::write(dir.path().join(FILE), lines).unwrap();
        Journal::open(dir.path()).unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        assert!(journal.applied(Uuid::from_u128(MAX_LINES as u128)));
        assert!(!journal.applied(Uuid::from_u128(0)));
    }
}
