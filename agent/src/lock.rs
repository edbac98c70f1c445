//! One agent in a directory at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::Path,
    time::Duration,
};

use crate::config::private_dir;

/// The file, with the number of the process that holds it.
pub const FILE: &str = "agent.lock";

/// Who only looks whether the lock is held has it for a moment: so often, and so long after one another, it is tried.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Holds a directory for one agent.
pub struct Lock(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl Lock {
    /// Whether an agent has it.
    pub fn is_held(dir: &Path) -> bool {
        // Shared, so that two who look do not take each other for an agent.
        let found = File::open(dir.join(FILE)).map(|file| file.try_lock_shared());
        matches!(found, Ok(Err(TryLockError::WouldBlock)))
    }

    /// The process that has it; `None` as well while it is about to say so.
    pub fn holder(dir: &Path) -> Option<u32> {
        let text = fs::read_to_string(dir.join(FILE)).ok()?;
        text.trim().parse().ok().filter(|_| Self::is_held(dir))
    }

    /// `None` where another agent has it.
    pub fn take(dir: &Path) -> io::Result<Option<Self>> {
        private_dir(dir)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(FILE))?;
        for _ in 0..ATTEMPTS {
            match file.try_lock() {
                Ok(()) => {
                    file.set_len(0)?;
                    writeln!(&file, "{}", std::process::id())?;
                    return Ok(Some(Self(file)));
                }
                Err(TryLockError::WouldBlock) => pause(),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }
}

#[expect(clippy::disallowed_methods, reason = "before there is a runtime")]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_keeps_no_agent_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        drop(Lock::take(dir.path()).unwrap().unwrap());
        assert!(!Lock::is_held(dir.path()), "it was let go");
        let looking = File::open(dir.path().join(FILE)).unwrap();
        looking.lock_shared().unwrap();
        assert!(!Lock::is_held(dir.path()), "somebody looks, too");
        let looks = std::thread::spawn(move || {
            pause();
            drop(looking);
        });
        let lock = Lock::take(dir.path()).unwrap().expect("the lock");
        looks.join().unwrap();
        assert!(Lock::is_held(dir.path()));
        assert_eq!(Lock::holder(dir.path()), Some(std::process::id()));
        assert!(Lock::take(dir.path()).unwrap().is_none(), "one at a time");
        drop(lock);
    }
}
