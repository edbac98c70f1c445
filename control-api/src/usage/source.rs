//! From which tables sums are read, and how. Pure: text of statements comes out.

use ace_migrations::Engine;
use ace_policies::quota::{FORTNIGHT_MS, fortnight};

use super::Tokens;
use super::span::{Resolution, Span};
use crate::page::Filter;
use crate::when::When;

/// A table of sums, and which of its rows: those whose time begins in a span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Source {
    table: &'static str,
    /// Its column of where the time begins.
    time: &'static str,
    span: Span,
}

/// Whole days or hours that are to be added up.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub resolution: Resolution,
    pub covered: Span,
    pub by_session: bool,
    /// The columns that are grouped by.
    pub columns: &'a [&'static str],
    /// The most sums that are wanted.
    pub limit: i64,
}

/// Behind the time in the keys of the tables, and there are few of them. Behind them come people and machines.
const FEW: [&str; 3] = ["model", "provider", "api_key_id"];

/// The columns of the tables that are added up, beside the tokens.
const MEASURES: [&str; 6] = [
    "requests",
    "errors",
    "estimated",
    "cost_micro_usd",
    "ttfb_ms",
    "duration_ms",
];

/// Sums of all that can be added up, each under its own name.
pub(super) fn measures() -> String {
    listed(|measure| format!("CAST(COALESCE(SUM({measure}), 0) AS BIGINT) AS {measure}"))
}

impl Asked<'_> {
    /// What is added up: a table for FROM with the columns that are asked for and the measures. `filter` holds what is asked for beside the
    /// time. The times stand in the text: where they are bound, PostgreSQL's generic plan expects few rows and is several times slower.
    pub fn rows(&self, filter: &Filter, engine: Engine) -> String {
        let tests = filter.further();
        let select = |Source { table, time, span }| {
            let (from, to) = (span.from.0, span.to.0);
            let rows = format!("FROM {table} WHERE {time} >= {from} AND {time} < {to}{tests}");
            let rows = match self.columns {
                ["session_id", ..] => format!("{rows} AND session_id IN ({})", self.first_sessions(&tests)),
                _ => rows,
            };
            self.select(time, &rows, engine)
        };
        let selects: Vec<_> = self.sources().into_iter().map(select).collect();
        format!("({}) AS parts", selects.join(" UNION ALL "))
    }

    /// The sessions that a page can be about: the first ones, as each has at least one sum. There may be a hundred times as many in all.
    ///
    /// Their table is kept in the order of their ids. For more than a fortnight it is walked along until there are enough, and not (by the
    /// sign) read by its days; for less there would be too many on the way that are of other days.
    fn first_sessions(&self, tests: &str) -> String {
        let (from, to) = (self.covered.from.0, self.covered.to.0);
        let time = if to - from > FORTNIGHT_MS {
            "+day_start"
        } else {
            "day_start"
        };
        format!(
            "SELECT session_id FROM usage_sessions WHERE {time} >= {from} AND {time} < {to}{tests} \
             GROUP BY session_id ORDER BY session_id LIMIT {}",
            self.limit
        )
    }

    /// Where it is read. A fortnight's sums take the place of those of its days, unless these are to be told apart.
    fn sources(&self) -> Vec<Source> {
        let table = self.resolution.table(self.by_session);
        let time = self.resolution.time();
        let all = Source {
            table,
            time,
            span: self.covered,
        };
        let fortnights = fortnights(self.covered);
        if table != "usage_daily" || self.columns.contains(&time) || fortnights.is_empty() {
            return vec![all];
        }
        let days = |from, to| Source {
            span: Span { from, to },
            ..all
        };
        let parts = [
            days(self.covered.from, fortnights.from),
            Source {
                table: "usage_fortnights",
                time: "fortnight_start",
                span: fortnights,
            },
            days(fortnights.to, self.covered.to),
        ];
        parts.into_iter().filter(|part| !part.span.is_empty()).collect()
    }

    /// The rows as they are, or for SQLite sums of them that are made on the way through the table's key. SQLite groups by sorting, and to
    /// sort the many rows is what would cost most; PostgreSQL groups by hashing, and would only do it twice.
    fn select(&self, time: &'static str, rows: &str, engine: Engine) -> String {
        let list = |measures: String| [self.columns, &[&measures]].concat().join(", ");
        match self.way(time) {
            Some(way) if engine == Engine::Sqlite => {
                format!("SELECT {} {rows} GROUP BY {}", list(measures()), way.join(", "))
            }
            _ => format!("SELECT {} {rows}", list(listed(str::to_owned))),
        }
    }

    /// The beginning of the table's key by which there are fewer sums than rows. Where people, machines or sessions are asked for, there
    /// would be nearly as many.
    fn way(&self, time: &'static str) -> Option<Vec<&'static str>> {
        let mut way = [&[time], &FEW[..]].concat();
        let last = way.iter().rposition(|column| self.columns.contains(column))?;
        way.truncate(last + 1);
        let shorter = way.len() > self.columns.len() && self.columns.iter().all(|column| way.contains(column));
        (shorter && !self.by_session).then_some(way)
    }
}

