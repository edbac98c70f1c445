//! From the first record to the last file.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;
use std::{fs, thread};

use ace_policies::config::{self, Fsync};
use uuid::Uuid;

use super::super::*;
use super::sample::*;

#[test]
fn every_request_comes_back_as_it_was_written() {
    let dir = directory();
    let journal = start(dir.path());
    for n in 0..100 {
        let seat = open(&journal, n);
        if n % 3 != 0 {
            settle(&journal, n, seat);
        }
    }
    let left = crash(dir.path());
    let orphan = orphan(left.path());
    assert_eq!(orphan.instance(), journal.instance());
    let found = read(&orphan);
    let settled = (0..100).filter(|n| n % 3 != 0).map(whole);
    let open = (0..100).filter(|n| n % 3 == 0).map(unsettled);
    assert_eq!(found, settled.chain(open).collect::<Vec<_>>());
    orphan.remove();
    assert!(listed(left.path()).is_empty());
    assert!(orphans(left.path()).expect("readable").is_empty());
}

#[test]
fn files_are_private() {
    let parent = directory();
    let dir = parent.path().join("state/journal");
    let journal = start(&dir);
    pass(&journal, 1);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for path in listed(&dir) {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn the_configuration_is_the_journals() {
    let options = JournalOptions::from(&config::Ledger::default());
    assert_eq!((options.fsync, options.interval.as_millis()), (Fsync::Interval, 5));
    let least = 64 << 10;
    assert!(least > (HEADER_BYTES + MAX_OPENED_BYTES + MAX_SETTLED_BYTES) as u64);
    let tiny = JournalOptions {
        segment_bytes: 1_000,
        ..options
    };
    assert!(Journal::start(directory().path(), Uuid::new_v4(), tiny).is_err());
}

#[test]
fn threads_append_at_once_and_nothing_is_lost() {
    for fsync in Fsync::ALL {
        let dir = directory();
        let journal = Journal::start(dir.path(), Uuid::new_v4(), options(fsync)).expect("room");
        thread::scope(|scope| {
            for first in 0..4 {
                let journal = &journal;
                scope.spawn(move || pass_all(journal, first * 1_000..first * 1_000 + 100));
            }
        });
        let (mut found, damaged) = recovered(crash(dir.path()).path());
        found.sort_by_key(|record| record.opened.as_ref().map(|opened| opened.request_id));
        let written = (0..4).flat_map(|first| (0..100).map(move |n| whole(first * 1_000 + n)));
        assert_eq!((found, damaged), (written.collect(), 0), "{}", fsync.as_str());
        let stats = journal.stats();
        assert_eq!(stats.records.load(Ordering::Relaxed), 800);
        assert_eq!(stats.open.load(Ordering::Relaxed), 0);
        assert_eq!(stats.fsyncs.load(Ordering::Relaxed) > 0, fsync != Fsync::Never);
    }
}

#[test]
fn a_segment_is_deleted_when_the_database_has_all_its_rows() {
    let dir = directory();
    let journal = start(dir.path());
    let seats: Vec<_> = (0..500).map(|n| pass(&journal, n)).collect();
    assert!(segments(dir.path()).len() > 10);
    journal.forget(seats);
    eventually("only the current segment and the next are left", || {
        segments(dir.path()).len() == 2 && journal.stats().segments.load(Ordering::Relaxed) == 2
    });
    let (found, _) = recovered(crash(dir.path()).path());
    assert!(found.len() < 100, "what is left is in the current segment");
}

#[test]
fn a_long_request_keeps_only_the_segment_in_which_it_was_opened() {
    let dir = directory();
    let journal = start(dir.path());
    let long = open(&journal, 1_000);
    journal.forget((0..500).map(|n| pass(&journal, n)));
    eventually("one segment besides the current and the next", || {
        segments(dir.path()).len() == 3
    });
    let (found, _) = recovered(crash(dir.path()).path());
    assert!(found.contains(&unsettled(1_000)));
    journal.forget([settle(&journal, 1_000, long)]);
    eventually("it is gone too", || segments(dir.path()).len() == 2);
}

#[test]
fn a_request_whose_end_was_deleted_with_its_segment_comes_back_without_it() {
    let dir = directory();
    let journal = start(dir.path());
    let _long = open(&journal, 1_000);
    let told = open(&journal, 1_001);
    journal.forget((0..100).map(|n| pass(&journal, n)));
    journal.forget([settle(&journal, 1_001, told)]);
    journal.forget((100..200).map(|n| pass(&journal, n)));
    eventually("full segments are gone", || segments(dir.path()).len() == 3);
    let (found, _) = recovered(crash(dir.path()).path());
    // The database has its row, which stays as it is.
    assert!(found.contains(&unsettled(1_001)));
}

#[test]
fn an_end_whose_admission_was_deleted_is_in_the_database_and_not_told_again() {
    let dir = directory();
    let journal = start(dir.path());
    let across = open(&journal, 1_000);
    journal.forget((0..100).map(|n| pass(&journal, n)));
    let across = settle(&journal, 1_000, across);
    open(&journal, 1_001);
    assert_ne!(across.settled_in, Some(across.opened_in));
    // Looked up before it can be gone.
    let first = segments(dir.path())[0].clone();
    journal.forget([across]);
    eventually("the first segment is gone", || !first.exists());
    let (found, _) = recovered(crash(dir.path()).path());
    assert!(
        found.contains(&unsettled(1_001)),
        "what is in the segment of its end is told"
    );
    let across = id(1_000);
    assert!(found.iter().all(|record| {
        record
            .settled
            .as_ref()
            .is_none_or(|settled| settled.request_id != across)
    }));
}

#[test]
fn two_instances_live_in_one_directory_and_neither_takes_the_others_journal() {
    let dir = directory();
    let old = start(dir.path());
    pass(&old, 1);
    let new = start(dir.path());
    pass(&new, 2);
    assert!(orphans(dir.path()).expect("readable").is_empty(), "both live");
    let old_instance = old.instance();
    drop(old);
    let dead = orphan(dir.path());
    assert_eq!(dead.instance(), old_instance);
    assert_eq!(read(&dead), [whole(1)]);
    assert!(orphans(dir.path()).expect("readable").is_empty(), "one recovers it");
    dead.remove();
    assert_eq!(read_own(dir.path(), &new), [whole(2)]);
}

fn read_own(dir: &Path, journal: &Journal) -> Vec<Recovered> {
    assert!(listed(dir).iter().all(|path| {
        let name = path.file_name().expect("a file").to_string_lossy();
        name.starts_with(&journal.instance().to_string())
    }));
    recovered(crash(dir).path()).0
}

#[test]
fn a_recovery_that_is_broken_off_is_done_again() {
    let dir = directory();
    let journal = start(dir.path());
    pass(&journal, 1);
    drop(journal);
    drop(orphan(dir.path()));
    assert_eq!(read(&orphan(dir.path())), [whole(1)]);
}

#[test]
fn an_upgrade_hands_over_without_a_request_lost() {
    let dir = directory();
    let old = start(dir.path());
    let under_way = open(&old, 1);
    let new = start(dir.path());
    new.forget([pass(&new, 2)]);
    new.forget([]);
    old.forget([settle(&old, 1, under_way)]);
    assert_eq!(old.close(), 0, "the old process has nothing left");
    drop(old);
    assert!(orphans(dir.path()).expect("readable").is_empty());
    assert_eq!(new.close(), 0);
    assert!(listed(dir.path()).is_empty());
}

#[test]
fn a_journal_that_ends_with_rows_unwritten_stays_until_they_are() {
    let dir = directory();
    let journal = start(dir.path());
    let late = pass(&journal, 1);
    let under_way = open(&journal, 2);
    assert_eq!(journal.close(), 3);
    assert!(matches!(journal.open(&opened_sample(3)), Err(JournalError::Closed)));
    let last = settle(&journal, 2, under_way);
    assert_eq!(recovered(crash(dir.path()).path()).0, [whole(1), whole(2)]);
    journal.forget([late, last]);
    assert_eq!(journal.close(), 0);
    assert!(listed(dir.path()).is_empty());
}

#[test]
fn an_instance_that_died_before_its_first_segment_leaves_nothing() {
    let dir = directory();
    fs::write(dir.path().join(format!("{}.lock", id(1))), "").expect("written");
    fs::write(dir.path().join("something else"), "").expect("written");
    assert!(orphans(dir.path()).expect("readable").is_empty());
    assert_eq!(listed(dir.path()).len(), 1);
    assert!(orphans(&dir.path().join("missing")).expect("nothing").is_empty());
}
