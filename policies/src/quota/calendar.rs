//! Where periods begin and end, in the configured time zone.

use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan, Zoned};

use super::Period;

const MINUTE_MS: i64 = 60_000;

/// How long a fortnight is, in milliseconds.
pub const FORTNIGHT_MS: i64 = 14 * 24 * 60 * MINUTE_MS;

/// Where the fortnight begins that a day belongs to; the day by where it begins itself, both UTC milliseconds.
///
/// Fortnights follow each other from 1970-01-01 UTC on, whatever the time zone: so each day belongs to one, also after the time zone
/// was changed. Months would have to be cut anew.
pub const fn fortnight(day_start_ms: i64) -> i64 {
    day_start_ms - day_start_ms.rem_euclid(FORTNIGHT_MS)
}

/// Days and months of a time zone.
#[derive(Clone, Debug)]
pub struct Calendar(TimeZone);

/// A calendar day and its month. All times in UTC milliseconds; ends are where the next begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Day {
    /// Where the day begins.
    pub start_ms: i64,
    /// Where it ends.
    pub end_ms: i64,
    /// Where its month begins.
    pub month_start_ms: i64,
    /// Where its month ends.
    pub month_end_ms: i64,
}

/// The name is no time zone's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown time zone '{0}'; use a name of the IANA database such as UTC, Europe/Berlin or Asia/Shanghai")]
pub struct UnknownTimeZone(pub String);

impl Calendar {
    /// The calendar of a time zone by its IANA name.
    pub fn new(time_zone: &str) -> Result<Self, UnknownTimeZone> {
        let zone = TimeZoneDatabase::bundled().get(time_zone);
        zone.map(Self).map_err(|_| UnknownTimeZone(time_zone.to_owned()))
    }

    /// The calendar of UTC.
    pub const fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The IANA name of its time zone.
    pub fn time_zone(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The day that a moment falls into.
    pub fn day(&self, at_ms: i64) -> Day {
        let at = Timestamp::from_millisecond(at_ms).unwrap_or_default();
        self.day_of(&at.to_zoned(self.0.clone())).unwrap_or_default()
    }

    fn day_of(&self, at: &Zoned) -> Result<Day, jiff::Error> {
        let ms = |at: &Zoned| at.timestamp().as_millisecond();
        let day = at.start_of_day()?;
        let month = day.first_of_month()?.start_of_day()?;
        Ok(Day {
            start_ms: ms(&day),
            end_ms: ms(&day.checked_add(1.day())?.start_of_day()?),
            month_start_ms: ms(&month),
            month_end_ms: ms(&month.checked_add(1.month())?.start_of_day()?),
        })
    }

    /// The day that a date such as `2026-01-31` stands for. `None` for what is no date.
    pub fn date(&self, text: &str) -> Option<Day> {
        let date: Date = text.parse().ok()?;
        self.day_of(&date.to_zoned(self.0.clone()).ok()?).ok()
    }

    /// Where a kind of period that a moment falls into begins and ends. `Open` has no end.
    pub fn bounds(&self, period: Period, at_ms: i64) -> (i64, Option<i64>) {
        self.day(at_ms).bounds(period, at_ms)
    }
}

impl Day {
    /// Whether a moment falls into it.
    pub const fn holds(&self, at_ms: i64) -> bool {
        self.start_ms <= at_ms && at_ms < self.end_ms
    }

