//! What the machine is: told to the server at registration and at each connection.

use ace_policies::wire::Capabilities;

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The machine's own name.
    pub hostname: String,
    /// `linux`, `macos`, `windows`.
    pub os_type: String,
    /// As the system tells it, such as `Ubuntu 22.04.4 LTS`.
    pub os_version: String,
    /// Logical processors that the agent may use.
    pub cpu_cores: u32,
    /// Main memory in GiB, to one digit.
    pub memory_gb: f64,
}

impl Facts {
    /// Looks at this machine.
    pub fn gather() -> Self {
        Self {
            hostname: hostname(),
            os_type: std::env::consts::OS.to_owned(),
            os_version: os_version().unwrap_or_default(),
            cpu_cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            memory_gb: (memory_bytes().unwrap_or(0) as f64 / f64::from(1 << 30) * 10.0).round() / 10.0,
        }
    }

    /// The part that stands among the capabilities; the CLIs are the caller's.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            cpu_cores: self.cpu_cores,
            memory_gb: self.memory_gb,
            ..Capabilities::default()
        }
    }
}

/// The machine's own name.
#[cfg(unix)]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The machine's own name.
#[cfg(not(unix))]
#[expect(
    clippy::disallowed_methods,
    reason = "the name of a Windows machine is in its environment"
)]
pub fn hostname() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "unknown".to_owned())
}

#[cfg(target_os = "linux")]
fn os_version() -> Option<String> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    match pretty {
        Some(name) => Some(name.trim_matches('"').to_owned()),
        None => Some(rustix::system::uname().release().to_string_lossy().into_owned()),
    }
}

#[cfg(not(target_os = "linux"))]
fn os_version() -> Option<String> {
    let (program, argument) = if cfg!(windows) {
        ("cmd", ["/c", "ver"].as_slice())
    } else {
        ("sw_vers", ["-productVersion"].as_slice())
    };
    output_of(program, argument)
}

#[cfg(target_os = "linux")]
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    kib.trim().split(' ').next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(not(target_os = "linux"))]
fn memory_bytes() -> Option<u64> {
    output_of("sysctl", &["-n", "hw.memsize"])?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name_a_system_processors_and_memory() {
        let facts = Facts::gather();
        assert!(!facts.hostname.is_empty() && !facts.os_version.is_empty(), "{facts:?}");
        assert!(facts.cpu_cores >= 1 && facts.memory_gb > 0.1, "{facts:?}");
        assert_eq!(facts.capabilities().cpu_cores, facts.cpu_cores);
    }
}
