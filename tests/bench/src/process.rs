//! What the kernel says about a process: CPU time, memory; and what it lets this one open.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::Path,
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// The unit of /proc/PID/stat: Linux shows user space 100 ticks a second whatever it counts with.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time that process `pid` has used so far, all threads, user and system.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    cpu_of(&format!("/proc/{pid}/stat"))
}

/// CPU time of process `pid` by the names of its threads, a number at the end of a name left out.
pub fn cpu_by_thread(pid: u32) -> anyhow::Result<BTreeMap<String, Duration>> {
    let mut threads = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("stat");
        // A thread may end while it is looked at; then it has no part in what follows.
        let Ok(stat) = std::fs::read_to_string(&path) else {
            continue;
        };
        let name = stat
            .split_once('(')
            .and_then(|(_, rest)| rest.rsplit_once(')'))
            .map_or("", |(name, _)| name);
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '#');
        *threads.entry(name.to_owned()).or_default() += cpu_in(&stat).with_context(|| path.display().to_string())?;
    }
    Ok(threads)
}

/// CPU time that the calling thread has used so far.
pub fn own_thread_cpu() -> anyhow::Result<Duration> {
    cpu_of("/proc/thread-self/stat")
}

fn cpu_of(path: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    cpu_in(&stat).with_context(|| path.to_owned())
}

fn cpu_in(stat: &str) -> anyhow::Result<Duration> {
    // The name in brackets may hold anything; utime and stime are the 12th and 13th field after it.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(Duration::from_secs_f64((user + system) / TICKS_PER_SECOND)),
        _ => bail!("not understood"),
    }
}

/// Resident memory of process `pid`, in bytes.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .with_context(|| format!("{path}: no VmRSS"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Raises the limit on open descriptors to what is allowed; children inherit it. Returns the limit.
pub fn raise_descriptor_limit() -> anyhow::Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(limit.maximum.map_or(usize::MAX, |limit| limit as usize))
}

/// A process of ours, ended when it goes out of scope.
pub struct Running {
    child: Child,
    name: &'static str,
}

/// How long a process may take to leave after SIGTERM before it is killed.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

impl Running {
    pub fn new(name: &'static str, child: Child) -> Self {
        Self { child, name }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when the process has left, with the end of its log.
    pub fn check(&mut self, log: &Path) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} left with {status}:\n{}", self.name, tail(log)),
        }
    }

    fn leave(&mut self) -> Option<ExitStatus> {
        let pid = Pid::from_raw(self.child.id() as i32)?;
        kill_process(pid, Signal::TERM).ok()?;
        let until = Instant::now() + LEAVE_WITHIN;
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            pause(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.leave().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(log) {
        let _ = file.read_to_string(&mut text);
    }
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[expect(
    clippy::disallowed_methods,
    reason = "no runtime runs in this thread; there is nothing else to do meanwhile"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_looked_at() {
        let before = own_thread_cpu().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while own_thread_cpu().unwrap() == before {
            assert!(Instant::now() < until, "it counts in hundredths of a second");
        }
        assert!(cpu(std::process::id()).unwrap() > Duration::ZERO);
        assert!(cpu_by_thread(std::process::id()).unwrap().values().sum::<Duration>() > Duration::ZERO);
        assert!(resident(std::process::id()).unwrap() > 100_000);
    }
}
