//! Requests, directories and disks to test with.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ace_policies::config::Fsync;
use ace_policies::usage::{Source, Usage};
use ace_policies::{KeyId, MachineId, Provider, SessionId, TenantId, UserId};
use tempfile::TempDir;
use uuid::Uuid;

use super::super::{Journal, JournalOptions, Opened, Orphan, Recovered, Seat, Settled, SettledSeat, orphans};

/// Small segments, so that a test sees many.
pub const SEGMENT_BYTES: u64 = 8 << 10;

pub fn id(n: u64) -> Uuid {
    Uuid::from_u128(u128::from(n) + 1)
}

/// An admission whose fields all depend on `n`.
pub fn opened_sample(n: u64) -> Opened {
    Opened {
        request_id: id(n),
        tenant: TenantId(1),
        user: UserId(42),
        session: Some(SessionId(Uuid::from_u128(7))),
        machine: n.is_multiple_of(2).then(|| MachineId(Uuid::from_u128(8))),
        tool: "claude-code".to_owned(),
        provider: Provider::Anthropic,
        key: Some(KeyId(3)),
        method: "POST".to_owned(),
        path: "/v1/messages".to_owned(),
        model_asked: Some(format!("claude-{n}")),
        started_at_ms: 1_760_000_000_000,
        bytes_in: n * 10,
        streamed: true,
        day_start_ms: 1_759_960_800_000,
        month_start_ms: 1_759_269_600_000,
        estimate: Usage {
            input: n * 1_000,
            output: 4_096,
            ..Usage::default()
        },
        estimate_cost_micro_usd: 70_000,
        price: Some("claude-*".to_owned()),
    }
}

/// The end of the same request.
pub fn settled_sample(n: u64) -> Settled {
    Settled {
        request_id: id(n),
        key: Some(KeyId(3)),
        model_served: Some(format!("claude-{n}")),
        status: 200,
        error_kind: None,
        usage: Usage {
            input: n,
            output: 2 * n,
            ..Usage::default()
        },
        source: Source::Provider,
        streamed: true,
        ttfb_ms: Some(250),
        duration_ms: 4_000,
        bytes_in: n * 10,
        bytes_out: 9_000,
        upstream_request_id: Some(format!("req_{n}")),
        cost_micro_usd: 1_234,
        price: Some("claude-*".to_owned()),
        service_tier: None,
        charged_requests: 1,
    }
}

pub fn options(fsync: Fsync) -> JournalOptions {
    JournalOptions {
        fsync,
        interval: Duration::from_millis(2),
        segment_bytes: SEGMENT_BYTES,
    }
}

pub fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

pub fn start(dir: &Path) -> Journal {
    Journal::start(dir, Uuid::new_v4(), options(Fsync::Never)).expect("room")
}

pub fn open(journal: &Journal, n: u64) -> Seat {
    journal.open(&opened_sample(n)).expect("room").0
}

pub fn settle(journal: &Journal, n: u64, seat: Seat) -> SettledSeat {
    journal.settle(seat, &settled_sample(n))
}

/// A request from its admission to its end.
pub fn pass(journal: &Journal, n: u64) -> SettledSeat {
    let seat = open(journal, n);
    settle(journal, n, seat)
}

/// So many of them.
pub fn pass_all(journal: &Journal, all: Range<u64>) {
    for n in all {
        pass(journal, n);
    }
}

/// The files as a process that dies now leaves them.
pub fn crash(dir: &Path) -> TempDir {
    let left = directory();
    for path in listed(dir) {
        let to = left.path().join(path.file_name().expect("a file"));
        // The keeper may delete one meanwhile.
        let _ = fs::copy(&path, to);
    }
    left
}

pub fn listed(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    paths
}

pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths = listed(dir);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths
}

/// The only dead instance.
pub fn orphan(dir: &Path) -> Orphan {
    dead(dir, 1).remove(0)
}

/// So many dead instances. Another test may be starting a process, which has our locks too until its program begins.
fn dead(dir: &Path, count: usize) -> Vec<Orphan> {
    let mut found = Vec::new();
    eventually("dead instances", || {
        found.clear();
        found = orphans(dir).expect("readable");
        found.len() == count
    });
    found
}

/// All instances of a directory, which all are dead.
pub fn all_dead(dir: &Path) -> Vec<Orphan> {
    let names = segments(dir);
    let instances = names.iter().filter_map(|path| path.to_str()?.rsplit_once('-'));
    let instances: HashSet<_> = instances.map(|(instance, _)| instance).collect();
    dead(dir, instances.len())
}

pub fn read(orphan: &Orphan) -> Vec<Recovered> {
    orphan.records().collect::<Result<_, _>>().expect("readable")
}

/// What is recovered of a directory, and how many files ended in damage.
pub fn recovered(dir: &Path) -> (Vec<Recovered>, u64) {
    let mut all = Vec::new();
    let mut damaged = 0;
    for orphan in all_dead(dir) {
        let mut records = orphan.records();
        all.extend(records.by_ref().map(|record| record.expect("readable")));
        damaged += records.damaged();
    }
    (all, damaged)
}

pub fn whole(n: u64) -> Recovered {
    Recovered {
        opened: Some(opened_sample(n)),
        settled: Some(settled_sample(n)),
    }
}

pub fn unsettled(n: u64) -> Recovered {
    Recovered {
        opened: Some(opened_sample(n)),
        settled: None,
    }
}

/// Waits for what another thread does.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}
