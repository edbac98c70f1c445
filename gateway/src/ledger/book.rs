//! The book: what this process holds of every limited bucket, in memory. Admission takes from it without asking anybody.
//!
//! For each bucket and metric `lease = free + reserved + spent` holds, where `lease` is this process's row in the database: what is
//! reserved belongs to requests under way, what is spent was used and is not in the database yet. `free` may fall below zero when a
//! provider tells more than was reserved; whoever comes next then finds nothing until the debt is written.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ace_policies::quota::{Account, Amounts, Bucket, Limit, Metric, Period};
use parking_lot::Mutex;

use super::charge::Charge;

/// How long an answer that there is not enough left is believed.
const DENIAL_HOLDS: Duration = Duration::from_millis(200);

/// What of a bucket is too little.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// The bucket.
    pub bucket: Bucket,
    /// Where its period ends.
    pub ends_ms: Option<i64>,
    /// How much is needed on top of what is free.
    pub need: Amounts,
}

/// Why a bucket gives no more: what the database said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denial {
    /// Whose limit it is.
    pub account: Account,
    /// The limit.
    pub limit: Limit,
    /// What is settled.
    pub used: u64,
    /// What gateways hold for requests under way, or may still give out.
    pub reserved: u64,
    /// What is left of it: a request that needs no more may ask again.
    pub left: u64,
    /// Where the period ends, UTC milliseconds.
    pub resets_ms: Option<i64>,
}

/// Why a reservation is not made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// The database has to be asked for these.
    Ask(Vec<Want>),
    /// It was asked a moment ago, and said no.
    Denied(Box<Denial>),
    /// The leases are others' by now: the database was away for too long.
    Expired,
}

/// What is held of every limited bucket.
pub struct Book(Mutex<Pages>);

struct Pages {
    buckets: HashMap<Bucket, Held, ahash::RandomState>,
    good_until: Instant,
}

/// What is held of one bucket.
#[derive(Debug)]
struct Held {
    ends_ms: Option<i64>,
    free: [i64; 3],
    reserved: Amounts,
    spent: Amounts,
    /// Below this the rest is not waited for: more is asked ahead.
    low: Amounts,
    asked: bool,
    denied: [Option<(Instant, Denial)>; 3],
    used_at: Instant,
}

/// A bucket whose lease is not needed as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Idle {
    /// The bucket.
    pub bucket: Bucket,
    /// What can be given back; it is taken out of the book already.
    pub rest: Amounts,
}

impl Book {
    /// An empty book, whose leases are good until `good_until`.
    pub fn new(good_until: Instant) -> Self {
        Self(Mutex::new(Pages {
            buckets: HashMap::default(),
            good_until,
        }))
    }

    /// Takes the charges out of what is free: all of them or none. What a dry run lacks is taken all the same once that is certain.
    ///
    /// `Ok` says which limits of a dry run would have refused, and what ought to be asked for ahead.
    pub fn reserve(&self, charges: &[Charge], now: Instant) -> Result<Reserved, Shortage> {
        let mut pages = self.0.lock();
        if pages.good_until <= now {
            return Err(Shortage::Expired);
        }
        let mut wants = Vec::new();
        let mut would_refuse = Vec::new();
        for charge in charges {
            let held = pages.held(charge.bucket, charge.ends_ms, now);
            let mut lack = held.lacks(charge);
            for metric in Metric::ALL {
                match held.denial(metric, lack.of(metric), now) {
                    None => {}
                    Some(denial) if denial.limit.dry_run => {
                        would_refuse.push(denial);
                        *lack.of_mut(metric) = 0;
                    }
                    Some(denial) => return Err(Shortage::Denied(Box::new(denial))),
                }
            }
            if !lack.is_zero() {
                wants.push(Want {
                    bucket: charge.bucket,
                    ends_ms: charge.ends_ms,
                    need: lack,
                });
            }
        }
        if !wants.is_empty() {
            return Err(Shortage::Ask(wants));
        }
        let mut ahead = Vec::new();
        for charge in charges {
            let held = pages.held(charge.bucket, charge.ends_ms, now);
            held.used_at = now;
            held.take(charge.reserved);
            ahead.extend(held.ask_ahead(charge));
        }
        Ok(Reserved { would_refuse, ahead })
    }

    /// Takes `more` of every charge where all of them have it, and adds it to them.
    pub fn extend(&self, charges: &mut [Charge], more: Amounts, now: Instant) -> Result<Reserved, Shortage> {
        let mut grown: Vec<Charge> = charges.to_vec();
        for charge in &mut grown {
            charge.reserved = charge.caps.limited(more);
        }
        let reserved = self.reserve(&grown, now)?;
        for (charge, more) in charges.iter_mut().zip(&grown) {
            charge.reserved = charge.reserved.plus(more.reserved);
        }
        Ok(reserved)
    }

    /// Puts the truth in the place of what was reserved. Of a settled period it stays `spent` until it is written.
    pub fn settle(&self, charges: &[Charge], actual: Amounts) {
        let mut pages = self.0.lock();
        for charge in charges {
            let Some(held) = pages.buckets.get_mut(&charge.bucket) else {
                continue;
            };
            let actual = match charge.bucket.period {
                Period::Open => Amounts::default(),
                _ => charge.caps.limited(actual),
            };
            held.give(charge.reserved);
            held.reserved = held.reserved.minus(charge.reserved);
            held.spend(actual);
        }
    }

    /// Notes that `written` of a bucket is in the database, and that the lease there gave `covered` for it.
    pub fn written(&self, bucket: &Bucket, written: Amounts, covered: Amounts) {
        let mut pages = self.0.lock();
        if let Some(held) = pages.buckets.get_mut(bucket) {
            held.spent = held.spent.minus(written);
            held.give(written.minus(covered));
        }
    }

