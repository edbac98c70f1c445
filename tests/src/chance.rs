//! Chance that can be had again: whoever sees a story fail finds its seed in the output.

use std::time::Duration;

/// A source of numbers that look random (xorshift).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Another one in every run, whose seed is printed; `OPENACE_TEST_SEED` gives one of before again.
    #[expect(clippy::disallowed_methods, reason = "the seed is a setting of the stories")]
    pub fn new() -> Self {
        let given = std::env::var("OPENACE_TEST_SEED").ok();
        let seed = given
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(crate::clock::seed);
        println!("OPENACE_TEST_SEED={seed}");
        Self::of(seed)
    }

    pub fn of(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from `low` to below `high`.
    pub fn number(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + (self.0 >> 11) % (high - low)
    }

    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.number(low, high))
    }

    /// Something that happens in so many of a hundred cases.
    pub fn happens(&mut self, percent: u64) -> bool {
        self.number(0, 100) < percent
    }

    /// Another source, that goes its own way.
    pub fn fork(&mut self) -> Self {
        Self::of(self.number(0, u64::MAX >> 11))
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}
