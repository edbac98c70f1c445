//! Who lives: an instance holds `flock` on its own file for as long as its process does, however it ends.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Takes the lock of an instance; `None` while somebody else has it. The file may be made for that.
pub(super) fn try_take(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        if is_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Takes the lock of an instance that is just starting. Only somebody who looks for the dead has it, for a moment.
pub(super) fn take(path: &Path) -> io::Result<File> {
    loop {
        let file = open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Whether the file is still the one of that name: whoever had the lock before may have removed it.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_a_removed_file_is_no_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.lock");
        let held = try_take(&path).expect("a file").expect("free");
        assert!(try_take(&path).expect("a file").is_none());
        let waiting = open(&path).expect("a file");
        fs::remove_file(&path).expect("there");
        drop(held);
        flock(&waiting, FlockOperation::NonBlockingLockExclusive).expect("free, but of no use");
        assert!(!is_at(&waiting, &path).expect("readable"));
        assert!(take(&path).is_ok(), "under a file of its own");
    }
}
