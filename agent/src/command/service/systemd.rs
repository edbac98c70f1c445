//! The agent under systemd: the system's for root, else the user's own.

use super::Service;

/// Quotes for systemd: backslash, quote, percent and dollar mean something there.
fn quoted(word: &str) -> String {
    let escaped = word
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    format!("\"{escaped}\"")
}

/// The unit. `user` is its `User=` line, where it needs one.
pub(super) fn unit(service: &Service, user: &str, target: &str) -> String {
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use super::super::{Manager, UNIT, testing::service};

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
}
