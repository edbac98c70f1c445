//! Disks that are full or broken.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ace_policies::config::Fsync;
use uuid::Uuid;

use super::super::segment::HEADER_BYTES;
use super::super::*;
use super::faulty::*;
use super::sample::*;

#[test]
fn a_full_disk_refuses_requests_and_every_admitted_one_has_room_for_its_end() {
    for room in 1..6 {
        let dir = directory();
        let (journal, faults) = start_faulty(dir.path(), Fsync::Never, room);
        let mut seats = Vec::new();
        while let Ok((seat, _)) = journal.open(&opened_sample(seats.len() as u64)) {
            seats.push(seat);
        }
        assert!(matches!(journal.open(&opened_sample(9_999)), Err(JournalError::Full)));
        eventually("a failed attempt leaves no file", || {
            segments(dir.path()).len() as i64 == room
        });
        let per_segment = (SEGMENT_BYTES as usize - HEADER_BYTES) / MAX_SETTLED_BYTES;
        assert!(
            seats.len() >= per_segment * room as usize / 2,
            "{} fit in {room}",
            seats.len()
        );

        // The longest ends that there are.
        let text = Some("x".repeat(4_000));
        for (n, seat) in seats.iter().enumerate() {
            let long = Settled {
                model_served: text.clone(),
                error_kind: text.clone(),
                upstream_request_id: text.clone(),
                price: text.clone(),
                service_tier: text.clone(),
                ..settled_sample(n as u64)
            };
            let seat = journal.settle(*seat, &long);
            assert!(seat.settled_in.is_some());
        }
        let (found, damaged) = recovered(crash(dir.path()).path());
        assert_eq!((found.len(), damaged), (seats.len(), 0));
        assert!(
            found
                .iter()
                .all(|record| record.opened.is_some() && record.settled.is_some())
        );
        assert_eq!(load(&journal.stats().write_errors), 0);
        assert!(load(&journal.stats().allocation_errors) > 0);

        faults.room.store(2, Ordering::Relaxed);
        eventually("admitted again when there is room", || {
            journal.open(&opened_sample(1_000)).is_ok()
        });
    }
}

#[test]
fn forgotten_requests_make_room_on_a_full_disk() {
    let dir = directory();
    let (journal, faults) = start_faulty(dir.path(), Fsync::Never, 3);
    let mut settled = Vec::new();
    while let Ok((seat, _)) = journal.open(&opened_sample(settled.len() as u64)) {
        settled.push(settle(&journal, settled.len() as u64, seat));
    }
    let before = segments(dir.path()).len();
    journal.forget(settled);
    eventually("files are deleted", || segments(dir.path()).len() < before);
    faults.room.store(1, Ordering::Relaxed);
    eventually("admitted again", || journal.open(&opened_sample(1_000)).is_ok());
}

#[test]
fn a_journal_does_not_start_on_a_full_disk_and_leaves_no_file() {
    let dir = directory();
    let disk = Box::new(Faulty(Arc::default()));
    let started = Journal::start_on(disk, dir.path(), Uuid::new_v4(), options(Fsync::Interval));
    assert!(matches!(started, Err(JournalError::Full)));
    assert!(listed(dir.path()).is_empty());
}

#[test]
fn an_end_that_the_disk_does_not_take_is_written_later() {
    let dir = directory();
    let (journal, faults) = start_faulty(dir.path(), Fsync::Never, 100);
    let seats: Vec<_> = (0..3).map(|n| open(&journal, n)).collect();
    faults.writes_fail.store(true, Ordering::Relaxed);
    let settled: Vec<_> = (0..).zip(seats).map(|(n, seat)| settle(&journal, n, seat)).collect();
    assert!(matches!(journal.open(&opened_sample(3)), Err(JournalError::Io(_))));
    assert!(load(&journal.stats().write_errors) > 0);
    assert_eq!(load(&journal.stats().unsaved), 3);
    // The database may have the row before the disk has the record.
    journal.forget([settled[1]]);
    faults.writes_fail.store(false, Ordering::Relaxed);
    eventually("tried again", || load(&journal.stats().unsaved) == 0);
    let seat = open(&journal, 3);
    settle(&journal, 3, seat);
    let (found, damaged) = recovered(crash(dir.path()).path());
    assert_eq!((found, damaged), ((0..4).map(whole).collect(), 0));
    journal.forget([settled[0], settled[2]]);
    journal.forget((10..200).map(|n| pass(&journal, n)));
    journal.forget([journal.settle(seat, &settled_sample(3))]);
}

