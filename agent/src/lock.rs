//! One agent in a directory at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Write},
    path::Path,
};

use crate::config::private_dir;

/// The file, with the number of the process that holds it.
pub const FILE: &str = "agent.lock";

/// Holds a directory for one agent.
pub struct Lock(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl Lock {
    /// Whether an agent has it.
    pub fn is_held(dir: &Path) -> bool {
        dir.join(FILE).exists() && matches!(Self::take(dir), Ok(None))
    }

    /// The process that has it; `None` as well while it is about to say so.
    pub fn holder(dir: &Path) -> Option<u32> {
        let text = std::fs::read_to_string(dir.join(FILE)).ok()?;
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
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                writeln!(&file, "{}", std::process::id())?;
                Ok(Some(Self(file)))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
