//! The tables of a price table's text: what may stand at their keys, and where they stand when it does not.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use toml::{Table, Value};

use crate::config::did_you_mean;
use crate::{KeyId, Provider};

const FROM: &str = "must be a date such as \"2026-01-31\", or a time with its offset such as \"2026-01-31T12:00:00Z\"";

/// The names of the providers, as keys.
const NAMES: [&str; 3] = [
    Provider::OpenAi.as_str(),
    Provider::Anthropic.as_str(),
    Provider::Google.as_str(),
];

/// Everything that is wrong with a price table, one line each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PriceError {
    /// The problems, in the order in which they were found. There is at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for PriceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for PriceError {}

/// One thing that is wrong. It shows as `[[price]] 3 (openai/gpt-5): above 1: inptu: unknown key; did you mean `input`?`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The entry that it stands in; empty for the whole text.
    pub entry: String,
    /// The key; empty for the whole entry.
    pub key: String,
    /// What is wrong and the way out.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in [&self.entry, &self.key] {
            if !place.is_empty() {
                write!(f, "{place}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

/// What is wrong so far.
#[derive(Default)]
pub(super) struct Found {
    pub problems: Vec<Problem>,
}

impl Found {
    pub fn add(&mut self, entry: &str, key: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            entry: entry.to_owned(),
            key: key.to_owned(),
            message: message.into(),
        });
    }
}

/// A table of the text, and where it stands.
pub(super) struct Section<'t> {
    entry: String,
    /// Where in the entry, such as `above 1: `.
    path: String,
    pub table: &'t Table,
}

impl<'t> Section<'t> {
    pub fn new(entry: String, table: &'t Table) -> Self {
        Self {
            entry,
            path: String::new(),
            table,
        }
    }

    /// The table at a key of this one: an entry of its own at the top, a part of the entry below.
    pub fn within(&self, key: &str, table: &'t Table) -> Self {
        match self.entry.as_str() {
            "" => Self::new(format!("[{key}]"), table),
            "[default]" | "[tiers]" => Self::new(format!("{}.{key}]", self.entry.trim_end_matches(']')), table),
            entry => Self {
                entry: entry.to_owned(),
                path: format!("{}{key}: ", self.path),
                table,
            },
        }
    }

    /// The same with what it is about in its name.
    pub fn named(&self, provider: Option<Provider>, models: &[&str]) -> Self {
        let provider = provider.map_or("?", Provider::as_str);
        Self::new(format!("{} ({provider}/{})", self.entry, models.join(", ")), self.table)
    }

    pub fn wrong(&self, key: &str, message: impl Into<String>, found: &mut Found) {
        found.add(&self.entry, &format!("{}{key}", self.path), message);
    }

    /// Refuses every key but these.
    pub fn know(&self, keys: &[&str], found: &mut Found) {
        for key in self.table.keys().filter(|key| !keys.contains(&key.as_str())) {
            let hint = did_you_mean(key, keys.iter().copied())
                .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            self.wrong(key, format!("unknown key{hint}"), found);
        }
    }

    /// The table at a key whose keys are the providers' names.
    pub fn by_provider(&self, key: &str, found: &mut Found) -> Option<Self> {
        let section = self.table_of(key, found)?;
        section.know(&NAMES, found);
        Some(section)
    }

    pub fn table_of(&self, key: &str, found: &mut Found) -> Option<Self> {
        match self.table.get(key)? {
            Value::Table(table) => Some(self.within(key, table)),
            _ => {
                self.wrong(key, "must be a table", found);
                None
            }
        }
    }

