//! Lists in pages, by key and not by number: a page costs the same however far down it is, and nothing is shown twice
//! because something was added meanwhile.

use std::fmt::{self, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sqlx::any::AnyRow;
use sqlx::{AnyPool, AssertSqlSafe};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::error::ApiError;

/// How many rows a page has when nothing is said.
const DEFAULT_LIMIT: i64 = 50;

/// The longest page.
pub(crate) const MAX_LIMIT: i64 = 500;

/// The number of rows asked for, within its bounds.
pub(crate) fn limit(asked: Option<i64>) -> Result<i64, ApiError> {
    limit_of(asked.unwrap_or(DEFAULT_LIMIT), MAX_LIMIT)
}

/// The number of rows, when it is within bounds of its own.
pub(crate) fn limit_of(asked: i64, max: i64) -> Result<i64, ApiError> {
    let problem = || ApiError::field("limit", format_args!("must be between 1 and {max}"));
    (1..=max).contains(&asked).then_some(asked).ok_or_else(problem)
}

/// Where a page ended: the sort key and id of its last row. Opaque to clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cursor {
    pub key: i64,
    pub id: i64,
}

impl PartialSchema for Cursor {
    fn schema() -> RefOr<Schema> {
        String::schema()
    }
}

impl ToSchema for Cursor {}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (key, id) = text.split_once('.').ok_or(())?;
        Ok(Self {
            key: key.parse().map_err(drop)?,
            id: id.parse().map_err(drop)?,
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.key, self.id)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|()| D::Error::custom("expected the `next` of the page before"))
    }
}

/// The rows of one page, and whether there are more.
pub(crate) struct Rows {
    pub rows: Vec<AnyRow>,
    pub more: bool,
}

/// The WHERE of a list: only the filters that were asked for, so that the engine can use its indexes.
#[derive(Default)]
pub(crate) struct Filter {
    clauses: String,
    values: Vec<Value>,
}

