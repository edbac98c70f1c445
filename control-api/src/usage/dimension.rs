//! By what sums are grouped.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::error::ApiError;
use crate::page::Value;

/// The most dimensions at once.
const MAX: usize = 3;

/// Something that sums are grouped by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Dimension {
    Day,
    Hour,
    User,
    Machine,
    Session,
    Provider,
    Model,
    Key,
}

impl Dimension {
    const ALL: [Self; 8] = [
        Self::Day,
        Self::Hour,
        Self::User,
        Self::Machine,
        Self::Session,
        Self::Provider,
        Self::Model,
        Self::Key,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Hour => "hour",
            Self::User => "user",
            Self::Machine => "machine",
            Self::Session => "session",
            Self::Provider => "provider",
            Self::Model => "model",
            Self::Key => "key",
        }
    }

    /// The column of the sums' tables.
    pub const fn column(self) -> &'static str {
        match self {
            Self::Day => "day_start",
            Self::Hour => "hour_start",
            Self::User => "user_id",
            Self::Machine => "machine_id",
            Self::Session => "session_id",
            Self::Provider => "provider",
            Self::Model => "model",
            Self::Key => "api_key_id",
        }
    }

    /// Whether the column is a number and not a text.
    const fn is_number(self) -> bool {
        matches!(self, Self::Day | Self::Hour | Self::User | Self::Key)
    }

    /// The names that are shown beside the id: what to select, and from which other table.
    pub const fn names(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::User => Some(("users.username", "LEFT JOIN users ON users.id = sums.user_id")),
            Self::Machine => Some((
                "remote_machines.machine_name",
                "LEFT JOIN remote_machines ON remote_machines.machine_id = sums.machine_id",
            )),
            Self::Key => Some((
                "api_key_store.key_name",
                "LEFT JOIN api_key_store ON api_key_store.id = sums.api_key_id",
            )),
            _ => None,
        }
    }

    /// The fields of an answer's rows.
    pub const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Day => &["day"],
            Self::Hour => &["hour"],
            Self::User => &["user_id", "username"],
            Self::Machine => &["machine_id", "machine_name"],
            Self::Session => &["session_id"],
            Self::Provider => &["provider"],
            Self::Model => &["model"],
            Self::Key => &["api_key_id", "key_name"],
        }
    }

    /// The row's value, for a cursor.
    fn value(self, row: &AnyRow) -> Result<Json, sqlx::Error> {
        if self.is_number() {
            return row.try_get::<i64, _>(self.column()).map(Json::from);
        }
        row.try_get::<String, _>(self.column()).map(Json::from)
    }

    fn bindable(self, value: Json) -> Option<Value> {
        match value {
            Json::Number(number) if self.is_number() => number.as_i64().map(Value::Number),
            Json::String(text) if !self.is_number() && !text.contains('\0') => Some(Value::Text(text)),
            _ => None,
        }
    }
}

impl FromStr for Dimension {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|dimension| dimension.as_str() == name)
            .ok_or(())
    }
}

/// What `group_by` asks for: a list with commas, each once, in the order in which rows are sorted. Empty is one total.
pub(super) fn parse(text: &str) -> Result<Vec<Dimension>, ApiError> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut dimensions = Vec::new();
    for name in names {
        let dimension = name.parse().map_err(|()| unknown(name))?;
        if dimensions.contains(&dimension) {
            return Err(ApiError::field("group_by", format_args!("'{name}' is there twice")));
        }
        dimensions.push(dimension);
    }
    if dimensions.len() > MAX {
        return Err(ApiError::field("group_by", format_args!("at most {MAX} dimensions")));
    }
    Ok(dimensions)
}

fn unknown(name: &str) -> ApiError {
    let known = Dimension::ALL.map(Dimension::as_str).join(", ");
    ApiError::field(
        "group_by",
        format_args!("unknown dimension '{name}'; there are {known}"),
    )
}

/// Where a page of sums ended: the dimensions of its last row. Opaque to clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place(Vec<Json>);

impl Place {
    pub fn of(row: &AnyRow, dimensions: &[Dimension]) -> Result<Self, sqlx::Error> {
        dimensions
            .iter()
            .map(|dimension| dimension.value(row))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The values to go on above. Errors: 400 for the place of another question.
    pub fn values(self, dimensions: &[Dimension]) -> Result<Vec<Value>, ApiError> {
        let fits = self.0.len() == dimensions.len() && !dimensions.is_empty();
        let pairs = dimensions.iter().zip(self.0);
        let values: Option<Vec<Value>> = pairs.map(|(dimension, value)| dimension.bindable(value)).collect();
        let values = values.filter(|_| fits);
        values.ok_or_else(|| {
            ApiError::field(
                "after",
                "must be the `next` of the page before, asked with the same group_by",
            )
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(Json::from(self.0.clone()).to_string()))
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bytes = hex::decode(text).map_err(drop)?;
        serde_json::from_slice(&bytes).map(Self).map_err(drop)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dimensions_are_a_list_with_commas() {
        assert_eq!(parse("day, model").unwrap(), [Dimension::Day, Dimension::Model]);
        assert_eq!(parse("").unwrap(), []);
        for name in Dimension::ALL {
            assert_eq!(parse(name.as_str()).unwrap(), [name]);
            assert_eq!(json!(name), json!(name.as_str()));
        }
    }

    #[test]
    fn what_cannot_be_grouped_by_is_named() {
        for (text, problem) in [
            ("day,colour", "'colour'"),
            ("day,day", "twice"),
            ("day,user,model,key", "at most 3"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("group_by: ") && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_place_reads_back_and_fits_its_own_question_only() {
        let place = Place(vec![json!(5), json!("a \"model\"")]);
        assert_eq!(place.to_string().parse(), Ok(place.clone()));
        let asked = [Dimension::User, Dimension::Model];
        assert_eq!(place.clone().values(&asked).unwrap().len(), 2);
        for other in [&asked[..1], &[Dimension::Model, Dimension::User], &[]] {
            assert!(place.clone().values(other).is_err());
        }
        assert!("zz".parse::<Place>().is_err());
    }
}
