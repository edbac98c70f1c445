//! Sessions on the disk: `sessions/ID/session.json`, for this user only.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use ace_policies::SessionId;

use crate::supervisor::Saved;

const FILE: &str = "session.json";

/// All that can be read. One that cannot is left alone, and said.
pub fn load(dir: &Path) -> Vec<Saved> {
    let entries = fs::read_dir(dir.join("sessions")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path().join(FILE);
            let bytes = fs::read(&path).ok()?;
            serde_json::from_slice(&bytes)
                .inspect_err(|error| tracing::error!(path = %path.display(), %error, "a session cannot be read"))
                .ok()
        })
        .collect()
}

/// Writes a session whole or not at all.
pub fn save(dir: &Path, saved: &Saved) -> io::Result<()> {
    let dir = make(&session_dir(dir, saved.start.session_id))?;
    let (path, fresh) = (dir.join(FILE), dir.join("session.json.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&serde_json::to_vec(saved)?)?;
    file.sync_data()?;
    fs::rename(fresh, path)
}

/// Where the CLI's own files of a session go.
pub fn private_dir(dir: &Path, session: SessionId) -> io::Result<PathBuf> {
    make(&session_dir(dir, session).join("cli"))
}

/// Removes what was written here; what others keep of the session stays.
pub fn forget(dir: &Path, session: SessionId) {
    let dir = session_dir(dir, session);
    fs::remove_file(dir.join(FILE)).ok();
    fs::remove_dir_all(dir.join("cli")).ok();
    // Only where nothing else is in it.
    fs::remove_dir(dir).ok();
}

fn session_dir(dir: &Path, session: SessionId) -> PathBuf {
    dir.join("sessions").join(session.to_string())
}

fn make(dir: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    Ok(dir.to_owned())
}
