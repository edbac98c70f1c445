//! The environment that CLIs begin with: a few names, and nothing that is worth stealing.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// What is handed on from the agent's own environment. Neither credentials nor proxies are among it.
const KEPT: [&str; 13] = [
    "HOME",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_RUNTIME_DIR",
];

/// Where installers for one user put executables; services often run without these in their `PATH`.
const PERSONAL: [&str; 5] = [".local/bin", "bin", ".npm-global/bin", ".bun/bin", ".volta/bin"];

/// What all CLIs of this machine begin with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CliEnvironment(BTreeMap<String, String>);

impl CliEnvironment {
    /// Takes what may be handed on out of the agent's environment.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut kept: BTreeMap<_, _> = variables
            .into_iter()
            .filter(|(name, _)| KEPT.contains(&name.as_str()))
            .collect();
        let path = with_personal(kept.get("PATH").map_or("", String::as_str), kept.get("HOME"));
        kept.insert("PATH".to_owned(), path);
        kept.entry("TERM".to_owned()).or_insert_with(|| "dumb".to_owned());
        kept.entry("LANG".to_owned()).or_insert_with(|| "C.UTF-8".to_owned());
        // The relay is on this machine, whatever the CLI's own settings say about proxies.
        kept.insert("NO_PROXY".to_owned(), "127.0.0.1,localhost".to_owned());
        Self(kept)
    }

    /// The environment with more in it; what is named again is replaced.
    pub fn with(&self, more: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
        let mut all = self.0.clone();
        all.extend(more);
        all.into_iter().collect()
    }

    /// A variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Finds an executable as a shell does: in `PATH`, or where the name says when it is a path.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        if name.contains('/') {
            return Some(PathBuf::from(name)).filter(|path| path.is_absolute() && is_executable(path));
        }
        let path = self.get("PATH").unwrap_or_default();
        std::env::split_paths(OsStr::new(path))
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|path| is_executable(path))
    }
}

fn with_personal(path: &str, home: Option<&String>) -> String {
    let mut dirs: Vec<String> = path
        .split(':')
        .filter(|dir| !dir.is_empty())
        .map(str::to_owned)
        .collect();
    let personal = home
        .into_iter()
        .flat_map(|home| PERSONAL.map(|dir| format!("{home}/{dir}")));
    for dir in personal.chain(["/usr/local/bin", "/usr/bin", "/bin"].map(str::to_owned)) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs.join(":")
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn nothing_that_is_worth_stealing_is_handed_on() {
        let environment = CliEnvironment::of(pairs(&[
            ("HOME", "/home/alice"),
            ("PATH", "/opt/bin:"),
            ("OPENACE_AGENT_TOKEN", "acea_secret"),
            ("ANTHROPIC_API_KEY", "sk-secret"),
            ("HTTPS_PROXY", "http://u:p@proxy"),
            ("SSH_AUTH_SOCK", "/tmp/agent"),
            ("LD_PRELOAD", "/tmp/x.so"),
        ]));
        let all = environment.with(pairs(&[("OPENAI_API_KEY", "acel_local"), ("TERM", "xterm")]));
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["HOME", "LANG", "NO_PROXY", "OPENAI_API_KEY", "PATH", "TERM"]);
        assert!(
            environment
                .get("PATH")
                .unwrap()
                .starts_with("/opt/bin:/home/alice/.local/bin:")
        );
    }

    #[test]
    fn executables_are_found_as_a_shell_does() {
        let dir = tempfile::tempdir().unwrap();
        let (tool, text) = (dir.path().join("tool"), dir.path().join("text"));
        std::fs::write(&tool, "#!/bin/sh\n").unwrap();
        std::fs::write(&text, "").unwrap();
        std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o755)).unwrap();
        let environment = CliEnvironment::of(pairs(&[("PATH", dir.path().to_str().unwrap())]));
        assert_eq!(environment.find("tool"), Some(tool.clone()));
        assert_eq!(environment.find(tool.to_str().unwrap()), Some(tool));
        for name in ["text", "no-such-tool", "../tool", text.to_str().unwrap()] {
            assert_eq!(environment.find(name), None, "{name}");
        }
    }
}