pub(crate) enum Value {
    Number(i64),
    Text(String),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Number(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl Filter {
    /// Adds `<test> $n`, such as `"status = "`.
    pub fn and(&mut self, test: &'static str, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.clause(format_args!("{test} ${}", self.values.len()))
    }

    /// Adds the test only when there is a value to test for.
    pub fn and_if(&mut self, test: &'static str, value: Option<impl Into<Value>>) -> &mut Self {
        match value {
            Some(value) => self.and(test, value),
            None => self,
        }
    }

    /// Goes on below a cursor; `columns` is the sort key and the id, such as `"(at, id)"`, newest first.
    pub fn below(&mut self, columns: &'static str, cursor: Option<Cursor>) -> &mut Self {
        let Some(cursor) = cursor else { return self };
        self.values
            .extend([Value::Number(cursor.key), Value::Number(cursor.id)]);
        let last = self.values.len();
        self.clause(format_args!("{columns} < (${}, ${last})", last - 1))
    }

    /// Goes on above a row: `columns` are what is sorted by, smallest first, and `values` the row's.
    pub fn above(&mut self, columns: &[&'static str], values: Vec<Value>) -> &mut Self {
        let first = self.values.len() + 1;
        self.values.extend(values);
        let places: Vec<_> = (first..=self.values.len()).map(|place| format!("${place}")).collect();
        self.clause(format_args!("({}) > ({})", columns.join(", "), places.join(", ")))
    }

    /// Goes on below a row: `columns` are what is sorted by, greatest first, and `values` the row's.
    pub fn below_row(&mut self, columns: &[&'static str], values: Vec<Value>) -> &mut Self {
        let places: Vec<_> = values
            .into_iter()
            .map(|value| format!("${}", self.bind(value)))
            .collect();
        self.clause(format_args!("({}) < ({})", columns.join(", "), places.join(", ")))
    }

    /// Adds that a text holds another, in whatever case it is written. SQLite folds ASCII alone: hence also the text as it is.
    pub fn holds(&mut self, column: &'static str, text: &str) -> &mut Self {
        let literal = |text: &str| {
            let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
            format!("%{escaped}%")
        };
        let (folded, as_is) = (literal(&text.to_lowercase()), literal(text));
        let (folded, as_is) = (self.bind(Value::Text(folded)), self.bind(Value::Text(as_is)));
        self.clause(format_args!(
            "(LOWER({column}) LIKE ${folded} ESCAPE '\\' OR {column} LIKE ${as_is} ESCAPE '\\')"
        ))
    }

    /// Adds a test that needs no value.
    pub fn also(&mut self, test: &'static str) -> &mut Self {
        self.clause(format_args!("{test}"))
    }

    /// Binds a value that other parts of the statement test for, and tells its place.
    pub fn bind(&mut self, value: impl Into<Value>) -> usize {
        self.values.push(value.into());
        self.values.len()
    }

    /// The WHERE itself, with `$1` for the first value; empty where everything is asked for.
    pub fn clauses(&self) -> &str {
        &self.clauses
    }

    /// The same tests behind others.
    pub fn further(&self) -> String {
        self.clauses.replacen("WHERE", " AND", 1)
    }

    /// Fetches one page, and looks one row further to tell whether there are more.
    pub async fn page(
        &self,
        pool: &AnyPool,
        select: &'static str,
        order: &'static str,
        limit: i64,
    ) -> Result<Rows, sqlx::Error> {
        let sql = format!("{select} {} ORDER BY {order} LIMIT {}", self.clauses, limit + 1);
        self.rows(pool, sql, limit).await
    }

    /// Fetches the rows of a statement that has the [`clauses`](Self::clauses) in it, once or more often, and looks one row further than
    /// `limit`. Every part of its text must be a constant of ours or a number; other values are bound.
    pub async fn rows(&self, pool: &AnyPool, sql: String, limit: i64) -> Result<Rows, sqlx::Error> {
        let query = sqlx::query(AssertSqlSafe(sql));
        let query = self.values.iter().fold(query, |query, value| match value {
            Value::Number(number) => query.bind(*number),
            Value::Text(text) => query.bind(text.clone()),
        });
        let mut rows = query.fetch_all(pool).await?;
        let wanted = usize::try_from(limit).unwrap_or_default();
        let more = rows.len() > wanted;
        rows.truncate(wanted);
        Ok(Rows { rows, more })
    }

    fn clause(&mut self, clause: std::fmt::Arguments<'_>) -> &mut Self {
        let joint = if self.clauses.is_empty() { "WHERE" } else { " AND" };
        write!(self.clauses, "{joint} {clause}").expect("writing to a String cannot fail");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_what_it_writes() {
        let cursor = Cursor {
            key: 1_700_000_000_000,
            id: 42,
        };
        let text = serde_json::to_string(&cursor).unwrap();
        assert_eq!(serde_json::from_str::<Cursor>(&text).unwrap(), cursor);
        assert!("x.1".parse::<Cursor>().is_err());
    }

    #[test]
    fn only_what_was_asked_for_is_tested() {
        let mut filter = Filter::default();
        filter
            .and("user_id =", 7)
            .and_if("provider =", None::<&str>)
            .below("(at, id)", Some(Cursor { key: 1, id: 2 }));
        assert_eq!(filter.clauses, "WHERE user_id = $1 AND (at, id) < ($2, $3)");
        assert_eq!(filter.further(), " AND user_id = $1 AND (at, id) < ($2, $3)");
        assert_eq!(Filter::default().further(), "");
        filter.above(
            &["day_start", "model"],
            vec![Value::Number(1), Value::Text("m".to_owned())],
        );
        assert!(filter.clauses.ends_with(" AND (day_start, model) > ($4, $5)"));
        filter.below_row(&["at", "name"], vec![Value::Number(1), Value::Text("m".to_owned())]);
        assert!(filter.clauses.ends_with(" AND (at, name) < ($6, $7)"));
        filter.holds("title", "50%").also("done = 1");
        let holds = r" AND (LOWER(title) LIKE $8 ESCAPE '\' OR title LIKE $9 ESCAPE '\') AND done = 1";
        assert!(filter.clauses.ends_with(holds), "{}", filter.clauses);
        assert!(matches!(&filter.values[7], Value::Text(text) if text == r"%50\%%"));
    }

    #[test]
    fn the_length_of_a_page_is_bounded() {
        assert_eq!(limit(None).unwrap(), 50);
        assert_eq!(limit(Some(500)).unwrap(), 500);
        for wrong in [0, -1, 501] {
            assert!(limit(Some(wrong)).is_err());
        }
    }
}
