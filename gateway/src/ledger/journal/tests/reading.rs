//! Files that a crash or a bad disk has left.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::segment::HEADER_BYTES;
use super::super::*;
use super::sample::*;

/// A directory with one file of three requests, the last without its end, and the places at which its records end.
fn small() -> (TempDir, PathBuf, Vec<usize>) {
    let dir = directory();
    let journal = start(dir.path());
    let mut ends = vec![HEADER_BYTES];
    for n in 1..=3 {
        let seat = open(&journal, n);
        ends.push(HEADER_BYTES + bytes(&journal));
        if n < 3 {
            settle(&journal, n, seat);
            ends.push(HEADER_BYTES + bytes(&journal));
        }
    }
    let left = crash(dir.path());
    let paths = segments(left.path());
    // The one made ahead is of no interest here.
    paths[1..].iter().for_each(|path| fs::remove_file(path).expect("there"));
    (left, paths[0].clone(), ends)
}

fn bytes(journal: &Journal) -> usize {
    let bytes = journal.stats().bytes.load(std::sync::atomic::Ordering::Relaxed);
    usize::try_from(bytes).expect("small")
}

/// What can be read when only so many records are.
fn first(records: usize) -> Vec<Recovered> {
    match records {
        0 => vec![],
        1 => vec![unsettled(1)],
        2 => vec![whole(1)],
        3 => vec![whole(1), unsettled(2)],
        4 => vec![whole(1), whole(2)],
        _ => vec![whole(1), whole(2), unsettled(3)],
    }
}

#[test]
fn a_tail_torn_at_any_byte_loses_only_the_record_that_is_torn() {
    let (dir, path, ends) = small();
    let file = fs::read(&path).expect("readable");
    let last = *ends.last().expect("some");
    for cut in 0..=last + 20 {
        let records = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
        let is_whole = cut == 0 || ends.contains(&cut) || cut > last;
        let mut zeroed = file.clone();
        zeroed[cut..].fill(0);
        for torn in [&file[..cut], &zeroed] {
            fs::write(&path, torn).expect("written");
            let (found, damaged) = recovered(dir.path());
            assert_eq!(found, first(records), "cut at {cut}");
            // A tail of zeros may look like a record that was never begun.
            assert!(damaged <= u64::from(!is_whole), "cut at {cut}");
            assert!(
                damaged == 1 || is_whole || torn.len() > cut || cut - ends[records] < 8,
                "cut at {cut}"
            );
        }
    }
}

#[test]
fn a_flipped_bit_is_never_read_as_a_record() {
    let (dir, path, ends) = small();
    let file = fs::read(&path).expect("readable");
    for at in 0..ends[5] {
        for bit in 0..8 {
            let mut flipped = file.clone();
            flipped[at] ^= 1 << bit;
            fs::write(&path, flipped).expect("written");
            let records = ends.iter().filter(|end| **end <= at).count().saturating_sub(1);
            assert_eq!(recovered(dir.path()), (first(records), 1), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn what_follows_damage_is_read_in_the_next_file() {
    let dir = directory();
    let journal = start(dir.path());
    pass_all(&journal, 0..100);
    let left = crash(dir.path());
    let (all, _) = recovered(left.path());
    assert_eq!(all.len(), 100);
    let second = &segments(left.path())[1];
    let mut file = fs::read(second).expect("readable");
    file[HEADER_BYTES + 20] ^= 1;
    fs::write(second, file).expect("written");
    let (found, damaged) = recovered(left.path());
    assert_eq!(damaged, 1);
    assert!(found.contains(&whole(0)) && found.contains(&whole(99)));
    assert!(
        found
            .iter()
            .all(|record| record.opened.is_none() || all.contains(record) || record.settled.is_none())
    );
}

#[test]
fn an_end_whose_admission_is_damaged_is_told_alone() {
    let (dir, path, _) = small();
    let (settled, other) = (settled_sample(77), dir.path().join("other"));
    // An instance that was opened in the first file and ended in the second.
    fs::create_dir(&other).expect("made");
    let journal = start(&other);
    let seat = open(&journal, 77);
    pass_all(&journal, 0..100);
    journal.settle(seat, &settled);
    let left = crash(&other);
    let first = &segments(left.path())[0];
    let mut file = fs::read(first).expect("readable");
    file[HEADER_BYTES + 20] ^= 1;
    fs::write(first, file).expect("written");
    let alone = Recovered {
        opened: None,
        settled: Some(settled),
    };
    assert!(recovered(left.path()).0.contains(&alone));
    assert!(path.exists());
}

#[test]
fn a_journal_of_another_version_is_an_error_and_stays() {
    let (dir, path, _) = small();
    let mut file = fs::read(&path).expect("readable");
    file[8] = 2;
    let crc = crc32fast::hash(&file[..36]);
    file[36..40].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, file).expect("written");
    let orphan = orphan(dir.path());
    let read: Vec<_> = orphan.records().collect();
    assert_eq!(read.len(), 1, "nothing after the error");
    assert!(
        read[0]
            .as_ref()
            .is_err_and(|error| error.to_string().contains("version 2"))
    );
    drop(orphan);
    assert!(path.exists());
}

fn overwrite(path: &Path, at: usize, with: &[u8]) {
    let mut file = fs::read(path).expect("readable");
    let end = (at + with.len()).min(file.len());
    file[at..end].copy_from_slice(&with[..end - at]);
    fs::write(path, file).expect("written");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rubbish_anywhere_yields_nothing_that_was_not_written(
        at in 0..700_usize,
        rubbish in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let (dir, path, _) = small();
        overwrite(&path, at, &rubbish);
        let (found, _) = recovered(dir.path());
        prop_assert!((0..=5).any(|records| found == first(records)), "{found:?}");
    }
}