/// The whole fortnights in a span of days; empty where there are none. A day belongs to the one in which it begins.
fn fortnights(days: Span) -> Span {
    Span {
        from: When(fortnight(days.from.0.saturating_add(FORTNIGHT_MS - 1))),
        to: When(fortnight(days.to.0)),
    }
}

fn listed(item: impl Fn(&str) -> String) -> String {
    let all = MEASURES.iter().chain(&Tokens::COLUMNS);
    all.map(|measure| item(measure)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = FORTNIGHT_MS / 14;
    const HOUR: i64 = DAY / 24;

    fn span(from: i64, to: i64) -> Span {
        Span {
            from: When(from),
            to: When(to),
        }
    }

    /// Days and fortnights in the order in which they are read.
    #[track_caller]
    fn check(covered: Span, expected: &[(&str, i64, i64)]) {
        let asked = Asked {
            resolution: Resolution::Day,
            covered,
            by_session: false,
            columns: &["user_id"],
            limit: 1,
        };
        let found: Vec<_> = asked.sources().into_iter().map(read).collect();
        assert_eq!(found, expected);
    }

    fn read(source: Source) -> (&'static str, i64, i64) {
        (source.time, source.span.from.0, source.span.to.0)
    }

    #[test]
    fn whole_fortnights_take_the_place_of_their_days() {
        let (day, fortnight) = ("day_start", "fortnight_start");
        let (first, third) = (FORTNIGHT_MS, 3 * FORTNIGHT_MS);
        check(span(first, third), &[(fortnight, first, third)]);
        check(
            span(first, third + 1),
            &[(fortnight, first, third), (day, third, third + 1)],
        );
        check(
            span(first - DAY, third),
            &[(day, first - DAY, first), (fortnight, first, third)],
        );
        let (from, to) = (first - 8 * HOUR, third + 16 * HOUR);
        check(
            span(from, to),
            &[(day, from, first), (fortnight, first, third), (day, third, to)],
        );
        check(span(first + DAY, third - DAY), &[(day, first + DAY, third - DAY)]);
        check(
            span(first + DAY, first + 2 * DAY),
            &[(day, first + DAY, first + 2 * DAY)],
        );
    }

    #[test]
    fn what_fortnights_do_not_tell_apart_is_not_read_from_them() {
        let asked = |resolution, by_session, columns| Asked {
            resolution,
            covered: span(0, FORTNIGHT_MS),
            by_session,
            columns,
            limit: 1,
        };
        for (asked, table) in [
            (
                asked(Resolution::Day, false, &["day_start", "user_id"][..]),
                "usage_daily",
            ),
            (asked(Resolution::Day, true, &[]), "usage_sessions"),
            (asked(Resolution::Hour, false, &[]), "usage_hourly"),
            (asked(Resolution::Day, false, &[]), "usage_fortnights"),
        ] {
            let tables: Vec<_> = asked.sources().iter().map(|source| source.table).collect();
            assert_eq!(tables, [table]);
        }
    }

    #[test]
    fn sums_are_made_on_the_way_where_they_are_few() {
        let way = |columns| {
            let asked = Asked {
                resolution: Resolution::Day,
                covered: span(0, DAY),
                by_session: false,
                columns,
                limit: 1,
            };
            asked.way("day_start")
        };
        assert_eq!(way(&["model"]), Some(vec!["day_start", "model"]));
        assert_eq!(way(&["provider"]), Some(vec!["day_start", "model", "provider"]));
        for columns in [
            &[][..],
            &["day_start"],
            &["model", "day_start"],
            &["user_id"],
            &["model", "user_id"],
        ] {
            assert_eq!(way(columns), None, "{columns:?}");
        }
    }
}
