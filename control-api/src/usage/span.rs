//! Which time sums are asked for, and whether they are made of days or of hours. Pure.

use ace_policies::quota::Calendar;
use serde::Serialize;
use utoipa::ToSchema;

use super::dimension::Dimension;
use crate::error::ApiError;
use crate::when::When;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How many days are shown when nothing is said, today included.
const DEFAULT_DAYS: i64 = 30;

/// What one row of the sums covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Resolution {
    /// Days in the configured time zone. Only they know sessions.
    Day,
    /// Hours in UTC.
    Hour,
}

impl Resolution {
    /// The table of the sums. Those by session are apart: there are many of them, and whoever does not ask for them need not wait for them.
    pub const fn table(self, by_session: bool) -> &'static str {
        match self {
            Self::Day if by_session => "usage_sessions",
            Self::Day => "usage_daily",
            Self::Hour => "usage_hourly",
        }
    }

    /// The tables' column of where the time begins.
    pub const fn time(self) -> &'static str {
        match self {
            Self::Day => "day_start",
            Self::Hour => "hour_start",
        }
    }
}

/// A span of time: `from` is in it, `to` is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(super) struct Span {
    pub from: When,
    pub to: When,
}

impl Span {
    /// The span that is asked for; the last 30 days when nothing is said.
    pub fn asked(from: Option<When>, to: Option<When>, calendar: &Calendar, now: i64) -> Result<Self, ApiError> {
        let to = to.unwrap_or(When(now));
        let from = from.unwrap_or_else(|| When(days_before(calendar, to.0, DEFAULT_DAYS - 1)));
        if from >= to {
            return Err(ApiError::field("to", "must be later than from"));
        }
        Ok(Self { from, to })
    }

    /// Whether no time is in it.
    pub fn is_empty(self) -> bool {
        self.from >= self.to
    }

    /// The span of whole days or hours that holds this one.
    pub fn rounded(self, resolution: Resolution, calendar: &Calendar) -> Self {
        let bounds = |at: i64| match resolution {
            Resolution::Day => (calendar.day(at).start_ms, calendar.day(at).end_ms),
            Resolution::Hour => (at - at.rem_euclid(HOUR_MS), at - at.rem_euclid(HOUR_MS) + HOUR_MS),
        };
        let (end_start, end_end) = bounds(self.to.0);
        Self {
            from: When(bounds(self.from.0).0),
            to: When(if end_start == self.to.0 { end_start } else { end_end }),
        }
    }

    /// Days where only they can answer (`day`, `session`) or are exact and fewer (whole days, more than two); hours else.
    pub fn resolution(
        self,
        dimensions: &[Dimension],
        by_session: bool,
        calendar: &Calendar,
        now: i64,
    ) -> Result<Resolution, ApiError> {
        let by_hour = dimensions.contains(&Dimension::Hour);
        if by_hour && by_session {
            return Err(ApiError::field(
                "group_by",
                "sums of sessions are kept by day: leave out hour",
            ));
        }
        if by_hour && dimensions.contains(&Dimension::Day) {
            return Err(ApiError::field(
                "group_by",
                "an hour tells its day: leave out one of day and hour",
            ));
        }
        let days = by_session || dimensions.contains(&Dimension::Day) || self.is_whole_days(calendar, now);
        Ok(if days && !by_hour {
            Resolution::Day
        } else {
            Resolution::Hour
        })
    }

    fn is_whole_days(self, calendar: &Calendar, now: i64) -> bool {
        let begins_day = |at: i64| calendar.day(at).start_ms == at;
        // Of what has not happened yet there is nothing that would be too much.
        let whole = begins_day(self.from.0) && (begins_day(self.to.0) || self.to.0 >= now);
        whole && self.to.0.saturating_sub(self.from.0) > 2 * DAY_MS
    }
}

/// Where the day begins that is so many days before that of `at`.
fn days_before(calendar: &Calendar, at: i64, days: i64) -> i64 {
    // From noon to noon: days on which clocks change are an hour longer or shorter.
    let noon = calendar.day(at).start_ms.saturating_add(DAY_MS / 2);
    calendar.day(noon.saturating_sub(days * DAY_MS)).start_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> Calendar {
        Calendar::new("Europe/Berlin").unwrap()
    }

    fn at(text: &str) -> When {
        When::parse(text).unwrap()
    }

    fn span(from: &str, to: &str) -> Span {
        Span {
            from: at(from),
            to: at(to),
        }
    }

    const NOW: &str = "2026-04-10T10:30:00Z";

    #[track_caller]
    fn check(asked: Span, dimensions: &[Dimension], expected: Resolution, covered: Span) {
        let by_session = dimensions.contains(&Dimension::Session);
        let found = asked.resolution(dimensions, by_session, &berlin(), at(NOW).0).unwrap();
        assert_eq!((found, asked.rounded(found, &berlin())), (expected, covered));
    }

    #[test]
    fn the_last_thirty_days_are_whole_days_even_over_a_change_of_clocks() {
        let asked = Span::asked(None, None, &berlin(), at(NOW).0).unwrap();
        assert_eq!(asked, span("2026-03-11T23:00:00Z", NOW));
        check(
            asked,
            &[],
            Resolution::Day,
            span("2026-03-11T23:00:00Z", "2026-04-10T22:00:00Z"),
        );
    }

    #[test]
    fn a_span_of_whole_days_comes_from_days_and_any_other_from_hours() {
        let days = span("2026-04-01T22:00:00Z", "2026-04-04T22:00:00Z");
        check(days, &[Dimension::User], Resolution::Day, days);
        check(days, &[Dimension::Hour], Resolution::Hour, days);
        let short = span("2026-04-01T22:00:00Z", "2026-04-03T22:00:00Z");
        check(short, &[], Resolution::Hour, short);
        let odd = span("2026-04-01T21:30:00Z", "2026-04-07T00:00:00.001Z");
        check(
            odd,
            &[],
            Resolution::Hour,
            span("2026-04-01T21:00:00Z", "2026-04-07T01:00:00Z"),
        );
    }

    #[test]
    fn days_and_sessions_come_from_days_rounded_outwards() {
        let odd = span("2026-04-01T21:30:00Z", "2026-04-02T00:00:00Z");
        let days = span("2026-03-31T22:00:00Z", "2026-04-02T22:00:00Z");
        for dimension in [Dimension::Day, Dimension::Session] {
            check(odd, &[dimension], Resolution::Day, days);
        }
        assert_eq!(odd.resolution(&[], true, &berlin(), 0).unwrap(), Resolution::Day);
    }

    #[test]
    fn what_no_table_can_answer_is_refused() {
        let odd = span("2026-04-01T21:30:00Z", "2026-04-02T00:00:00Z");
        let hour_and_day = [Dimension::Hour, Dimension::Day];
        assert!(odd.resolution(&hour_and_day, false, &berlin(), 0).is_err());
        assert!(odd.resolution(&[Dimension::Hour], true, &berlin(), 0).is_err());
        assert!(Span::asked(Some(at(NOW)), Some(at(NOW)), &berlin(), 0).is_err());
    }
}