    /// The tables of an array, numbered from 1.
    pub fn tables(&self, key: &str, found: &mut Found) -> Vec<Self> {
        let Some(value) = self.table.get(key) else {
            return Vec::new();
        };
        let tables = value
            .as_array()
            .and_then(|array| array.iter().map(Value::as_table).collect::<Option<Vec<_>>>());
        let Some(tables) = tables else {
            self.wrong(key, "must be an array of tables", found);
            return Vec::new();
        };
        let numbered = tables.into_iter().zip(1..);
        let section = |(table, number): (&'t Table, u32)| match self.entry.as_str() {
            "" => Self::new(format!("[[{key}]] {number}"), table),
            _ => self.within(&format!("{key} {number}"), table),
        };
        numbered.map(section).collect()
    }

    /// A text that says a price or a factor.
    pub fn text<T: FromStr>(&self, key: &str, expected: &str, found: &mut Found) -> Option<T> {
        let value = self.table.get(key)?;
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        if parsed.is_none() {
            self.wrong(key, format!("{expected}, found {}", shown(value)), found);
        }
        parsed
    }

    pub fn provider(&self, found: &mut Found) -> Option<Provider> {
        let provider = self.table.get("provider").and_then(Value::as_str);
        let provider = provider.and_then(|provider| provider.parse().ok());
        if provider.is_none() {
            self.wrong("provider", "must be \"openai\", \"anthropic\" or \"google\"", found);
        }
        provider
    }

    pub fn models(&self, found: &mut Found) -> Vec<&'t str> {
        let models = match self.table.get("model") {
            Some(Value::String(model)) => Some(vec![model.as_str()]),
            Some(Value::Array(models)) => models.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let models = models.filter(|models| !models.is_empty() && models.iter().all(|model| is_name(model)));
        if models.is_none() {
            let message =
                "must be a model's name such as \"gpt-5\" or a pattern such as \"gpt-5-*\", or a list of them";
            self.wrong("model", message, found);
        }
        models.unwrap_or_default()
    }

    pub fn from(&self, found: &mut Found) -> Option<i64> {
        let value = self.table.get("from")?;
        let text = match value {
            Value::Datetime(time) => Some(time.to_string()),
            _ => value.as_str().map(str::to_owned),
        };
        let from_ms = text.and_then(|text| moment(&text));
        if from_ms.is_none() {
            self.wrong("from", format!("{FROM}, found {}", shown(value)), found);
        }
        from_ms
    }

    pub fn key_ids(&self, found: &mut Found) -> Vec<KeyId> {
        let Some(value) = self.table.get("key_ids") else {
            return Vec::new();
        };
        let id = |value: &Value| value.as_integer().filter(|id| *id > 0).map(KeyId);
        let ids: Option<Vec<KeyId>> = value.as_array().and_then(|ids| ids.iter().map(id).collect());
        let ids = ids.filter(|ids| !ids.is_empty());
        if ids.is_none() {
            self.wrong("key_ids", "must be a list of provider keys' ids such as [3]", found);
        }
        ids.unwrap_or_default()
    }

    pub fn threshold(&self, found: &mut Found) -> Option<u64> {
        let threshold = self.table.get("input_tokens").and_then(Value::as_integer);
        let threshold = threshold
            .and_then(|tokens| u64::try_from(tokens).ok())
            .filter(|tokens| *tokens > 0);
        if threshold.is_none() {
            self.wrong(
                "input_tokens",
                "must be the number of input tokens above which the prices hold, such as 200000",
                found,
            );
        }
        threshold
    }
}

/// No provider's model has blanks or is longer.
fn is_name(model: &str) -> bool {
    (1..=200).contains(&model.len()) && !model.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// A date's begin or a time, in UTC milliseconds.
fn moment(text: &str) -> Option<i64> {
    let date = || text.parse::<Date>().ok().filter(|_| text.len() == "2026-01-31".len());
    let at = match date() {
        Some(date) => date.to_zoned(TimeZone::UTC).ok()?.timestamp(),
        None => text.parse::<Timestamp>().ok()?,
    };
    Some(at.as_millisecond())
}

fn shown(value: &Value) -> String {
    let shown = value.to_string();
    match shown.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}
