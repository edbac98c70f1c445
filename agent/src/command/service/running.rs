//! `ace-agent start` and `stop`: the installed agent, whoever looks after it.

use std::path::Path;
#[cfg(unix)]
use std::time::Duration;

use anyhow::bail;

use super::{Manager, run};
use crate::{config::Environment, lock::Lock};

/// Starts the installed service.
pub fn start(dir: &Path, environment: &Environment) -> anyhow::Result<()> {
    let manager = Manager::here(environment)?;
    let file = manager.file(&environment.home(), dir);
    if !file.exists() {
        bail!(
            "no service is installed ({} is not there): ace-agent install-service",
            file.display()
        );
    }
    if Lock::is_held(dir) {
        println!("the agent runs already");
        return Ok(());
    }
    run(&manager.start(&file))
}

/// Ends the agent of the directory, and waits until it is gone. It is no error if none runs.
pub fn stop(dir: &Path, environment: &Environment) -> anyhow::Result<()> {
    let manager = Manager::here(environment)?;
    let file = manager.file(&environment.home(), dir);
    // A manager starts again what ends otherwise.
    if let Some(command) = manager.stop(&file).filter(|_| file.exists()) {
        run(&command)?;
    }
    end_running(dir)
}

/// How long a running agent has to end its sessions and itself.
#[cfg(unix)]
const ENDING: Duration = Duration::from_secs(40);

/// Ends an agent that no service manager looks after, and waits until it is gone.
#[cfg(unix)]
pub fn end_running(dir: &Path) -> anyhow::Result<()> {
    use std::time::Instant;

    use rustix::process::{Pid, Signal, kill_process};

    let deadline = Instant::now() + ENDING;
    let mut asked = None;
    while Lock::is_held(dir) {
        let holder = Lock::holder(dir).filter(|pid| asked != Some(*pid));
        if let Some(pid) = holder.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            asked = holder;
            // One that has just ended is no error.
            let _gone_already = kill_process(pid, Signal::TERM);
        }
        if Instant::now() > deadline {
            bail!(
                "an agent (pid {}) runs in {} and does not end",
                asked.unwrap_or_default(),
                dir.display()
            );
        }
        pause();
    }
    Ok(())
}

#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "a command of one thread, without a runtime")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

#[cfg(not(unix))]
pub fn end_running(_dir: &Path) -> anyhow::Result<()> {
    Ok(())
}
