//! What a request is charged to: the buckets in which something is limited.

use ace_policies::quota::{Account, Amounts, Bucket, Day, Limit, Metric};

/// A share of a bucket that a request takes: only of metrics that are limited there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Charge {
    /// The bucket.
    pub bucket: Bucket,
    /// Where the period ends, UTC milliseconds; `None` for what is open.
    pub ends_ms: Option<i64>,
    /// What is limited in it, by metric.
    pub caps: Caps,
    /// How much of it is reserved.
    pub reserved: Amounts,
}

/// The limits of one bucket: at most one for each metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caps([Option<Limit>; 3]);

impl Caps {
    /// The limit on a metric.
    pub const fn of(&self, metric: Metric) -> Option<Limit> {
        self.0[metric as usize]
    }

    /// What of `amounts` is limited here.
    pub fn limited(&self, mut amounts: Amounts) -> Amounts {
        for metric in Metric::ALL {
            if self.of(metric).is_none() {
                *amounts.of_mut(metric) = 0;
            }
        }
        amounts
    }
}

/// The charges of a request: one for each bucket in which something is limited.
pub fn charges<'l>(
    accounts: impl Iterator<Item = (Account, &'l [Limit])>,
    day: &Day,
    at_ms: i64,
    estimate: Amounts,
) -> Vec<Charge> {
    let mut charges: Vec<Charge> = Vec::new();
    for (account, limits) in accounts {
        for limit in limits {
            let period = limit.name.period();
            let (start_ms, ends_ms) = day.bounds(period, at_ms);
            let bucket = Bucket {
                account,
                period,
                start_ms,
            };
            let at = charges
                .iter()
                .position(|charge| charge.bucket == bucket)
                .unwrap_or(charges.len());
            if at == charges.len() {
                charges.reserve(8);
                charges.push(Charge {
                    bucket,
                    ends_ms,
                    caps: Caps::default(),
                    reserved: Amounts::default(),
                });
            }
            charges[at].caps.0[limit.name.metric() as usize] = Some(*limit);
        }
    }
    for charge in &mut charges {
        charge.reserved = charge.caps.limited(estimate);
    }
    charges
}

/// Leaves limits of a dry run out of account. Gives whether there were any.
pub fn leave_out_dry_runs(charges: &mut Vec<Charge>) -> bool {
    let mut any = false;
    for charge in charges.iter_mut() {
        for cap in &mut charge.caps.0 {
            any |= cap.take_if(|limit| limit.dry_run).is_some();
        }
        charge.reserved = charge.caps.limited(charge.reserved);
    }
    charges.retain(|charge| charge.caps != Caps::default());
    any
}
