//! Reads a provider's usage export. Pure: text comes in, lines come out.
//!
//! Sources of the column names: OpenAI's usage export (`start_time_iso`, `num_model_requests`, `input_cached_tokens` …; `input_tokens`
//! includes what a cache served), the Claude Console's (`usage_date_utc`, `model_version`, `usage_input_tokens_no_cache` …), and Google's
//! billing report, which has a line for each SKU instead of a column for each class (`SKU description`, `Usage amount`).

mod sku;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::str::FromStr;

use ace_policies::Provider;
use ace_policies::quota::Calendar;
use csv::StringRecord;

use super::figures::{Class, Figures};
use crate::when::When;

/// The columns that are looked for, by the name that `--columns` gives them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Field {
    /// The provider's id of a request; without it lines are sums of a day.
    RequestId,
    /// A date or a time.
    Time,
    Model,
    /// The provider's name or id of a key.
    Key,
    /// What a line of Google's is about.
    Sku,
    /// How much of it.
    Amount,
    /// Input tokens, those of caches included.
    InputTotal,
    Of(Class),
}

impl Field {
    /// Every field with its name, and what providers call it.
    const ALL: [(Self, &'static str, &'static [&'static str]); 15] = [
        (Self::RequestId, "request_id", &["request_id"]),
        (
            Self::Time,
            "time",
            &[
                "start_time_iso",
                "start_time",
                "usage_date_utc",
                "usage_start_date",
                "usage_start_time",
                "timestamp",
                "date",
            ],
        ),
        (Self::Model, "model", &["model_version", "model"]),
        (Self::Key, "key", &["api_key_id", "api_key"]),
        (Self::Sku, "sku", &["sku_description"]),
        (Self::Amount, "amount", &["usage_amount"]),
        (Self::InputTotal, "input_total", &["prompt_tokens"]),
        (
            Self::Of(Class::Requests),
            "requests",
            &["num_model_requests", "num_requests"],
        ),
        (Self::Of(Class::InputSide), "input_side", &[]),
        (
            Self::Of(Class::Input),
            "input",
            &[
                "usage_input_tokens_no_cache",
                "uncached_input_tokens",
                "input_uncached_tokens",
            ],
        ),
        (
            Self::Of(Class::CacheRead),
            "cache_read",
            &[
                "usage_input_tokens_cache_read",
                "cache_read_input_tokens",
                "input_cached_tokens",
            ],
        ),
        (
            Self::Of(Class::CacheWrite),
            "cache_write",
            &["cache_creation_input_tokens"],
        ),
        (
            Self::Of(Class::CacheWrite5m),
            "cache_write_5m",
            &["usage_input_tokens_cache_write_5m"],
        ),
        (
            Self::Of(Class::CacheWrite1h),
            "cache_write_1h",
            &["usage_input_tokens_cache_write_1h"],
        ),
        (
            Self::Of(Class::Output),
            "output",
            &["usage_output_tokens", "output_tokens", "completion_tokens"],
        ),
    ];

    fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(field, ..)| *field == self)
            .map_or("", |(_, name, _)| name)
    }

    /// What a provider calls it. `input_tokens` is all input for OpenAI, and for Anthropic what no cache had to do with.
    fn headers(self, provider: Provider) -> Vec<&'static str> {
        let common = Self::ALL
            .iter()
            .find(|(field, ..)| *field == self)
            .map_or(&[][..], |(.., headers)| headers);
        let own: &[&str] = match (self, provider) {
            (Self::InputTotal, Provider::OpenAi) | (Self::Of(Class::Input), Provider::Anthropic) => &["input_tokens"],
            _ => &[],
        };
        common.iter().chain(own).copied().collect()
    }
}

impl FromStr for Field {
    type Err = ExportError;

    fn from_str(name: &str) -> Result<Self, ExportError> {
        let found = Self::ALL
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|(field, ..)| *field);
        let known = || Self::ALL.map(|(_, name, _)| name).join(", ");
        found.ok_or_else(|| ExportError::UnknownField(name.to_owned(), known()))
    }
}

/// Why an export cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("not a CSV file: {0}")]
    Csv(#[from] csv::Error),
    #[error("there is no column '{0}' to be told apart; the columns that can be named are {1}")]
    UnknownField(String, String),
    #[error("the file has no column '{0}'; it has {1}")]
    NoSuchColumn(String, String),
    #[error("no column for '{0}' was recognised; name it with --columns {0}=<header>; the file has {1}")]
    Unrecognised(&'static str, String),
    #[error("line {line}: {field}: cannot read '{text}'")]
    Unreadable {
        line: u64,
        field: &'static str,
        text: String,
    },
    #[error("line {line}: more tokens came from a cache than there were input tokens")]
    Cached { line: u64 },
    #[error("the file has no line with usage in it")]
    Empty,
}

/// How a file is to be read.
pub struct Reading<'a> {
    pub provider: Provider,
    /// Headers of the file for fields that would not be recognised.
    pub columns: BTreeMap<Field, String>,
    /// Only lines of this key.
    pub key: Option<&'a str>,
    /// By which the file's days begin.
    pub calendar: &'a Calendar,
}

/// A line of an export, or of Google's the part of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Of the file; the header is line 1.
    pub number: u64,
    /// UTC milliseconds; of a date where its day begins.
    pub at: i64,
    pub request_id: Option<String>,
    pub model: String,
    pub figures: Figures,
}

/// What a file says, and how many of its lines say nothing about tokens.
pub struct Export {
    pub lines: Vec<Line>,
    pub left_out: u64,
}

