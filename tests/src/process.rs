//! Programs under test: found beside the tests, started, listened to, and stopped by their process id.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::LONG_PATIENCE;

/// A program that runs until it is dropped.
pub struct Program {
    child: Child,
    log: Arc<Mutex<String>>,
}

/// A command for one of the workspace's programs, with an empty environment but for `PATH`.
///
/// # Panics
/// When the program was not built.
#[expect(
    clippy::disallowed_methods,
    reason = "where the programs are is the one setting of the stories"
)]
pub fn program(name: &str) -> Command {
    let folder = std::env::var_os("OPENACE_TEST_BIN_DIR").map_or_else(beside_the_tests, PathBuf::from);
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is missing: `cargo build --workspace` makes it",
        path.display()
    );
    let mut command = Command::new(path);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// `target/<profile>`, from `target/<profile>/deps/<test>-<hash>`.
fn beside_the_tests() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own executable");
    test.ancestors().nth(2).expect("two folders above a test").to_owned()
}

impl Program {
    /// Starts a program and waits for the line of JSON with which it says that it is ready.
    ///
    /// # Panics
    /// When it ends, or stays silent, before that.
    pub async fn start(command: Command) -> (Self, Value) {
        Self::start_until(command, |line| serde_json::from_str(line).ok().filter(Value::is_object)).await
    }

    /// Starts a program and waits for a line that tells something.
    ///
    /// # Panics
    /// When it ends, or stays silent, before that.
    pub async fn start_until<T>(command: Command, tells: impl Fn(&str) -> Option<T>) -> (Self, T) {
        let (mut program, mut lines) = Self::spawn(command);
        let told = tokio::time::timeout(LONG_PATIENCE, async {
            while let Some(line) = lines.recv().await {
                if let Some(told) = tells(&line) {
                    return Some(told);
                }
            }
            None
        });
        match told.await {
            Ok(Some(told)) => (program, told),
            Ok(None) => panic!(
                "ended before it was ready: {:?}\n{}",
                program.child.wait().await,
                program.log()
            ),
            Err(_) => panic!("did not get ready\n{}", program.log()),
        }
    }

    /// Starts a program that says in words, if at all, when it is ready.
    pub fn open(command: Command) -> Self {
        Self::spawn(command).0
    }

    /// Runs a program to its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn run(command: Command) -> (ExitStatus, String) {
        Self::run_within(command, LONG_PATIENCE).await
    }

    /// Like [`Program::run`], for what takes longer.
    pub async fn run_within(command: Command, patience: Duration) -> (ExitStatus, String) {
        let (mut program, mut lines) = Self::spawn(command);
        let status = program.exit(patience).await;
        // The outputs may hold more than was read when the program ended.
        while lines.recv().await.is_some() {}
        (status, program.log())
    }

    fn spawn(mut command: Command) -> (Self, mpsc::UnboundedReceiver<String>) {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(listen(
            child.stdout.take().expect("a piped output"),
            Arc::clone(&log),
            Some(sender),
        ));
        tokio::spawn(listen(
            child.stderr.take().expect("a piped output"),
            Arc::clone(&log),
            None,
        ));
        (Self { child, log }, lines)
    }

    /// Everything that it has printed so far, on both outputs.
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics while it logs").clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// # Panics
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) {
        let id = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .expect("a program that runs");
        kill_process(id, signal).expect("a program that runs");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `patience`.
    pub async fn exit(&mut self, patience: Duration) -> ExitStatus {
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => status.expect("a child that can be waited for"),
            Err(_) => panic!("still runs after {patience:?}\n{}", self.log()),
        }
    }

    /// Ends it without a word, as a crash does.
    pub async fn crash(&mut self) {
        self.child.kill().await.expect("a program that runs");
    }
}

async fn listen(output: impl AsyncRead + Unpin, log: Arc<Mutex<String>>, lines: Option<mpsc::UnboundedSender<String>>) {
    let mut reader = BufReader::new(output).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        let mut log = log.lock().expect("nobody panics while it logs");
        log.push_str(&line);
        log.push('\n');
        if let Some(lines) = &lines {
            let _ = lines.send(line);
        }
    }
}
