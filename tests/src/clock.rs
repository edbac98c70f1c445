//! The time of day, where a story has to mind it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The name of a time zone in which it is between half past eleven and half past twelve.
pub(crate) fn zone_of_noon() -> String {
    let hour = (since_1970().as_secs() / 1800).div_ceil(2) % 24;
    // The signs of these names are the other way round: Etc/GMT-3 is three hours ahead.
    match i64::try_from(hour).unwrap_or(0) - 12 {
        0 => "UTC".to_owned(),
        behind => format!("Etc/GMT{behind:+}"),
    }
}

/// The start of chance: another one in every run.
pub(crate) fn seed() -> u64 {
    u64::from(since_1970().subsec_nanos()) << 20 | u64::from(std::process::id())
}

#[expect(clippy::disallowed_methods, reason = "stories run against the real clock")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
