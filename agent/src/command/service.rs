//! `ace-agent install-service` and `uninstall`: the agent as a service of its machine.
//!
//! systemd where it runs (the system's for root, else the user's own), launchd on macOS, elsewhere a start script.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use super::running::end_running;
use crate::config::{Environment, FILE, write_private};

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
            Self::SystemdSystem => systemd(service, &format!("User={}\n", service.user), "multi-user.target"),
            Self::SystemdUser => systemd(service, "", "default.target"),
            Self::Launchd => launchd(service),
            Self::Script => script(service),
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
    pub fn start(self, file: &Path) -> Vec<String> {
        match self {
            Self::SystemdSystem | Self::SystemdUser => self.systemctl(&["start", UNIT]),
            Self::Launchd => words(&["launchctl", "load", "-w"], file),
            Self::Script => words(&["sh"], file),
        }
    }

    /// Stops it; it starts again with the machine. A script's agent is nobody's to stop but its own.
    pub fn stop(self, file: &Path) -> Option<Vec<String>> {
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

/// Quotes for systemd: backslash, quote, percent and dollar mean something there.
fn quoted(word: &str) -> String {
    let escaped = word
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    format!("\"{escaped}\"")
}

fn systemd(service: &Service, user: &str, target: &str) -> String {
    let command: Vec<_> = service.arguments().iter().map(|word| quoted(word)).collect();
    let command = command.join(" ");
    let path = quoted(&format!("PATH={}", service.path));
    let glass = match service.allow_insecure_private {
        true => format!("Environment={}=1\n", crate::transport::BREAK_GLASS),
        false => String::new(),
    };
    format!(
        "[Unit]\n\
         Description=ACE Gateway agent: runs AI coding sessions on this machine\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=simple\n\
         {user}ExecStart={command}\n\
         Environment={path}\n\
         {glass}Restart=always\n\
         RestartSec=5\n\
         # Wrong credentials or settings: starting it again does not help, people have to act.\n\
         RestartPreventExitStatus=64 77 78\n\
         KillMode=mixed\n\
         TimeoutStopSec=30\n\
         UMask=0077\n\
         \n\
         [Install]\n\
         WantedBy={target}\n"
    )
}

fn launchd(service: &Service) -> String {
    let text = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let arguments: String = service
        .arguments()
        .iter()
        .map(|word| format!("    <string>{}</string>\n", text(word)))
        .collect();
    let glass = match service.allow_insecure_private {
        true => format!(
            "    <key>{}</key>\n    <string>1</string>\n",
            crate::transport::BREAK_GLASS
        ),
        false => String::new(),
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n\
         <dict>\n  \
         <key>Label</key>\n  <string>{LABEL}</string>\n  \
         <key>ProgramArguments</key>\n  <array>\n{arguments}  </array>\n  \
         <key>EnvironmentVariables</key>\n  <dict>\n    <key>PATH</key>\n    <string>{path}</string>\n{glass}  </dict>\n  \
         <key>RunAtLoad</key>\n  <true/>\n  \
         <key>KeepAlive</key>\n  <true/>\n  \
         <key>ThrottleInterval</key>\n  <integer>60</integer>\n  \
         <key>ProcessType</key>\n  <string>Background</string>\n\
         </dict>\n\
         </plist>\n",
        path = text(&service.path),
    )
}

fn script(service: &Service) -> String {
    let word = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    let command: Vec<_> = service.arguments().iter().map(word).collect();
    let glass = match service.allow_insecure_private {
        true => format!("export {}=1\n", crate::transport::BREAK_GLASS),
        false => String::new(),
    };
    format!(
        "#!/bin/sh\n# Starts the agent in the background; it writes agent.log in its directory.\n{glass}\
         nohup {} >/dev/null 2>&1 &\n",
        command.join(" ")
    )
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

pub fn run(command: &[String]) -> anyhow::Result<()> {
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
    let is_ours = ["machine_id", FILE, "agent.lock"]
        .iter()
        .any(|name| real.join(name).is_file());
    let is_home = fs::canonicalize(home).is_ok_and(|home| home.starts_with(&real));
    if is_home || !is_ours {
        bail!(
            "{} is not removed: it does not look like an agent's directory",
            dir.display()
        );
    }
    if crate::daemon::Lock::take(&real)?.is_none() {
        bail!("an agent still runs in {}: stop it first", dir.display());
    }
    fs::remove_dir_all(&real).with_context(|| format!("cannot remove {}", dir.display()))?;
    println!("removed {}", dir.display());
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
mod tests {
    use super::*;

    fn service() -> Service {
        Service {
            command: vec!["/opt/ace/ace-agent".to_owned()],
            dir: "/home/alice/my 100% agent".into(),
            user: "alice".to_owned(),
            home: "/home/alice".into(),
            path: "/usr/local/bin:/usr/bin".to_owned(),
            allow_insecure_private: false,
        }
    }

    #[test]
    fn the_system_unit_is_as_people_expect_it() {
        let expected = r#"[Unit]
Description=ACE Gateway agent: runs AI coding sessions on this machine
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=simple
User=alice
ExecStart="/opt/ace/ace-agent" "run" "--dir" "/home/alice/my 100%% agent"
Environment="PATH=/usr/local/bin:/usr/bin"
Restart=always
RestartSec=5
# Wrong credentials or settings: starting it again does not help, people have to act.
RestartPreventExitStatus=64 77 78
KillMode=mixed
TimeoutStopSec=30
UMask=0077

[Install]
WantedBy=multi-user.target
"#;
        assert_eq!(Manager::SystemdSystem.text(&service()), expected);
        let user = Manager::SystemdUser.text(&service());
        assert!(
            !user.contains("User=") && user.contains("WantedBy=default.target"),
            "{user}"
        );
        let file = Manager::SystemdUser.file(Path::new("/home/alice"), Path::new("/d"));
        assert_eq!(
            file,
            Path::new("/home/alice/.config/systemd/user/open-ace-agent.service")
        );
    }

    #[test]
    fn systemd_takes_the_units() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(UNIT);
        let mut service = service();
        service.command = vec!["/bin/true".to_owned()];
        service.user = "root".to_owned();
        fs::write(&file, Manager::SystemdSystem.text(&service)).unwrap();
        let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&file).output() else {
            return;
        };
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(!complaints.contains(UNIT), "{complaints}");
    }

    #[test]
    fn the_launch_agent_is_as_people_expect_it() {
        let mut service = service();
        service.allow_insecure_private = true;
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>com.open-ace.agent</string>
  <key>ProgramArguments</key>
  <array>
    <string>/opt/ace/ace-agent</string>
    <string>run</string>
    <string>--dir</string>
    <string>/home/alice/my 100% agent</string>
  </array>
  <key>EnvironmentVariables</key>
  <dict>
    <key>PATH</key>
    <string>/usr/local/bin:/usr/bin</string>
    <key>OPENACE_ALLOW_INSECURE_PRIVATE_WS</key>
    <string>1</string>
  </dict>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <true/>
  <key>ThrottleInterval</key>
  <integer>60</integer>
  <key>ProcessType</key>
  <string>Background</string>
</dict>
</plist>
"#;
        assert_eq!(Manager::Launchd.text(&service), expected);
        let file = Manager::Launchd.file(Path::new("/Users/alice"), Path::new("/d"));
        assert_eq!(
            file,
            Path::new("/Users/alice/Library/LaunchAgents/com.open-ace.agent.plist")
        );
    }

    #[test]
    fn the_script_survives_quotes() {
        let mut service = service();
        service.dir = "/home/o'hara".into();
        let text = Manager::Script.text(&service);
        assert!(text.contains(r"'--dir' '/home/o'\''hara' >/dev/null"), "{text}");
    }

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
        let lock = crate::daemon::Lock::take(&agent).unwrap();
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