impl Reading<'_> {
    /// Reads a whole file.
    pub fn read(&self, text: &str) -> Result<Export, ExportError> {
        let text = text.trim_start_matches('\u{feff}');
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
        let columns = self.recognise(reader.headers()?)?;
        let mut export = Export {
            lines: Vec::new(),
            left_out: 0,
        };
        for record in reader.records() {
            let record = record?;
            match self.line(&columns, &record)? {
                Some(line) => export.lines.push(line),
                None => export.left_out += 1,
            }
        }
        if export.lines.is_empty() {
            return Err(ExportError::Empty);
        }
        Ok(export)
    }

    /// Where each field is. What a day or a request cannot be told without must be there.
    fn recognise(&self, headers: &StringRecord) -> Result<BTreeMap<Field, usize>, ExportError> {
        let all = || headers.iter().collect::<Vec<_>>().join(", ");
        let mut columns = BTreeMap::new();
        for (field, ..) in Field::ALL {
            let column = match self.columns.get(&field) {
                Some(named) => {
                    let missing = || ExportError::NoSuchColumn(named.clone(), all());
                    Some(headers.iter().position(|header| header == named).ok_or_else(missing)?)
                }
                None => field
                    .headers(self.provider)
                    .into_iter()
                    .find_map(|known| position(headers, known)),
            };
            columns.extend(column.map(|column| (field, column)));
        }
        let by_sku = columns.contains_key(&Field::Sku);
        let needed: &[Field] = if by_sku {
            &[Field::Time, Field::Amount]
        } else {
            &[Field::Time, Field::Model, Field::Of(Class::Output)]
        };
        match needed.iter().find(|field| !columns.contains_key(field)) {
            Some(missing) => Err(ExportError::Unrecognised(missing.name(), all())),
            None => Ok(columns),
        }
    }

    /// `None` for a line that says nothing about tokens, or is of another key.
    fn line(&self, columns: &BTreeMap<Field, usize>, record: &StringRecord) -> Result<Option<Line>, ExportError> {
        let number = record.position().map_or(0, csv::Position::line);
        let cell = |field: Field| {
            columns
                .get(&field)
                .and_then(|column| record.get(*column))
                .map(str::trim)
        };
        let (Some(time), other_key) = (
            cell(Field::Time),
            self.key.is_some_and(|key| cell(Field::Key) != Some(key)),
        ) else {
            return Ok(None);
        };
        if time.is_empty() || other_key {
            return Ok(None);
        }
        let unreadable = |field: Field, text: &str| ExportError::Unreadable {
            line: number,
            field: field.name(),
            text: text.to_owned(),
        };
        let count = |field: Field| match cell(field) {
            Some(text) => amount(text).map(Some).ok_or_else(|| unreadable(field, text)),
            None => Ok(None),
        };
        let at = self.time(time).ok_or_else(|| unreadable(Field::Time, time))?;
        let (model, figures) = if let Some(sku) = cell(Field::Sku) {
            let Some((model, class)) = sku::parse(sku) else {
                return Ok(None);
            };
            (model, Figures::one(class, count(Field::Amount)?.unwrap_or_default()))
        } else {
            (
                cell(Field::Model).unwrap_or_default().to_owned(),
                figures(number, count)?,
            )
        };
        if model.is_empty() && figures.is_zero() {
            return Ok(None);
        }
        let request_id = cell(Field::RequestId).filter(|id| !id.is_empty()).map(str::to_owned);
        Ok(Some(Line {
            number,
            at,
            request_id,
            model,
            figures,
        }))
    }

    /// A date, an RFC 3339 time, one without its `T` or `Z`, or seconds since 1970.
    fn time(&self, text: &str) -> Option<i64> {
        if let Ok(seconds) = text.parse::<i64>() {
            return seconds.checked_mul(1000);
        }
        let spelled = text.trim_end_matches(" UTC").replacen(' ', "T", 1);
        let forms = [spelled.clone(), format!("{spelled}Z"), format!("{spelled}:00Z")];
        let moment = forms.iter().find_map(|form| When::parse(form)).map(|when| when.0);
        moment.or_else(|| self.calendar.date(text).map(|day| day.start_ms))
    }
}

/// Headers are compared without their case, and with `_` for a space.
fn position(headers: &StringRecord, known: &str) -> Option<usize> {
    headers
        .iter()
        .position(|header| header.trim().to_ascii_lowercase().replace(' ', "_") == known)
}

fn figures(line: u64, count: impl Fn(Field) -> Result<Option<i64>, ExportError>) -> Result<Figures, ExportError> {
    let mut figures = Figures::default();
    for class in Class::ALL {
        figures.set(class, count(Field::Of(class))?);
    }
    let (total, cached) = (count(Field::InputTotal)?, figures.get(Class::CacheRead));
    match (total, cached) {
        (Some(total), Some(cached)) if figures.get(Class::Input).is_none() => {
            let input = total.checked_sub(cached).filter(|input| *input >= 0);
            figures.set(Class::Input, Some(input.ok_or(ExportError::Cached { line })?));
        }
        (Some(total), None) if figures.get(Class::Input).is_none() => figures.set(Class::InputSide, Some(total)),
        _ => {}
    }
    Ok(figures)
}

/// A whole number, as sheets write it: `260,580`, `12.0`, nothing for zero.
fn amount(text: &str) -> Option<i64> {
    let plain = text.replace(',', "");
    let whole = match plain.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
        Some(_) => return None,
        None => &plain,
    };
    if whole.is_empty() {
        Some(0)
    } else {
        whole.parse().ok().filter(|amount| *amount >= 0)
    }
}