    /// Puts in what the database granted, and what it has not enough left of.
    pub fn answer(&self, want: &Want, granted: Amounts, denials: impl IntoIterator<Item = Denial>, now: Instant) {
        let mut pages = self.0.lock();
        let held = pages.held(want.bucket, want.ends_ms, now);
        held.give(granted);
        held.low = quarter(granted);
        (held.asked, held.denied) = (false, [None; 3]);
        for denial in denials {
            held.denied[denial.limit.name.metric() as usize] = Some((now, denial));
        }
    }

    /// Notes that what was asked for could not be asked.
    pub fn unasked(&self, buckets: impl Iterator<Item = Bucket>) {
        let mut pages = self.0.lock();
        for bucket in buckets {
            if let Some(held) = pages.buckets.get_mut(&bucket) {
                held.asked = false;
            }
        }
    }

    /// The leases are good until then.
    pub fn good_until(&self, until: Instant) {
        self.0.lock().good_until = until;
    }

    /// Sets what is free by what the database says the leases are. Nothing may be on its way to the database meanwhile.
    pub fn resync(&self, leases: &HashMap<Bucket, Amounts>) {
        let mut pages = self.0.lock();
        for (bucket, held) in &mut pages.buckets {
            let lease = leases.get(bucket).copied().unwrap_or_default();
            for metric in Metric::ALL {
                held.free[metric as usize] =
                    signed(lease.of(metric)) - signed(held.reserved.of(metric)) - signed(held.spent.of(metric));
            }
        }
    }

    /// Takes out what is not needed: everything of periods that have ended, and what has been free for as long as `idle`.
    /// Buckets that nothing is under way in are forgotten, those of minutes with all that was used in them.
    pub fn sweep(&self, at_ms: i64, now: Instant, idle: Duration) -> Vec<Idle> {
        let mut pages = self.0.lock();
        let mut out = Vec::new();
        pages.buckets.retain(|bucket, held| {
            let ended = held.ends_ms.is_some_and(|end| end <= at_ms);
            let unused = held.used_at + idle <= now;
            if !ended && !unused {
                return true;
            }
            if ended && !bucket.period.is_settled() && held.reserved.is_zero() {
                held.give(held.spent);
                held.spent = Amounts::default();
            }
            let rest = held.free_amounts();
            held.take_free(rest);
            if !rest.is_zero() {
                out.push(Idle { bucket: *bucket, rest });
            }
            held.denied = [None; 3];
            !(held.reserved.is_zero() && held.spent.is_zero() && held.free == [0; 3])
        });
        out
    }
}

/// A reservation was made.
#[derive(Debug, Default)]
pub struct Reserved {
    /// Limits of a dry run that would have refused it.
    pub would_refuse: Vec<Denial>,
    /// What ought to be asked for before it is needed.
    pub ahead: Vec<Want>,
}

impl Pages {
    fn held(&mut self, bucket: Bucket, ends_ms: Option<i64>, now: Instant) -> &mut Held {
        self.buckets.entry(bucket).or_insert_with(|| Held {
            ends_ms,
            free: [0; 3],
            reserved: Amounts::default(),
            spent: Amounts::default(),
            low: Amounts::default(),
            asked: false,
            denied: [None; 3],
            used_at: now,
        })
    }
}

impl Held {
    /// What is missing for a charge. What needs nothing lacks nothing, even of a limit that is spent.
    fn lacks(&self, charge: &Charge) -> Amounts {
        let mut lack = Amounts::default();
        for metric in Metric::ALL.into_iter().filter(|metric| charge.reserved.of(*metric) > 0) {
            let missing = signed(charge.reserved.of(metric)) - self.free[metric as usize];
            *lack.of_mut(metric) = u64::try_from(missing).unwrap_or(0);
        }
        lack
    }

    /// What the database said a moment ago, where that settles it.
    fn denial(&self, metric: Metric, lack: u64, now: Instant) -> Option<Denial> {
        let (at, denial) = self.denied[metric as usize]?;
        (lack > denial.left && now < at + DENIAL_HOLDS).then_some(denial)
    }

    fn take(&mut self, amounts: Amounts) {
        self.take_free(amounts);
        self.reserved = self.reserved.plus(amounts);
    }

    fn take_free(&mut self, amounts: Amounts) {
        for metric in Metric::ALL {
            self.free[metric as usize] -= signed(amounts.of(metric));
        }
    }

    fn give(&mut self, amounts: Amounts) {
        for metric in Metric::ALL {
            self.free[metric as usize] += signed(amounts.of(metric));
        }
    }

    fn spend(&mut self, amounts: Amounts) {
        self.take_free(amounts);
        self.spent = self.spent.plus(amounts);
    }

    fn free_amounts(&self) -> Amounts {
        let mut free = Amounts::default();
        for metric in Metric::ALL {
            *free.of_mut(metric) = u64::try_from(self.free[metric as usize]).unwrap_or(0);
        }
        free
    }

    /// What to ask for now that little is left, once.
    fn ask_ahead(&mut self, charge: &Charge) -> Option<Want> {
        let free = self.free_amounts();
        let is_low = Metric::ALL
            .into_iter()
            .any(|metric| charge.caps.of(metric).is_some() && free.of(metric) < self.low.of(metric));
        if !is_low || std::mem::replace(&mut self.asked, true) {
            return None;
        }
        Some(Want {
            bucket: charge.bucket,
            ends_ms: charge.ends_ms,
            need: charge.reserved,
        })
    }
}

fn quarter(mut amounts: Amounts) -> Amounts {
    for metric in Metric::ALL {
        *amounts.of_mut(metric) /= 4;
    }
    amounts
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX / 4)
}