    /// Where the kind of period that a moment of this day falls into begins and ends. `Open` has no end.
    pub const fn bounds(&self, period: Period, at_ms: i64) -> (i64, Option<i64>) {
        match period {
            Period::Minute => {
                let start = at_ms - at_ms.rem_euclid(MINUTE_MS);
                (start, Some(start + MINUTE_MS))
            }
            Period::Day => (self.start_ms, Some(self.end_ms)),
            Period::Month => (self.month_start_ms, Some(self.month_end_ms)),
            Period::Open => (0, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[track_caller]
    fn check(zone: &str, at: &str, day: [&str; 2], month: [&str; 2]) {
        let found = Calendar::new(zone).unwrap().day(ms(at));
        let expected = Day {
            start_ms: ms(day[0]),
            end_ms: ms(day[1]),
            month_start_ms: ms(month[0]),
            month_end_ms: ms(month[1]),
        };
        assert_eq!(found, expected, "{zone} {at}");
        assert!(found.holds(ms(at)));
    }

    #[test]
    fn days_and_months_begin_by_the_clock_of_the_time_zone() {
        let november = ["2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"];
        check(
            "UTC",
            "2026-11-21T10:00:00Z",
            ["2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"],
            november,
        );
        let shanghai = ["2026-10-31T16:00:00Z", "2026-11-30T16:00:00Z"];
        check(
            "Asia/Shanghai",
            "2026-11-21T16:00:00Z",
            ["2026-11-21T16:00:00Z", "2026-11-22T16:00:00Z"],
            shanghai,
        );
        check(
            "Asia/Shanghai",
            "2026-11-21T15:59:59.999Z",
            ["2026-11-20T16:00:00Z", "2026-11-21T16:00:00Z"],
            shanghai,
        );
    }

    #[test]
    fn a_day_on_which_clocks_change_is_longer_or_shorter() {
        let october = ["2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"];
        check(
            "Europe/Berlin",
            "2026-10-25T12:00:00Z",
            ["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"],
            october,
        );
        let march = ["2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"];
        check(
            "Europe/Berlin",
            "2026-03-29T12:00:00Z",
            ["2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"],
            march,
        );
    }

    #[test]
    fn a_date_is_a_day_of_the_time_zone() {
        for zone in ["UTC", "Pacific/Auckland", "America/Los_Angeles"] {
            let calendar = Calendar::new(zone).unwrap();
            let day = calendar.date("2026-01-31").unwrap();
            assert_eq!(calendar.day(day.start_ms), day, "{zone}");
        }
        assert_eq!(
            Calendar::utc().date("2026-01-31").unwrap().start_ms,
            ms("2026-01-31T00:00:00Z")
        );
        for wrong in ["2026-02-30", "yesterday", "", "5"] {
            assert_eq!(Calendar::utc().date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_day_belongs_to_the_fortnight_in_which_it_begins() {
        let (begins, next) = (ms("2026-01-15T00:00:00Z"), ms("2026-01-29T00:00:00Z"));
        assert_eq!((begins % FORTNIGHT_MS, next - begins), (0, FORTNIGHT_MS));
        assert_eq!(fortnight(begins), begins);
        assert_eq!(fortnight(next), next);
        // In Shanghai the last day of a fortnight ends in the next one.
        let last = Calendar::new("Asia/Shanghai").unwrap().day(next - 1);
        assert!(last.end_ms > next);
        assert_eq!(fortnight(last.start_ms), begins);
        assert_eq!(fortnight(-1), -FORTNIGHT_MS);
    }

    #[test]
    fn minutes_are_the_clocks_and_what_is_open_has_no_end() {
        let calendar = Calendar::utc();
        let at = ms("2026-11-21T10:07:31.5Z");
        let minute = (ms("2026-11-21T10:07:00Z"), Some(ms("2026-11-21T10:08:00Z")));
        assert_eq!(calendar.bounds(Period::Minute, at), minute);
        assert_eq!(calendar.bounds(Period::Open, at), (0, None));
    }

    #[test]
    fn an_unknown_zone_says_what_would_do() {
        let error = Calendar::new("Mars/Olympus").unwrap_err().to_string();
        assert!(error.contains("Mars/Olympus") && error.contains("IANA"), "{error}");
        for known in ["UTC", "Asia/Shanghai"] {
            assert_eq!(Calendar::new(known).unwrap().time_zone(), known);
        }
    }
}
