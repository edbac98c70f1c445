//! Percentiles and medians.

use std::time::Duration;

use serde::Serialize;

/// Latencies in nanoseconds, all of them kept: a run has at most some millions.
#[derive(Default)]
pub struct Latencies(Vec<u64>);

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Percentiles {
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        self.0.push(latency.as_nanos() as u64);
    }

    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn percentiles(&mut self) -> Percentiles {
        self.0.sort_unstable();
        let at = |share: f64| match self.0.len() {
            0 => 0.0,
            len => self.0[((len as f64 * share) as usize).min(len - 1)] as f64 / 1000.0,
        };
        Percentiles {
            p50_us: at(0.50),
            p99_us: at(0.99),
        }
    }
}

/// The middle of `values`, or between the middle two; 0 when there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    match values.len() {
        0 => 0.0,
        len => (at((len - 1) / 2) + at(len / 2)) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut latencies = Latencies::default();
        for us in (1..=100).rev() {
            latencies.record(Duration::from_micros(us));
        }
        let percentiles = latencies.percentiles();
        assert_eq!((percentiles.p50_us, percentiles.p99_us), (51.0, 100.0));
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![1.0, 4.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }
}
