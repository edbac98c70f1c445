//! A line of output, whatever bytes it is made of.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::names::names;

/// A line of a session's output.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Its number: 1 for a session's first line, then one more each, across runs.
    pub seq: i64,
    /// Where it was printed.
    pub stream: Stream,
    /// When, UTC milliseconds.
    pub at: i64,
    /// What was printed, the newline included where there was one.
    #[serde(flatten)]
    pub data: Data,
}

names! {
    /// Where a line was printed.
    Stream {
        /// The CLI's standard output: for CLIs with a driver one JSON event.
        Stdout = "stdout",
        /// The CLI's standard error.
        Stderr = "stderr",
        /// The agent's own words, such as that output had to be dropped.
        System = "system",
    }
    UnknownStream "stream"
}

/// Bytes that are mostly text. In JSON `data` where they are text that every database takes, else `data_base64`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Data(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
struct Form {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let form = match str::from_utf8(&self.0) {
            Ok(text) => Form {
                data: Some(text.to_owned()),
                data_base64: None,
            },
            Err(_) => Form {
                data: None,
                data_base64: Some(STANDARD.encode(&self.0)),
            },
        };
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Form::deserialize(deserializer)? {
            Form {
                data: Some(text),
                data_base64: None,
            } => Ok(Self(text.into_bytes())),
            Form {
                data: None,
                data_base64: Some(text),
            } => STANDARD.decode(text).map(Self).map_err(D::Error::custom),
            _ => Err(D::Error::custom("expected either data or data_base64")),
        }
    }
}
