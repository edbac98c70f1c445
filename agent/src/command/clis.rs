//! `ace-agent clis`: the AI CLIs of this machine.

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use crate::{
    config::{Config, ConfigFile, Environment, FILE},
    sessions::Sessions,
};

/// Shows which CLIs the agent knows, which of them are here, and what they can.
pub fn list(dir: &Path, environment: &Environment) -> anyhow::Result<()> {
    let config = Config::new(dir, environment, &ConfigFile::read(&dir.join(FILE))?)?;
    let sessions = Sessions::new(Arc::new(config))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = io::stdout().lock();
    for cli in runtime.block_on(sessions.clis()) {
        let version = match (&cli.version, cli.installed) {
            (Some(version), _) => version,
            (None, true) => "of an unknown version",
            (None, false) => "not installed",
        };
        let features = cli.features.join(" ");
        writeln!(out, "{:16} {:16} {version:24} {features}", cli.id, cli.name)?;
    }
    Ok(())
}
