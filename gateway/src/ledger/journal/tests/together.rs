//! Records that are written together.

use std::sync::atomic::Ordering;

use ace_policies::config::Fsync;

use super::super::*;
use super::faulty::*;
use super::sample::*;

fn draft(journal: &Journal, n: u64) -> Draft {
    journal.draft(&opened_sample(n)).expect("room")
}

/// A journal with all its first files made, and how many writes that took.
fn start(dir: &Path, fsync: Fsync) -> (Journal, Arc<Faults>, usize) {
    let (journal, faults) = start_faulty(dir, fsync, 1_000);
    eventually("prepared", || load(&journal.stats().segments) == 2);
    let writes = faults.writes.load(Ordering::Relaxed);
    (journal, faults, writes)
}

#[test]
fn whoever_confirms_first_writes_for_all_who_wait() {
    let dir = directory();
    let (journal, faults, before) = start(dir.path(), Fsync::Never);
    let drafts: Vec<_> = (0..5).map(|n| draft(&journal, n)).collect();
    assert_eq!(recovered(crash(dir.path()).path()).0, [], "nothing is in the file yet");
    journal.confirm(&drafts[3]).expect("written");
    let (mut found, damaged) = recovered(crash(dir.path()).path());
    found.sort_by_key(|record| record.opened.as_ref().map(|opened| opened.bytes_in));
    assert_eq!((found, damaged), ((0..5).map(unsettled).collect(), 0));
    for draft in &drafts {
        journal.confirm(draft).expect("written");
    }
    assert_eq!(faults.writes.load(Ordering::Relaxed), before + 1);
    assert_eq!(load(&journal.stats().records), 5);
}

#[test]
fn an_end_takes_the_admissions_before_it_along() {
    let dir = directory();
    let (journal, faults, before) = start(dir.path(), Fsync::Never);
    let drafts: Vec<_> = (0..2).map(|n| draft(&journal, n)).collect();
    settle(&journal, 0, drafts[0].seat);
    assert_eq!(recovered(crash(dir.path()).path()), (vec![whole(0), unsettled(1)], 0));
    assert_eq!(faults.writes.load(Ordering::Relaxed), before + 1);
}

#[test]
fn drafts_fill_as_many_files_as_they_need() {
    let dir = directory();
    let (journal, ..) = start(dir.path(), Fsync::Never);
    let drafts: Vec<_> = (0..200).map(|n| draft(&journal, n)).collect();
    for (n, draft) in (0..).zip(&drafts) {
        journal.confirm(draft).expect("written");
        settle(&journal, n, draft.seat);
    }
    let (found, damaged) = recovered(crash(dir.path()).path());
    assert_eq!((found, damaged), ((0..200).map(whole).collect(), 0));
}

#[test]
fn what_the_disk_does_not_take_is_refused_and_the_ends_beside_it_are_kept() {
    let dir = directory();
    let (journal, faults, _) = start(dir.path(), Fsync::Interval);
    journal.rest();
    let under_way = draft(&journal, 0);
    journal.confirm(&under_way).expect("written");
    faults.writes_fail.store(true, Ordering::Relaxed);
    let refused = [draft(&journal, 1), draft(&journal, 2)];
    let late = settle(&journal, 0, under_way.seat);
    for draft in &refused {
        assert!(matches!(journal.confirm(draft), Err(JournalError::Io(_))));
    }
    assert!(matches!(journal.draft(&opened_sample(3)), Err(JournalError::Io(_))));
    assert_eq!(load(&journal.stats().open), 0);
    faults.writes_fail.store(false, Ordering::Relaxed);
    eventually("tried again", || load(&journal.stats().unsaved) == 0);
    let next = pass(&journal, 4);
    journal.rest();
    assert_eq!(recovered(crash(dir.path()).path()), (vec![whole(0), whole(4)], 0));
    journal.forget([late, next]);
    assert_eq!(journal.close(), 0, "nothing is left of what was refused");
}

#[test]
fn ends_on_a_thread_that_rests_wait_until_it_does() {
    let dir = directory();
    let (journal, faults) = start_faulty(dir.path(), Fsync::Interval, 1_000);
    let seats: Vec<_> = (0..20).map(|n| open(&journal, n)).collect();
    journal.rest();
    // The journal's own thread may write some of them first.
    let before = faults.writes.load(Ordering::Relaxed);
    for (n, seat) in (0..).zip(seats) {
        settle(&journal, n, seat);
    }
    assert!(faults.writes.load(Ordering::Relaxed) < before + 20);
    journal.rest();
    assert_eq!(recovered(crash(dir.path()).path()), ((0..20).map(whole).collect(), 0));
}

#[test]
fn ends_on_a_thread_that_never_rests_again_are_written_all_the_same() {
    let dir = directory();
    let (journal, ..) = start(dir.path(), Fsync::Interval);
    journal.rest();
    let seat = open(&journal, 0);
    settle(&journal, 0, seat);
    eventually("written", || recovered(crash(dir.path()).path()) == (vec![whole(0)], 0));
}

#[test]
fn without_a_keeper_that_writes_soon_no_end_waits() {
    for fsync in [Fsync::Never, Fsync::Always] {
        let dir = directory();
        let (journal, ..) = start(dir.path(), fsync);
        journal.rest();
        pass(&journal, 0);
        assert_eq!(recovered(crash(dir.path()).path()), (vec![whole(0)], 0));
    }
}
