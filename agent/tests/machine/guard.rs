//! The guard, without the rest of the agent.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::world::{in_directory, kill};

/// Daemons that left the group, one that ignores being asked, and one that is held.
const FAMILY: &str =
    "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 600 & sleep 600' & (setsid sleep 600 &) ; sleep 600 & wait";

fn wait_for(dir: &std::path::Path, enough: impl Fn(usize) -> bool) {
    let deadline = Instant::now() + crate::world::PATIENCE;
    while !enough(in_directory(dir).len()) {
        assert!(Instant::now() < deadline, "{:#?}", in_directory(dir));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nobody_outlives_an_agent_that_is_killed_without_notice() {
    let dir = tempfile::tempdir().unwrap();
    // The first process of the pipe stands for the agent: it holds the other end of the guard's standard input.
    let line = format!(
        "sleep 700 | {} guard -- sh -c '{}'",
        env!("CARGO_BIN_EXE_ace-agent"),
        FAMILY.replace('\'', "'\\''")
    );
    let mut shell = Command::new("sh")
        .args(["-c", &line])
        .current_dir(&dir)
        .spawn()
        .unwrap();
    wait_for(dir.path(), |count| count >= 8);
    let agent = in_directory(dir.path())
        .into_iter()
        .find(|name| name.contains("sleep 700"))
        .unwrap();
    let agent = in_directory(dir.path())
        .into_iter()
        .find(|name| name.ends_with(" sleep 700 "))
        .unwrap_or(agent);
    kill(agent.split(' ').next().unwrap());
    wait_for(dir.path(), |count| count == 0);
    shell.wait().unwrap();
}

#[test]
fn the_guard_answers_as_its_cli_did() {
    let run = |script: &str| {
        let mut guard = Command::new(env!("CARGO_BIN_EXE_ace-agent"));
        guard.args(["guard", "--", "sh", "-c", script]).stdin(Stdio::piped());
        let mut guard = guard.spawn().unwrap();
        let stdin = guard.stdin.take();
        let code = guard.wait().unwrap().code();
        drop(stdin);
        code
    };
    assert_eq!(run("exit 0"), Some(0));
    assert_eq!(run("exit 7"), Some(7));
    assert_eq!(run("kill -9 $$"), Some(137));
    assert_eq!(run("exec /no/such/program"), Some(127));
}

#[test]
fn a_cli_whose_guard_has_ended_already_is_not_run() {
    let tied_to = |guard: u32| {
        let mut tied = Command::new(env!("CARGO_BIN_EXE_ace-agent"));
        let guard = guard.to_string();
        tied.args(["guard", "--tied", &guard, "--", "sh", "-c", "echo ran"]);
        tied.output().unwrap()
    };
    assert_eq!(tied_to(std::process::id()).stdout, b"ran\n");
    let orphan = tied_to(std::process::id() + 1);
    assert_eq!((orphan.status.code(), orphan.stdout), (Some(127), Vec::new()));
    assert!(String::from_utf8_lossy(&orphan.stderr).contains("its guard has ended"));
}
