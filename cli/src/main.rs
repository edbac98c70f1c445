//! What people type. One file a command; a probe never sends a credential and never changes anything.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod health;
mod target;

/// The command line of ACE Gateway.
#[derive(Parser)]
#[command(name = "acectl", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a running gateway whether it answers and is ready. Sends no credential.
    Health(health::Args),
    /// Print the version of this program.
    Version {
        /// One line of JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match Args::parse().command {
        Command::Health(args) => health::run(args),
        Command::Version { json } => version(json),
    }
}

fn version(json: bool) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    match json {
        true => println!("{}", serde_json::json!({ "name": "acectl", "version": version })),
        false => println!("acectl {version}"),
    }
    ExitCode::SUCCESS
}
