//! How long to wait before the next attempt.

use std::time::Duration;

/// A connection that lasted so long counts as stable: the next wait is a short one again.
pub(super) const STABLE: Duration = Duration::from_secs(30);
/// Where trying again soon is of no use: somebody has to change something at the server.
const LONG: Duration = Duration::from_secs(300);
/// Waits differ by this part of themselves, so that a thousand agents do not come at the same moment.
const JITTER: f64 = 0.2;

/// Waits that double, from a base to a limit.
pub(super) struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, failures: 0 }
    }

    /// The next wait; `chance` is from 0 to 1, `least` what the server asked for.
    pub fn next(&mut self, chance: f64, least: Option<Duration>) -> Duration {
        let doubled = self.base.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        let jittered = doubled.min(self.max).mul_f64(1.0 - JITTER + 2.0 * JITTER * chance);
        jittered.min(self.max).max(least.unwrap_or_default().min(LONG))
    }

    /// A wait for people to act.
    pub fn long(&mut self, chance: f64) -> Duration {
        self.failures += 1;
        LONG.max(self.max).mul_f64(1.0 - JITTER * chance)
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut next = |chance| backoff.next(chance, None).as_secs_f64();
        let waits: Vec<f64> = (0..8).map(|_| next(0.5)).collect();
        assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
        assert_eq!((next(0.0), next(1.0)), (48.0, 60.0));
        backoff.reset();
        let first = backoff.next(0.0, None);
        assert_eq!(first, Duration::from_millis(800));
        assert_eq!(
            backoff.next(0.5, Some(Duration::from_secs(20))),
            Duration::from_secs(20)
        );
        assert!(backoff.long(1.0) >= Duration::from_secs(200));
        for _ in 0..100 {
            assert!(backoff.next(1.0, None) <= Duration::from_secs(60));
        }
    }
}
