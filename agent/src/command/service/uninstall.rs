//! Back to a machine without an agent.

use std::{fs, path::Path};

use anyhow::{Context, bail};

use super::{Manager, end_running, run};
use crate::{
    config::{Environment, FILE},
    lock::{self, Lock},
};

/// Stops and removes the service, and then the agent's directory with all that is in it.
pub fn uninstall(dir: &Path, environment: &Environment) -> anyhow::Result<()> {
    let manager = Manager::here(environment)?;
    let file = manager.file(&environment.home(), dir);
    if file.exists() {
        if let Some(Err(error)) = manager.disable(&file).map(|command| run(&command)) {
            eprintln!("warning: {error:#}");
        }
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        println!("removed {}", file.display());
        if matches!(manager, Manager::SystemdSystem | Manager::SystemdUser) {
            drop(run(&manager.systemctl(&["daemon-reload"])));
        }
    }
    end_running(dir)?;
    remove_dir(dir, &environment.home())?;
    println!("The machine still stands in the server's list; an administrator can take it off there.");
    Ok(())
}

/// Only a directory that is the agent's: it has its settings or its id in it.
fn remove_dir(dir: &Path, home: &Path) -> anyhow::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let real = fs::canonicalize(dir)?;
    let is_ours = ["machine_id", FILE, lock::FILE]
        .iter()
        .any(|name| real.join(name).is_file());
    let is_home = fs::canonicalize(home).is_ok_and(|home| home.starts_with(&real));
    if is_home || !is_ours {
        bail!(
            "{} is not removed: it does not look like an agent's directory",
            dir.display()
        );
    }
    if Lock::take(&real)?.is_none() {
        bail!("an agent still runs in {}: stop it first", dir.display());
    }
    fs::remove_dir_all(&real).with_context(|| format!("cannot remove {}", dir.display()))?;
    println!("removed {}", dir.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_agents_directory_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let other = home.path().join("documents");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("novel"), "x").unwrap();
        assert!(remove_dir(&other, home.path()).is_err());
        fs::write(home.path().join(FILE), "{}").unwrap();
        assert!(remove_dir(home.path(), home.path()).is_err(), "a home never");
        let agent = home.path().join("agent");
        fs::create_dir(&agent).unwrap();
        fs::write(agent.join(FILE), "{}").unwrap();
        let lock = Lock::take(&agent).unwrap();
        assert!(
            remove_dir(&agent, home.path())
                .unwrap_err()
                .to_string()
                .contains("still runs")
        );
        drop(lock);
        remove_dir(&agent, home.path()).unwrap();
        assert!(!agent.exists() && other.exists());
        remove_dir(&agent, home.path()).unwrap();
    }
}
