//! What the gateway costs beside nginx: one command, one interleaved run, ratios rather than absolute rates.
//!
//! The provider is a mock in this process, the load generator one thread of it; nginx and the gateway are processes of
//! their own, with one worker thread each. See README.md for what each figure means.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;

mod gateway;
mod idle;
mod load;
mod mock;
mod nginx;
mod process;
mod report;
mod rounds;
mod stats;
mod target;

use rounds::{Measured, Plan};
use target::{Fleet, Kind};

/// Measures direct, nginx and the gateway on loopback and prints absolute figures, ratios to nginx and the bars.
#[derive(Parser)]
#[command(name = "ace-bench", version)]
struct Args {
    /// Fewer and shorter rounds: about a minute; trust the order, not the digits.
    #[arg(long)]
    quick: bool,
    /// Only one kind of load.
    #[arg(long, value_enum)]
    only: Option<rounds::Load>,
    /// Which targets, in the order in which they take turns. Ratios need nginx.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "direct,nginx,gateway")]
    targets: Vec<Kind>,
    /// Print the figures as JSON instead of Markdown.
    #[arg(long)]
    json: bool,
    /// Leave with 1 when the gateway misses a bar.
    #[arg(long)]
    check: bool,
    /// The gateway's executable; without it the workspace's is built with the release profile.
    #[arg(long, value_name = "FILE")]
    gateway_bin: Option<PathBuf>,
    /// The executable of the target `other`: another build of the gateway, to be compared with.
    #[arg(long, value_name = "FILE")]
    other_bin: Option<PathBuf>,
    /// JSON requests a second, instead of as many as can be: what has the same to do can be compared by its CPU.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Concurrent idle streams.
    #[arg(long, default_value_t = 5_000)]
    idle_streams: usize,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ace-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let descriptors = process::raise_descriptor_limit()?;
    let plan = Plan::new(args.quick, args.only, args.rate, args.idle_streams, descriptors);
    let mock = mock::start(MOCK_THREADS).context("the mock provider")?;
    let fleet = Fleet::new(mock, &args.targets, args.gateway_bin, args.other_bin)?;
    let setting = report::Setting::look(&fleet);
    let measured: Measured = rounds::measure(&fleet, &plan)?;
    let verdict = report::Verdict::of(&measured);
    match args.json {
        true => println!(
            "{}",
            serde_json::to_string_pretty(&report::json(&setting, &measured, &verdict))?
        ),
        false => print!("{}", report::markdown(&setting, &measured, &verdict)),
    }
    Ok(if args.check && verdict.missed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

const MOCK_THREADS: usize = 2;
