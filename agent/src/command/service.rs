//! `ace-agent install-service` and `uninstall`: the agent as a service of its machine.
//!
//! systemd where it runs (the system's for root, else the user's own), launchd on macOS, elsewhere a start script.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::config::{Environment, write_private};

mod launchd;
mod running;
mod script;
mod systemd;
mod uninstall;

use running::end_running;
pub use running::{start, stop};
pub use uninstall::uninstall;

/// The service's name at systemd.
pub const UNIT: &str = "open-ace-agent.service";
/// And at launchd.
pub const LABEL: &str = "com.open-ace.agent";
const SCRIPT: &str = "start-agent.sh";

#[derive(clap::Args)]
pub struct InstallArgs {
    /// Print the unit instead of installing it.
    #[arg(long)]
    print: bool,
    /// Plain http to private addresses: sets OPENACE_ALLOW_INSECURE_PRIVATE_WS=1 for the service.
    #[arg(long)]
    allow_insecure_private: bool,
}

/// What looks after services on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manager {
    SystemdSystem,
    SystemdUser,
    Launchd,
    Script,
}

/// What a service needs to know.
pub struct Service {
    /// The program and its first arguments.
    pub command: Vec<String>,
    pub dir: PathBuf,
    /// The user it runs as; matters for the system's units.
    pub user: String,
    pub home: PathBuf,
    pub path: String,
    pub allow_insecure_private: bool,
}

impl Manager {
    /// The one of this machine; `OPENACE_SERVICE_MANAGER=script` leaves it alone.
    pub fn here(environment: &Environment) -> anyhow::Result<Self> {
        match environment.get("OPENACE_SERVICE_MANAGER") {
            Some("script") => Ok(Self::Script),
            Some(other) => bail!("OPENACE_SERVICE_MANAGER: `{other}` is not known; `script`, or leave it unset"),
            None if cfg!(target_os = "macos") => Ok(Self::Launchd),
            None if !Path::new("/run/systemd/system").is_dir() => Ok(Self::Script),
            None if is_root() => Ok(Self::SystemdSystem),
            None => Ok(Self::SystemdUser),
        }
    }

    /// Where its file for the agent is.
    pub fn file(self, home: &Path, dir: &Path) -> PathBuf {
        match self {
            Self::SystemdSystem => Path::new("/etc/systemd/system").join(UNIT),
            Self::SystemdUser => home.join(".config/systemd/user").join(UNIT),
            Self::Launchd => home.join("Library/LaunchAgents").join(format!("{LABEL}.plist")),
            Self::Script => dir.join(SCRIPT),
        }
    }

    /// What stands in it.
    pub fn text(self, service: &Service) -> String {
        match self {
            Self::SystemdSystem => systemd::unit(service, &format!("User={}\n", service.user), "multi-user.target"),
            Self::SystemdUser => systemd::unit(service, "", "default.target"),
            Self::Launchd => launchd::plist(service),
            Self::Script => script::text(service),
        }
    }

    /// Has it start the agent now and with the machine.
    fn enable(self, file: &Path) -> Vec<Vec<String>> {
        match self {
            Self::SystemdSystem | Self::SystemdUser => vec![
                self.systemctl(&["daemon-reload"]),
                self.systemctl(&["enable", UNIT]),
                self.systemctl(&["restart", UNIT]),
            ],
            Self::Launchd | Self::Script => vec![self.start(file)],
        }
    }

    /// Starts what is installed.
    fn start(self, file: &Path) -> Vec<String> {
        match self {
            Self::SystemdSystem | Self::SystemdUser => self.systemctl(&["start", UNIT]),
            Self::Launchd => words(&["launchctl", "load", "-w"], file),
            Self::Script => words(&["sh"], file),
        }
    }

    /// Stops it; it starts again with the machine. A script's agent is nobody's to stop but its own.
    fn stop(self, file: &Path) -> Option<Vec<String>> {
        match self {
            Self::SystemdSystem | Self::SystemdUser => Some(self.systemctl(&["stop", UNIT])),
            Self::Launchd => Some(words(&["launchctl", "unload"], file)),
            Self::Script => None,
        }
    }

