//! Processes that are killed, and a disk that is really full.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use ace_policies::config::Fsync;
use uuid::Uuid;

use super::super::*;
use super::sample::*;

const DIR: &str = "OPENACE_TEST_JOURNAL_DIR";
const THREADS: u64 = 3;

#[expect(clippy::disallowed_methods, reason = "how the test tells its child where to write")]
fn told_dir() -> String {
    std::env::var(DIR).expect("only the tests below run this one")
}

/// Runs one of the ignored tests in a process of its own.
fn child(test: &str, dir: &Path, shell: Option<&str>) -> Command {
    let program = std::env::current_exe().expect("a path");
    let module = module_path!().split_once("::").expect("a crate and a module").1;
    let mut command = match shell {
        None => Command::new(program),
        Some(script) => {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", script]);
            command.arg(program).env("DIR", dir);
            command
        }
    };
    command
        .args(["--exact", &format!("{module}::{test}"), "--ignored", "--nocapture"])
        .env(DIR, dir);
    command
}

/// Appends until it is killed, and says what it did: `o` opened, `s` settled, `f` about to be forgotten.
#[test]
#[ignore = "the process that the next test kills"]
fn appends_until_it_is_killed() {
    let dir = told_dir();
    let journal = Journal::start(dir.as_ref(), Uuid::new_v4(), options(Fsync::Interval)).expect("room");
    thread::scope(|scope| {
        for first in 0..THREADS {
            let journal = &journal;
            scope.spawn(move || append_from(journal, first * 1_000_000));
        }
    });
}

fn append_from(journal: &Journal, first: u64) {
    for n in first..first + 100_000 {
        let seat = open(journal, n);
        println!("o {n}");
        let seat = settle(journal, n, seat);
        println!("s {n}");
        if n.is_multiple_of(2) {
            println!("f {n}");
            journal.forget([seat]);
        }
    }
}

/// What a killed child had said.
#[derive(Default)]
struct Said {
    opened: HashSet<Uuid>,
    settled: HashSet<Uuid>,
    forgotten: HashSet<Uuid>,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let Some((what, n)) = line.split_once(' ') else { return };
        let Ok(n) = n.parse().map(id) else { return };
        match what {
            "o" => self.opened.insert(n),
            "s" => self.settled.insert(n),
            "f" => self.forgotten.insert(n),
            _ => false,
        };
    }
}

/// Listens for a while, kills, and hears the rest.
fn kill_after(mut child: Child, lines: usize) -> Said {
    let mut said = Said::default();
    let out = BufReader::new(child.stdout.take().expect("piped"));
    for (count, line) in out.lines().enumerate() {
        said.hear(&line.expect("text"));
        if count == lines {
            child.kill().expect("runs");
        }
    }
    child.wait().expect("ended");
    said
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_reported() {
    for round in 0..50 {
        let dir = directory();
        let mut command = child("appends_until_it_is_killed", dir.path(), None);
        let running = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        let said = kill_after(running, 3 + 41 * round);
        let orphan = orphan(dir.path());
        let found = read(&orphan);
        let id_of = |record: &Recovered| record.opened.as_ref().expect("no damage").request_id;
        let settled: HashSet<_> = found
            .iter()
            .filter(|record| record.settled.is_some())
            .map(id_of)
            .collect();
        let all: HashSet<_> = found.iter().map(id_of).collect();
        let lost = said
            .settled
            .difference(&settled)
            .filter(|id| !said.forgotten.contains(*id));
        assert_eq!(lost.count(), 0, "round {round}");
        assert!(said.opened.difference(&all).all(|id| said.forgotten.contains(id)));
        assert!(said.settled.len() >= round, "it did something");
        orphan.remove();
        assert!(listed(dir.path()).is_empty());
    }
}

#[test]
fn a_process_that_is_alive_is_not_recovered_and_a_dead_one_is() {
    let dir = directory();
    let own = start(dir.path());
    pass(&own, 9_999_999);
    let mut command = child("appends_until_it_is_killed", dir.path(), None);
    let mut running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let mut lines = BufReader::new(running.stdout.take().expect("piped")).lines();
    lines
        .find(|line| line.as_ref().is_ok_and(|line| line.starts_with("s ")))
        .expect("it settles")
        .expect("text");
    assert!(orphans(dir.path()).expect("readable").is_empty());
    running.kill().expect("runs");
    running.wait().expect("ended");
    assert_ne!(orphan(dir.path()).instance(), own.instance());
}

/// Opens until the disk is full, settles all, and sees that all are there.
#[test]
#[ignore = "the next test gives it a small disk"]
fn fills_a_small_disk() {
    let dir = told_dir();
    let journal = Journal::start(dir.as_ref(), Uuid::new_v4(), options(Fsync::Interval)).expect("room");
    let mut seats = Vec::new();
    while let Ok((seat, _)) = journal.open(&opened_sample(seats.len() as u64)) {
        seats.push(seat);
    }
    assert!(matches!(journal.open(&opened_sample(9_999)), Err(JournalError::Full)));
    let settled: Vec<_> = (0..).zip(&seats).map(|(n, seat)| settle(&journal, n, *seat)).collect();
    assert!(settled.iter().all(|seat| seat.settled_in.is_some()));
    assert_eq!(
        journal.stats().write_errors.load(std::sync::atomic::Ordering::Relaxed),
        0
    );
    let (found, damaged) = recovered(crash(dir.as_ref()).path());
    assert_eq!((found.len(), damaged), (seats.len(), 0));
    assert!(found.len() > 100 && found.iter().all(|record| record.settled.is_some()));
    journal.forget(settled);
    eventually("admitted again", || journal.open(&opened_sample(1_000_000)).is_ok());
}

#[test]
fn a_full_file_system_refuses_and_loses_nothing() {
    let dir = directory();
    let script = r#"mount -t tmpfs -o size=1m tmpfs "$DIR"; exec "$0" "$@""#;
    let output = child("fills_a_small_disk", dir.path(), Some(script)).output();
    let output = output.expect("unshare, of util-linux");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
