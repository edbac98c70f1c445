//! One setting at a time: from the environment, else from the file, each with the place it was found at.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tracing::level_filters::LevelFilter;

use super::{ConfigError, ConfigFile, Environment, MAX_SECONDS, value_error};

pub(super) struct Values<'a> {
    pub environment: &'a Environment,
    pub file: &'a ConfigFile,
}

impl Values<'_> {
    /// A text and where it stands; a blank one, and JSON's null, is not set.
    pub fn text_and_place(&self, variable: &str, key: &str) -> Result<Option<(String, String)>, ConfigError> {
        if let Some(value) = self.environment.get(variable) {
            return Ok(Some((value.to_owned(), variable.to_owned())));
        }
        let place = self.file.place(key);
        match self.file.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some((text.trim().to_owned(), place)).filter(|(text, _)| !text.is_empty())),
            Some(Value::Number(number)) => Ok(Some((number.to_string(), place))),
            Some(_) => Err(value_error(&place, &"expected a text")),
        }
    }

    pub fn text(&self, variable: &str, key: &str) -> Result<Option<String>, ConfigError> {
        Ok(self.text_and_place(variable, key)?.map(|(text, _)| text))
    }

    /// A path; `~/` is the user's home.
    pub fn path(&self, variable: &str, key: &str, home: &Path) -> Result<Option<PathBuf>, ConfigError> {
        let Some((text, place)) = self.text_and_place(variable, key)? else {
            return Ok(None);
        };
        match expand(&text, home) {
            path if path.is_absolute() => Ok(Some(path)),
            _ => Err(value_error(&place, &format!("`{text}` is not an absolute path"))),
        }
    }

    /// Names: a JSON list, or words with commas between.
    pub fn list(&self, variable: &str, key: &str) -> Result<Vec<String>, ConfigError> {
        let words = |text: &str| {
            let words = text.split(',').map(|word| word.trim().to_owned());
            words.filter(|word| !word.is_empty()).collect()
        };
        if let Some(value) = self.environment.get(variable) {
            return Ok(words(value));
        }
        let wrong = || value_error(&self.file.place(key), &"expected a list of texts");
        match self.file.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(words(text)),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect(),
            Some(_) => Err(wrong()),
        }
    }

    /// Seconds, fractions allowed; of several keys the first that is there counts.
    pub fn seconds(&self, variable: &str, keys: &[&str], default: f64) -> Result<Duration, ConfigError> {
        for (index, key) in keys.iter().enumerate() {
            let variable = if index == 0 { variable } else { "" };
            if let Some((text, place)) = self.text_and_place(variable, key)? {
                let parsed = text
                    .parse()
                    .ok()
                    .filter(|seconds| *seconds > 0.0 && *seconds <= MAX_SECONDS);
                let wrong = || {
                    value_error(
                        &place,
                        &format!("`{text}` is not a number of seconds above 0 and up to a day"),
                    )
                };
                return parsed.map(Duration::from_secs_f64).ok_or_else(wrong);
            }
        }
        Ok(Duration::from_secs_f64(default))
    }

    pub fn whole(
        &self,
        variable: &str,
        key: &str,
        default: u64,
        allowed: RangeInclusive<u64>,
    ) -> Result<u64, ConfigError> {
        let Some((text, place)) = self.text_and_place(variable, key)? else {
            return Ok(default);
        };
        let wrong = || {
            let (low, high) = (allowed.start(), allowed.end());
            value_error(&place, &format!("`{text}` is not a whole number from {low} to {high}"))
        };
        let number = text.parse().ok().filter(|number| allowed.contains(number));
        number.ok_or_else(wrong)
    }

    /// A level by our names, or by those of Python's `logging`.
    pub fn level(&self, variable: &str, key: &str) -> Result<LevelFilter, ConfigError> {
        let Some((text, place)) = self.text_and_place(variable, key)? else {
            return Ok(LevelFilter::INFO);
        };
        level_named(&text).ok_or_else(|| {
            let problem = format!("`{text}` is none of DEBUG, INFO, WARNING, ERROR, CRITICAL");
            value_error(&place, &problem)
        })
    }
}

/// The level that a name stands for.
pub(crate) fn level_named(text: &str) -> Option<LevelFilter> {
    Some(match text.to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "critical" | "fatal" | "error" | "40" | "50" => LevelFilter::ERROR,
        "warning" | "warn" | "30" => LevelFilter::WARN,
        "info" | "20" => LevelFilter::INFO,
        "debug" | "10" => LevelFilter::DEBUG,
        "trace" | "notset" | "0" => LevelFilter::TRACE,
        _ => return None,
    })
}

pub(super) fn expand(text: &str, home: &Path) -> PathBuf {
    match text.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None if text == "~" => home.to_owned(),
        None => PathBuf::from(text),
    }
}