    /// Stops it for good.
    fn disable(self, file: &Path) -> Option<Vec<String>> {
        match self {
            Self::SystemdSystem | Self::SystemdUser => Some(self.systemctl(&["disable", "--now", UNIT])),
            Self::Launchd => Some(words(&["launchctl", "unload", "-w"], file)),
            Self::Script => None,
        }
    }

    fn systemctl(self, arguments: &[&str]) -> Vec<String> {
        let whose = (self == Self::SystemdUser).then_some("--user");
        let all = ["systemctl", "--no-ask-password"].into_iter().chain(whose);
        all.chain(arguments.iter().copied()).map(str::to_owned).collect()
    }

    fn hint(self, file: &Path) -> String {
        match self {
            Self::SystemdSystem => format!("state: systemctl status {UNIT}; log: journalctl -u open-ace-agent -f"),
            Self::SystemdUser => format!(
                "state: systemctl --user status {UNIT}; log: journalctl --user -u open-ace-agent -f\n\
                 to run it while you are not logged in: loginctl enable-linger"
            ),
            Self::Launchd => format!("stop: launchctl unload {}", file.display()),
            Self::Script => format!(
                "the agent runs; without systemd or launchd nobody starts it with the machine: have {} run then (crontab's @reboot)",
                file.display()
            ),
        }
    }
}

fn words(program: &[&str], file: &Path) -> Vec<String> {
    let file = file.display().to_string();
    program.iter().map(|word| (*word).to_owned()).chain([file]).collect()
}

impl Service {
    fn arguments(&self) -> Vec<String> {
        let dir = self.dir.display().to_string();
        let rest = ["run", "--dir", &dir].map(str::to_owned);
        self.command.iter().cloned().chain(rest).collect()
    }

    fn of_this(dir: &Path, environment: &Environment, args: &InstallArgs) -> io::Result<Self> {
        let executable = std::env::current_exe()?;
        let name = executable
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut command = vec![executable.display().to_string()];
        // The gateway's executable is the agent as well, where it is told so.
        if !name.starts_with("ace-agent") {
            command.push("agent".to_owned());
        }
        Ok(Self {
            command,
            dir: dir.to_owned(),
            user: environment.get("USER").unwrap_or("root").to_owned(),
            home: environment.home(),
            path: environment
                .get("PATH")
                .unwrap_or("/usr/local/bin:/usr/bin:/bin")
                .to_owned(),
            allow_insecure_private: args.allow_insecure_private,
        })
    }
}

/// Installs and starts the service. Done again it takes the place of the one before.
pub fn install(dir: &Path, environment: &Environment, args: &InstallArgs) -> anyhow::Result<()> {
    let manager = Manager::here(environment)?;
    let service = Service::of_this(dir, environment, args)?;
    let text = manager.text(&service);
    if args.print {
        print!("{text}");
        return Ok(());
    }
    let file = manager.file(&service.home, dir);
    let parent = file.parent().context("a service file needs a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    put(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    // One that runs already would keep running with the program and the settings of before.
    if manager == Manager::Launchd {
        manager.disable(&file).iter().for_each(|command| drop(run(command)));
    }
    if manager == Manager::Script {
        end_running(dir)?;
    }
    for command in manager.enable(&file) {
        run(&command).with_context(|| format!("{} is written, but the service does not start", file.display()))?;
    }
    println!("installed {}\n{}", file.display(), manager.hint(&file));
    Ok(())
}

/// Units hold no secret; the script is run and so executable.
fn put(file: &Path, text: &str) -> io::Result<()> {
    write_private(file, text.as_bytes())?;
    #[cfg(unix)]
    {
        let mode = if file.extension().is_some_and(|extension| extension == "sh") {
            0o700
        } else {
            0o644
        };
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    Ok(())
}

fn run(command: &[String]) -> anyhow::Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("nothing to run");
    };
    let shown = command.join(" ");
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("`{shown}` cannot be run"))?;
    if !output.status.success() {
        bail!("`{shown}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

#[cfg(test)]
mod testing {
    use super::Service;

    pub fn service() -> Service {
        Service {
            command: vec!["/opt/ace/ace-agent".to_owned()],
            dir: "/home/alice/my 100% agent".into(),
            user: "alice".to_owned(),
            home: "/home/alice".into(),
            path: "/usr/local/bin:/usr/bin".to_owned(),
            allow_insecure_private: false,
        }
    }
}
