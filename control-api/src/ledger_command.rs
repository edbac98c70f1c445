//! `ace-control ledger …`: what an operator asks of the ledger from a shell.

use std::path::PathBuf;
use std::process::ExitCode;

use ace_control_api::ledger::{Export, Field, LedgerVerified, Ours, Range, Reading, Reconciled, Verdict};
use ace_control_api::{App, When};
use ace_policies::quota::Calendar;
use ace_policies::{KeyId, Provider};
use anyhow::Context;
use clap::{Args, Subcommand};

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
    /// Compares a provider's usage export with the ledger; the exit code is 1 when they differ.
    Reconcile(Comparison),
}

#[derive(Args)]
pub struct Comparison {
    /// Whose export it is: openai, anthropic or google.
    #[arg(long)]
    provider: Provider,
    /// The export, a CSV file.
    #[arg(long)]
    file: PathBuf,
    /// Only requests that went out with this provider key, by its number here.
    #[arg(long)]
    key: Option<i64>,
    /// Only lines of the export with this text in their column of keys.
    #[arg(long)]
    export_key: Option<String>,
    /// Headers of columns that are not recognised, such as `output=Tokens out`.
    #[arg(long, value_parser = column, num_args = 1..)]
    columns: Vec<(Field, String)>,
    /// By which the export's days begin; UTC when left out, and for google America/Los_Angeles.
    #[arg(long)]
    time_zone: Option<String>,
}

pub async fn run(app: &App, command: LedgerCommand) -> anyhow::Result<ExitCode> {
    match command {
        LedgerCommand::Verify { from, to, limit } => verify(app, from, to, limit).await,
        LedgerCommand::Reconcile(asked) => reconcile(app, asked).await,
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

async fn reconcile(app: &App, asked: Comparison) -> anyhow::Result<ExitCode> {
    let usual = if asked.provider == Provider::Google {
        "America/Los_Angeles"
    } else {
        "UTC"
    };
    let calendar = Calendar::new(asked.time_zone.as_deref().unwrap_or(usual))?;
    let name = || asked.file.display().to_string();
    let text = std::fs::read_to_string(&asked.file).with_context(name)?;
    let reading = Reading {
        provider: asked.provider,
        columns: asked.columns.into_iter().collect(),
        key: asked.export_key.as_deref(),
        calendar: &calendar,
    };
    let export = reading.read(&text).with_context(name)?;
    let ours = Ours {
        provider: asked.provider,
        key: asked.key.map(KeyId),
        calendar: &calendar,
    };
    let reconciled = app.reconcile(&export, &ours).await?;
    tell_both(&reconciled, &export);
    Ok(if reconciled.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tell_both(reconciled: &Reconciled, export: &Export) {
    for finding in &reconciled.findings {
        println!("{finding}");
    }
    println!("theirs: {}", reconciled.theirs);
    println!("ours: {}", reconciled.ours);
    let count = |verdict| reconciled.count(verdict);
    println!(
        "{} match, {} differ, {} are missing here, {} are not in the export; {} lines without usage were left out",
        count(Verdict::Match),
        count(Verdict::Differs),
        count(Verdict::MissingHere),
        count(Verdict::NotInExport),
        export.left_out
    );
}

fn column(text: &str) -> Result<(Field, String), String> {
    let (name, header) = text.split_once('=').ok_or("must be <field>=<header>")?;
    let field = name.parse::<Field>().map_err(|error| error.to_string())?;
    Ok((field, header.to_owned()))
}

fn time(text: &str) -> Result<When, &'static str> {
    When::parse(text).ok_or("must be an RFC 3339 time such as 2026-01-31T00:00:00Z")
}
