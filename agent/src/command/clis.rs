//! `ace-agent clis`: the AI CLIs of this machine, and how one is installed.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Subcommand;

use crate::{
    adapter::{Adapters, detect, install},
    process::environment::Environment,
};

#[derive(clap::Args)]
pub struct ClisArgs {
    /// Where `*.toml` files add CLIs to the built-in ones, or change them.
    #[arg(long, value_name = "DIR", default_value = ".open-ace-agent/adapters.d")]
    adapters: PathBuf,
    #[command(subcommand)]
    command: Option<ClisCommand>,
}

#[derive(Subcommand)]
enum ClisCommand {
    /// Show what is there. The default.
    List,
    /// Install one with its own command, after a look at Node.
    Install {
        /// Such as `claude-code`.
        id: String,
    },
}

/// Runs the command; `environment` is the agent's.
pub fn run(args: ClisArgs, environment: impl IntoIterator<Item = (String, String)>) -> anyhow::Result<()> {
    let common = Environment::of(environment);
    let dir = Path::new(common.get("HOME").unwrap_or_default()).join(args.adapters);
    let adapters = Adapters::load(&dir, &[])?;
    match args.command {
        None | Some(ClisCommand::List) => list(&adapters, &common),
        Some(ClisCommand::Install { id }) => {
            let adapter = adapters
                .find(&id)
                .ok_or_else(|| anyhow::anyhow!("no CLI is called `{id}`; see `ace-agent clis`"))?;
            Ok(install::install(&adapter, &common)?)
        }
    }
}

fn list(adapters: &Adapters, common: &Environment) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clis = runtime.block_on(detect::clis(adapters, common, &std::env::current_exe()?));
    let mut out = io::stdout().lock();
    for cli in clis {
        let version = if cli.installed {
            cli.version.as_deref().unwrap_or("of an unknown version")
        } else {
            "not installed"
        };
        writeln!(
            out,
            "{:16} {:16} {version:24} {}",
            cli.id,
            cli.name,
            cli.features.join(" ")
        )?;
    }
    Ok(())
}
