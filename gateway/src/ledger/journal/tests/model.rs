//! Anything in any order, against what must come of it.

use std::collections::BTreeMap;

use ace_policies::config::Fsync;
use proptest::prelude::*;
use uuid::Uuid;

use super::super::*;
use super::sample::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Open,
    /// Settles one of the open requests.
    Settle(usize),
    /// Forgets one of the settled.
    Forget(usize),
    /// Opens, settles and forgets so many, so that segments come and go.
    Pass(u8),
    /// Dies, is recovered, and starts anew.
    Crash,
    /// Looks at what a crash now would leave.
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Open),
        5 => any::<usize>().prop_map(Step::Settle),
        3 => any::<usize>().prop_map(Step::Forget),
        2 => (1..40_u8).prop_map(Step::Pass),
        1 => Just(Step::Crash),
        1 => Just(Step::Look),
    ]
}

/// What the journal must know, in the simplest form.
#[derive(Default)]
struct Model {
    next: u64,
    open: BTreeMap<u64, Seat>,
    settled: BTreeMap<u64, SettledSeat>,
    /// What the database has, whether written by the process or by a recovery.
    rows: BTreeMap<u64, Option<Settled>>,
}

impl Model {
    fn take(&mut self, journal: &Journal, step: Step) {
        match step {
            Step::Open => {
                self.next += 1;
                self.open.insert(self.next, open(journal, self.next));
            }
            Step::Settle(any) => {
                if let Some((n, seat)) = remove_nth(&mut self.open, any) {
                    self.settled.insert(n, settle(journal, n, seat));
                }
            }
            Step::Forget(any) => {
                if let Some((n, seat)) = remove_nth(&mut self.settled, any) {
                    self.rows.insert(n, Some(settled_sample(n)));
                    journal.forget([seat]);
                }
            }
            Step::Pass(count) => {
                for _ in 0..count {
                    self.next += 1;
                    self.rows.insert(self.next, Some(settled_sample(self.next)));
                    journal.forget([pass(journal, self.next)]);
                }
            }
            Step::Crash | Step::Look => {}
        }
    }

    /// Whether a recovery of these files would give the database exactly what it lacks.
    fn check(&self, dir: &Path) {
        let mut rows = self.rows.clone();
        let (found, damaged) = recovered(dir);
        assert_eq!(damaged, 0);
        for record in found {
            let opened = record.opened.expect("no damage");
            let n = opened.bytes_in / 10;
            assert_eq!(opened, opened_sample(n));
            // `ON CONFLICT DO NOTHING`
            rows.entry(n).or_insert(record.settled);
        }
        let settled = self.settled.keys().map(|n| (*n, Some(settled_sample(*n))));
        let open = self.open.keys().map(|n| (*n, None));
        let expected: BTreeMap<_, _> = self.rows.clone().into_iter().chain(settled).chain(open).collect();
        assert_eq!(rows, expected);
    }

    /// The database after a recovery.
    fn recover(&mut self) {
        let settled = std::mem::take(&mut self.settled);
        self.rows
            .extend(settled.into_keys().map(|n| (n, Some(settled_sample(n)))));
        let open = std::mem::take(&mut self.open);
        self.rows.extend(open.into_keys().map(|n| (n, None)));
    }
}

fn remove_nth<T>(map: &mut BTreeMap<u64, T>, any: usize) -> Option<(u64, T)> {
    let n = *map.keys().nth(any.checked_rem(map.len())?)?;
    map.remove_entry(&n)
}

fn run(steps: &[Step], fsync: Fsync) {
    let dir = directory();
    let begin = || Journal::start(dir.path(), Uuid::new_v4(), options(fsync)).expect("room");
    let mut journal = begin();
    let mut model = Model::default();
    // As a thread of the gateway does, whose ends wait for each other.
    journal.rest();
    for step in steps {
        model.take(&journal, *step);
        match step {
            Step::Look => {
                journal.rest();
                model.check(crash(dir.path()).path());
            }
            Step::Crash => {
                drop(journal);
                model.check(dir.path());
                model.recover();
                for orphan in all_dead(dir.path()) {
                    orphan.remove();
                }
                assert!(listed(dir.path()).is_empty());
                journal = begin();
            }
            _ => {}
        }
    }
    journal.rest();
    model.check(crash(dir.path()).path());
    journal.forget(std::mem::take(&mut model.settled).into_values());
    let open = std::mem::take(&mut model.open);
    journal.forget(open.into_iter().map(|(n, seat)| settle(&journal, n, seat)));
    assert_eq!(journal.close(), 0);
    assert!(listed(dir.path()).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_database_gets_every_request_once(steps in prop::collection::vec(step(), 1..150)) {
        run(&steps, Fsync::Never);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn and_so_it_is_with_a_keeper_that_syncs(steps in prop::collection::vec(step(), 1..80)) {
        run(&steps, Fsync::Interval);
    }
}