#[test]
fn ends_saved_late_are_forgotten_like_any() {
    let dir = directory();
    let (journal, faults) = start_faulty(dir.path(), Fsync::Never, 100);
    let seat = open(&journal, 0);
    faults.writes_fail.store(true, Ordering::Relaxed);
    let late = settle(&journal, 0, seat);
    faults.writes_fail.store(false, Ordering::Relaxed);
    let next = pass(&journal, 1);
    assert_eq!(load(&journal.stats().unsaved), 0, "with the next record");
    journal.forget([late, next]);
    assert_eq!(journal.close(), 0);
    assert!(listed(dir.path()).is_empty());
}

#[test]
fn a_half_written_record_is_written_over() {
    let dir = directory();
    let (journal, faults) = start_faulty(dir.path(), Fsync::Never, 100);
    pass(&journal, 0);
    faults.writes_fail.store(true, Ordering::Relaxed);
    assert!(journal.open(&opened_sample(1)).is_err());
    let (found, damaged) = recovered(crash(dir.path()).path());
    assert_eq!((found, damaged), (vec![whole(0)], 1), "a crash right after");
    faults.writes_fail.store(false, Ordering::Relaxed);
    pass(&journal, 2);
    assert_eq!(recovered(crash(dir.path()).path()), (vec![whole(0), whole(2)], 0));
}

#[test]
fn always_waits_for_the_disk_with_every_record() {
    let dir = directory();
    let (journal, faults) = start_faulty(dir.path(), Fsync::Always, 100);
    eventually("prepared", || load(&journal.stats().segments) == 2);
    let before = faults.syncs.load(Ordering::Relaxed);
    pass(&journal, 0);
    assert_eq!(faults.syncs.load(Ordering::Relaxed) - before, 2);
}

#[test]
fn the_interval_syncs_what_was_written_and_rests_when_nothing_is() {
    let dir = directory();
    let (journal, faults) = start_faulty(dir.path(), Fsync::Interval, 100);
    eventually("prepared", || load(&journal.stats().segments) == 2);
    for n in 0..3 {
        let before = faults.syncs.load(Ordering::Relaxed);
        pass(&journal, n);
        eventually("synced", || faults.syncs.load(Ordering::Relaxed) > before);
        eventually("asleep", || journal.shared.pen().asleep);
        assert!(faults.syncs.load(Ordering::Relaxed) <= before + 2);
    }
}

#[test]
fn files_that_were_filled_between_two_syncs_are_synced_too() {
    for fsync in [Fsync::Always, Fsync::Interval] {
        let dir = directory();
        let (journal, faults) = start_faulty(dir.path(), fsync, 1_000);
        pass_all(&journal, 0..300);
        assert!(segments(dir.path()).len() > 5);
        assert!(journal.close() > 0);
        assert!(faults.unsynced.lock().is_empty(), "{}", fsync.as_str());
    }
}

#[test]
fn after_a_failed_fdatasync_nothing_is_admitted_until_a_new_file_is_begun() {
    for fsync in [Fsync::Always, Fsync::Interval] {
        let dir = directory();
        let (journal, faults) = start_faulty(dir.path(), fsync, 100);
        let under_way = open(&journal, 0);
        faults.syncs_fail.store(true, Ordering::Relaxed);
        match fsync {
            Fsync::Always => assert!(matches!(journal.open(&opened_sample(1)), Err(JournalError::Sync))),
            _ => eventually("refused", || {
                match journal.open(&opened_sample(2)) {
                    Ok((seat, _)) => drop(settle(&journal, 2, seat)),
                    Err(error) => return matches!(error, JournalError::Sync),
                }
                false
            }),
        }
        assert!(matches!(journal.open(&opened_sample(1)), Err(JournalError::Sync)));
        settle(&journal, 0, under_way);
        assert_eq!(
            load(&journal.stats().fsync_errors),
            1,
            "asking again would tell nothing"
        );

        faults.syncs_fail.store(false, Ordering::Relaxed);
        eventually("a new file", || journal.open(&opened_sample(3)).is_ok());
        let (found, _) = recovered(crash(dir.path()).path());
        assert!(found.contains(&whole(0)), "the process may die: the records are there");
        assert!(found.contains(&unsettled(3)));
        let refused = Some(opened_sample(1));
        assert!(
            found.iter().all(|record| record.opened != refused),
            "what was refused is not charged"
        );
    }
}
