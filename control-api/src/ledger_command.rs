//! `ace-control ledger …`: what an operator asks of the ledger from a shell.

use std::process::ExitCode;

use ace_control_api::ledger::{LedgerVerified, Range};
use ace_control_api::{App, When};
use clap::Subcommand;

#[derive(Subcommand)]
pub enum LedgerCommand {
    /// Recomputes every sum from the ledger; the exit code is 1 when one differs. May run while gateways write.
    Verify {
        /// Only periods that begin at this time or later, such as 2026-01-31T00:00:00Z.
        #[arg(long, value_parser = time)]
        from: Option<When>,
        /// Only periods that begin before this time.
        #[arg(long, value_parser = time)]
        to: Option<When>,
        /// How many differences are printed; all are counted.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

pub async fn run(app: &App, command: LedgerCommand) -> anyhow::Result<ExitCode> {
    match command {
        LedgerCommand::Verify { from, to, limit } => verify(app, from, to, limit).await,
    }
}

async fn verify(app: &App, from: Option<When>, to: Option<When>, limit: usize) -> anyhow::Result<ExitCode> {
    let range = Range {
        from: from.map(|from| from.0),
        to: to.map(|to| to.0),
    };
    let verified = app.verify_ledger(range, limit).await?;
    tell(&verified);
    Ok(if verified.different() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tell(verified: &LedgerVerified) {
    for difference in &verified.differences {
        println!("{difference}");
    }
    for note in &verified.notes {
        println!("note: {note}");
    }
    for part in &verified.parts {
        println!("{}: {} sums, {} differ", part.name, part.sums, part.different);
    }
    match verified.different() {
        0 => println!("all sums are what the ledger says"),
        different => println!("{different} sums differ from the ledger"),
    }
}

fn time(text: &str) -> Result<When, &'static str> {
    When::parse(text).ok_or("must be an RFC 3339 time such as 2026-01-31T00:00:00Z")
}
