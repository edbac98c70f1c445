//! Sessions on the disk: `sessions/ID/session.json`, for this user only.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ace_policies::SessionId;

use crate::{
    config::{private_dir, sync_dir, write_private},
    supervisor::Saved,
};

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

/// Writes a session whole or not at all; neither a dead agent nor a power cut takes it back once this has returned.
pub fn save(dir: &Path, saved: &Saved) -> io::Result<()> {
    let dir = session_dir(dir, saved.start.session_id);
    let is_new = !dir.is_dir();
    write_private(&dir.join(FILE), &serde_json::to_vec(saved)?)?;
    match dir.parent() {
        Some(sessions) if is_new => sync_dir(sessions),
        _ => Ok(()),
    }
}

/// Where the CLI's own files of a session go.
pub fn cli_dir(dir: &Path, session: SessionId) -> io::Result<PathBuf> {
    let dir = session_dir(dir, session).join("cli");
    private_dir(&dir)?;
    Ok(dir)
}

/// Removes what was written here; what others keep of the session stays.
pub fn forget(dir: &Path, session: SessionId) {
    let dir = session_dir(dir, session);
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        // Also what an agent that was killed in the middle of writing has left beside it.
        if entry.file_name().to_string_lossy().starts_with(FILE) {
            fs::remove_file(entry.path()).ok();
        }
    }
    fs::remove_dir_all(dir.join("cli")).ok();
    // Only where nothing else is in it.
    fs::remove_dir(dir).ok();
}

fn session_dir(dir: &Path, session: SessionId) -> PathBuf {
    dir.join("sessions").join(session.to_string())
}
