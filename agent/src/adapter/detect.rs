//! Which CLIs are on this machine, in which version.

use std::{path::Path, time::Duration};

use ace_policies::wire::Cli;
use tokio::time::timeout;

use super::{Adapter, Adapters};
use crate::process::{Launch, Order, Process, environment::CliEnvironment};

/// Which CLIs are there, without asking them for their versions: that takes the time of starting each.
pub fn installed(adapters: &Adapters, common: &CliEnvironment) -> Vec<Cli> {
    adapters.rows().map(|adapter| cli(adapter, common, None)).collect()
}

fn cli(adapter: &Adapter, common: &CliEnvironment, version: Option<String>) -> Cli {
    let features = adapter.features.iter().map(|feature| feature.as_str().to_owned());
    Cli {
        id: adapter.id.clone(),
        name: adapter.name.clone(),
        installed: common.find(&adapter.executable).is_some(),
        version,
        features: features.collect(),
    }
}

/// What the machine has, for [`ace_policies::wire::Capabilities`]. `executable` is the agent's own; a CLI that has not told its version
/// within `patience` will not.
pub async fn clis(adapters: &Adapters, common: &CliEnvironment, executable: &Path, patience: Duration) -> Vec<Cli> {
    let mut found = Vec::new();
    for adapter in adapters.rows() {
        let version = version(adapter, common, executable, patience).await;
        found.push(cli(adapter, common, version));
    }
    found
}

/// A CLI's version, as it tells it; none where it is not installed, or does not tell.
async fn version(adapter: &Adapter, common: &CliEnvironment, executable: &Path, patience: Duration) -> Option<String> {
    let launch = Launch {
        program: common.find(&adapter.executable)?,
        args: adapter.version.clone(),
        env: common.with([]),
        cwd: "/".into(),
    };
    let mut process = Process::spawn(executable, &launch).ok()?;
    process.orders.give(Order::Close);
    let reading = async {
        while let Some(line) = process.stdout.next().await.ok()? {
            if let Some(version) = find(&String::from_utf8_lossy(&line.data)) {
                return Some(version);
            }
        }
        None
    };
    timeout(patience, reading).await.ok()?
}

/// The first word of a line that looks like a version.
pub(super) fn find(line: &str) -> Option<String> {
    let words = line.split(|c: char| c.is_whitespace() || "(),/".contains(c));
    words
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.') && word.len() <= 64)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn versions_are_found_where_clis_put_them() {
        for (line, version) in [
            ("2.1.329 (Claude Code)", Some("2.1.329")),
            ("codex-cli 0.169.0", Some("0.169.0")),
            ("OpenClaw 2026.9.6 (abc1234)", Some("2026.9.6")),
            ("v24.21.0\n", Some("24.21.0")),
            ("usage: tool [--help]", None),
        ] {
            assert_eq!(find(line).as_deref(), version, "{line}");
        }
    }
}
