use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ace_agent::command::run(ace_agent::command::Args::parse())
}
