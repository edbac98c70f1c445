//! The test language of the black-box stories: real programs on real sockets.
//!
//! A story starts a [`World`] (a gateway, a scripted [`Provider`], people), sends an [`Ask`] and looks at the
//! [`Answer`] on one side and at what the provider has [`Seen`] on the other. Every byte that a story sends or reads is
//! its own: no HTTP library stands between it and the socket, but for HTTP/2.

mod agent;
mod ask;
mod audit;
mod biller;
mod browser;
mod ca;
mod chance;
mod clock;
mod cluster;
mod corpus;
mod crowd;
mod dialect;
mod disk;
mod door;

mod framing;
mod h2client;
mod h2provider;
mod line;
mod load;
mod machine;
mod mock;
mod people;
mod ports;
mod postgres;
mod process;
mod provider;
mod remarkable;
mod script;
mod shell;
mod telling;
mod wire;
mod world;

pub use agent::{PythonAgent, Registered, SocketAgent, uuid};
pub use ask::Ask;
pub use audit::{Audit, Standing, Watch};
pub use biller::{Biller, Item, Order};
pub use browser::{Browser, Event};
pub use ca::Ca;
pub use chance::Chance;
pub use cluster::Cluster;
pub use corpus::{Corpus, Exchange};
pub use crowd::{Outcome, crowd, with_status};
pub use dialect::Dialect;
pub use disk::Disk;
pub use door::Door;

pub use framing::Head;
pub use h2client::H2Client;
pub use h2provider::H2Provider;
pub use line::Line;
pub use load::Load;
pub use machine::Machine;
pub use mock::{Mock, classes, classes_of_row, conformance};
pub use people::{Person, Said};
pub use ports::lasting_port;
pub use postgres::Postgres;
pub use process::{Program, program};
pub use provider::{Provider, Seen};
pub use remarkable::remarkable;
pub use script::{Script, Step, events};
pub use shell::{Shell, end_agent};
pub use telling::{PIECE, Told};
pub use wire::{Answer, End, Piece, Wire};
pub use world::{Node, World, WorldBuilder};

use std::future::Future;
use std::time::Duration;

/// How long a story waits for what should come at once, on a machine that is slow and busy with other stories.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits for what takes its time on any machine: a program to start, or gateways to give back what lies idle.
pub const LONG_PATIENCE: Duration = Duration::from_secs(120);

/// Looks every few milliseconds until `probe` has an answer.
///
/// # Panics
/// When nothing came within [`PATIENCE`]; `what` says what was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, probe: impl FnMut() -> F) -> T {
    within(PATIENCE, what, probe).await
}

/// The same with another patience.
///
/// # Panics
/// When nothing came within it.
pub async fn within<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    what: &str,
    mut probe: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether `tests/run --full` asks for the larger corpora.
#[expect(
    clippy::disallowed_methods,
    reason = "how thorough to be is a setting of the stories"
)]
pub fn thorough() -> bool {
    std::env::var_os("OPENACE_TEST_FULL").is_some_and(|value| !value.is_empty())
}

/// The middle one of some durations: what a busy machine does to a few of them does not matter.
pub fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}
