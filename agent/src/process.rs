//! One CLI with everything that it starts: it runs under a guard, and ends with it.
//!
//! The guard is this same executable (`ace-agent guard`). It is told what to do through its standard input, and a closed one means
//! that nobody watches any more: then it ends the CLI and whatever descends from it. So nothing is left behind even when the agent is
//! killed without notice.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::mpsc,
};

pub mod directory;
pub mod environment;
pub mod guard;
pub mod lines;
mod order;
#[cfg(target_os = "linux")]
mod tree;

pub use lines::{Line, Lines};
pub use order::{Order, Sign};

/// What to run, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launch {
    /// The executable, absolute.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment: nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Where it runs; looked at before ([`directory::check`]).
    pub cwd: PathBuf,
}

/// A CLI that runs under its guard. Dropping it ends the CLI.
pub struct Process {
    /// Tells the guard what to do.
    pub orders: Orders,
    /// What the CLI prints.
    pub stdout: Lines<ChildStdout>,
    /// What it complains about.
    pub stderr: Lines<ChildStderr>,
    /// Ends when nothing of it is left.
    pub guard: Child,
}

/// The way to a guard. When the last clone is dropped, everything ends.
#[derive(Clone)]
pub struct Orders(mpsc::UnboundedSender<Order>);

/// The time a CLI has to go by itself before it is killed.
pub const GRACE: Duration = Duration::from_secs(5);

impl Process {
    /// Starts a CLI under a guard; `executable` is the agent's own.
    pub fn spawn(executable: &Path, launch: &Launch) -> io::Result<Self> {
        let mut guard = Command::new(executable)
            // The one executable of the product is the agent when it is called so.
            .arg0("ace-agent")
            .args(["guard", "--"])
            .arg(&launch.program)
            .args(&launch.args)
            .env_clear()
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&launch.cwd)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C at the agent's terminal is the agent's to handle.
            .process_group(0)
            .spawn()?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (guard.stdin.take(), guard.stdout.take(), guard.stderr.take())
        else {
            return Err(io::Error::other("the guard has no pipes"));
        };
        let (orders, waiting) = mpsc::unbounded_channel();
        tokio::spawn(write(stdin, waiting));
        Ok(Self {
            orders: Orders(orders),
            stdout: Lines::new(stdout),
            stderr: Lines::new(stderr),
            guard,
        })
    }
}

impl Orders {
    /// Gives an order; one to a guard that has ended already is moot.
    pub fn give(&self, order: Order) {
        self.0.send(order).ok();
    }
}

async fn write(mut stdin: ChildStdin, mut waiting: mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = waiting.recv().await {
        if stdin.write_all(&order.encode()).await.is_err() {
            return;
        }
    }
}
