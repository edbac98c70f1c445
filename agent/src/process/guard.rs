//! The guard of one CLI: its parent, the new parent of everything that it leaves behind, and the end of them all.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    process::ChildStdin,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{GRACE, Order, Sign};

/// `ace-agent guard -- COMMAND …`: what the agent starts, never people.
#[derive(clap::Args)]
pub struct GuardArgs {
    /// Becomes the command itself, tied to the life of its parent: the guard with this process id.
    #[arg(long, value_name = "PID")]
    tied: Option<u32>,
    /// The CLI and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What a shell answers for a command that cannot be run.
const NOT_RUN: u8 = 127;

/// What is left of a CLI that went by itself has this long to follow.
const LEFTOVERS: Duration = Duration::from_secs(2);

/// Between two looks at whether all have gone.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the command until it has ended, with everything that it started; answers as it did, 128 + n for signal n.
pub fn run(args: &GuardArgs) -> ExitCode {
    let done = match args.tied {
        Some(guard) => Err(become_the_cli(guard, &args.command)),
        None => watch(&args.command),
    };
    match done {
        // Not a return: that thread would be waited for.
        Ok(code) => std::process::exit(code),
        Err(error) => {
            let name = args.command.first().map(|name| name.to_string_lossy());
            eprintln!("cannot run {}: {error}", name.unwrap_or_default());
            ExitCode::from(NOT_RUN)
        }
    }
}

/// Should even the guard be killed, the kernel ends the CLI.
fn become_the_cli(guard: u32, command: &[OsString]) -> io::Error {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // One that was killed before this gives no signal any more.
    if std::os::unix::process::parent_id() != guard {
        return io::Error::other("its guard has ended");
    }
    match command.split_first() {
        Some((program, args)) => Command::new(program).args(args).exec(),
        None => io::Error::other("no command"),
    }
}

fn watch(command: &[OsString]) -> io::Result<i32> {
    // One thread: the kernel ties the CLI's life to the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let mut children = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut guard = Guard::start(command)?;
        let mut orders = listen();
        while !guard.is_done() {
            let look = guard.next_look;
            tokio::select! {
                order = orders.recv(), if !guard.unwatched => guard.follow(order),
                _ = children.recv() => guard.reap(),
                _ = terminate.recv() => guard.end(GRACE),
                _ = hang_up.recv() => guard.end(GRACE),
                () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => guard.look(),
            }
        }
        Ok(guard.code)
    });
    // A thread may still wait on the standard input: it is not waited for.
    runtime.shutdown_background();
    done
}

fn listen() -> mpsc::Receiver<Order> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut stdin = BufReader::new(tokio::io::stdin());
        while let Ok(Some(order)) = Order::read(&mut stdin).await {
            if sender.send(order).await.is_err() {
                return;
            }
        }
    });
    receiver
}

struct Guard {
    cli: Pid,
    /// Towards the CLI; dropped to close it.
    input: Option<mpsc::UnboundedSender<Vec<u8>>>,
    alive: bool,
    code: i32,
    /// Nobody gives orders any more.
    unwatched: bool,
    /// From when on what is left is killed.
    kill_at: Option<Instant>,
    next_look: Option<Instant>,
}

impl Guard {
    fn start(command: &[OsString]) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut cli = Command::new(own_executable()?)
            .arg0("ace-agent")
            .args(["guard", "--tied", &std::process::id().to_string(), "--"])
            .args(command)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(cli.id()).ok().and_then(Pid::from_raw);
        let stdin = cli.stdin.take().ok_or_else(|| io::Error::other("no pipe"))?;
        Ok(Self {
            cli: pid.ok_or_else(|| io::Error::other("no process id"))?,
            input: Some(feed(ChildStdin::from_std(stdin)?)),
            alive: true,
            code: i32::from(NOT_RUN),
            unwatched: false,
            kill_at: None,
            next_look: None,
        })
    }

    fn follow(&mut self, order: Option<Order>) {
        match order {
            Some(Order::Write(bytes)) => {
                if let Some(input) = &self.input {
                    input.send(bytes).ok();
                }
            }
            Some(Order::Close) => self.input = None,
            Some(Order::Sign(Sign::Pause)) => self.pause(),
            Some(Order::Sign(Sign::Continue)) => self.signal(Signal::CONT),
            Some(Order::Sign(Sign::Interrupt)) => self.signal(Signal::INT),
            Some(Order::End(grace_ms)) => self.end(Duration::from_millis(grace_ms)),
            None => {
                self.unwatched = true;
                self.end(GRACE);
            }
        }
    }

    /// A process that is started by one that is not held yet is held in the next round.
    fn pause(&self) {
        for _ in 0..3 {
            self.signal(Signal::STOP);
        }
    }

    fn end(&mut self, grace: Duration) {
        let kill_at = Instant::now() + grace;
        if self.kill_at.is_none_or(|earlier| kill_at < earlier) {
            self.kill_at = Some(kill_at);
        }
        self.signal(Signal::TERM);
        // Those that are held would never hear of it.
        self.signal(Signal::CONT);
        self.next_look = Some(Instant::now() + LOOK);
    }

    fn look(&mut self) {
        self.reap();
        if self.kill_at.is_some_and(|kill_at| Instant::now() >= kill_at) {
            self.signal(Signal::KILL);
        }
        self.next_look = Some(Instant::now() + LOOK);
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.cli {
                self.alive = false;
                self.code = code(status);
                self.end(LEFTOVERS);
            }
        }
    }

    fn is_done(&self) -> bool {
        !self.alive && !self.any_left()
    }

    #[cfg(target_os = "linux")]
    fn any_left(&self) -> bool {
        !super::tree::descendants().is_empty()
    }

    #[cfg(not(target_os = "linux"))]
    fn any_left(&self) -> bool {
        rustix::process::test_kill_process_group(self.cli).is_ok()
    }

    /// To the CLI's group, and to those that have left it.
    fn signal(&self, signal: Signal) {
        // Gone already is as good.
        kill_process_group(self.cli, signal).ok();
        #[cfg(target_os = "linux")]
        for pid in super::tree::descendants() {
            let left = rustix::process::getpgid(Some(pid)).is_ok_and(|group| group != self.cli);
            if left {
                rustix::process::kill_process(pid, signal).ok();
            }
        }
    }
}

/// On Linux the name stays good when the file was replaced by a newer version.
fn own_executable() -> io::Result<std::path::PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    std::env::current_exe()
}

fn feed(mut stdin: ChildStdin) -> mpsc::UnboundedSender<Vec<u8>> {
    let (sender, mut waiting) = mpsc::unbounded_channel::<Vec<u8>>();
    tokio::spawn(async move {
        while let Some(bytes) = waiting.recv().await {
            if stdin.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    sender
}

fn code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}
