//! A point in time at the edge: milliseconds in the database, RFC 3339 in UTC on the wire.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

/// UTC milliseconds since 1970, written as `2026-01-31T12:00:00.000Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ToSchema)]
#[schema(value_type = String, format = DateTime)]
pub struct When(pub i64);

impl When {
    /// From whole seconds, as tokens carry them.
    pub fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Reads any RFC 3339 time, whatever its offset.
    pub fn parse(text: &str) -> Option<Self> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }

    fn to_text(self) -> Option<String> {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).ok()?;
        let (hour, minute, second) = time.to_hms();
        let date = time.date();
        Some(format!(
            "{date}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            time.millisecond()
        ))
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_text() {
            Some(text) => f.pad(&text),
            None => write!(f, "{} ms", self.0),
        }
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_text().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("expected an RFC 3339 time such as 2026-01-31T12:00:00Z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_and_read_from_any_zone() {
        let noon = When(1_769_860_800_123);
        assert_eq!(serde_json::to_string(&noon).unwrap(), "\"2026-01-31T12:00:00.123Z\"");
        for same in ["2026-01-31T12:00:00.123Z", "2026-01-31T20:00:00.123+08:00"] {
            assert_eq!(When::parse(same), Some(noon));
        }
        assert_eq!(When::parse("yesterday"), None);
    }
}
