//! Wall clock and request ids: the one place that asks the machine for them.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::{Builder, Uuid};

/// UTC milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// UTC seconds since 1970.
pub fn now_s() -> i64 {
    now_ms() / 1000
}

thread_local! {
    /// 128 random bits of the thread, and how many ids it has made of them.
    static SEED: (u64, u64) = Uuid::new_v4().as_u64_pair();
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// A fresh id (UUID version 7). Unique, not secret: per thread it is random once and counts from there, because a system call
/// a request would be the most expensive part of it.
pub fn request_id(at_ms: i64) -> Uuid {
    let count = MADE.replace(MADE.get().wrapping_add(1));
    let (high, low) = SEED.with(|seed| *seed);
    let mut random = [0; 10];
    random[..2].copy_from_slice(&high.to_le_bytes()[..2]);
    random[2..].copy_from_slice(&mix(low.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ high).to_le_bytes());
    Builder::from_unix_timestamp_millis(u64::try_from(at_ms).unwrap_or(0), &random).into_uuid()
}

/// The finaliser of splitmix64, a bijection: different counts give different ids.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn request_ids_are_unique_across_threads() {
        let make = || (0..10_000).map(|_| request_id(5)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let ids: HashSet<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("ran"))
            .collect();
        assert_eq!(ids.len(), 40_000);
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
    }
}
