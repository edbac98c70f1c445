//! The state directory: made for its owner alone, and used by one process at a time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The directory, locked. The lock goes with the process, however it ends.
pub struct StateDir {
    path: PathBuf,
    lock: File,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or opened.
    #[error("{path}: {error}", path = .0.display(), error = .1)]
    Io(PathBuf, io::Error),
    /// Another gateway uses it.
    #[error("state_dir_in_use: another gateway uses {path}; stop it, or give this one its own --state-dir", path = .0.display())]
    InUse(PathBuf),
}

impl StateDir {
    /// Makes the directory where it is missing, and locks it.
    pub fn lock(path: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError::Io(path.to_owned(), error);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let failed = |error| StateError::Io(path.clone(), error);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path, lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::InUse(path)),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Takes the directory over with the lock of the process before.
    pub fn inherit(path: &Path, lock: File) -> Result<Self, StateError> {
        let path = path
            .canonicalize()
            .map_err(|error| StateError::Io(path.to_owned(), error))?;
        Ok(Self { path, lock })
    }

    /// The lock, to be handed to the next process.
    pub fn lock_file(&self) -> &File {
        &self.lock
    }

    /// Where it is, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_directory_is_private_and_used_once() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("a/b");
        let first = StateDir::lock(&path).expect("free");
        assert_eq!(fs::metadata(&path).expect("made").permissions().mode() & 0o777, 0o700);
        assert!(matches!(StateDir::lock(&path), Err(StateError::InUse(_))));
        drop(first);
        assert!(StateDir::lock(&path).is_ok());
    }
}
