//! The types of values: how each is read out of TOML or plain text, and written as TOML.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive};

use toml::de::DeValue;

use super::{schema::Given, secret_ref::SecretRef};
use crate::bind::BindMode;

/// A type that a key can have.
pub(super) trait Setting: Sized {
    /// What people are to write.
    fn expected() -> String;
    /// Reads a value of the file.
    fn from_toml(value: &DeValue<'_>) -> Option<Self>;
    /// Reads a value of the environment or a flag.
    fn from_text(text: &str) -> Option<Self>;
    /// Writes it as TOML, masked where it is a secret.
    fn to_toml(&self) -> String;
    /// Whether messages may show what was found.
    const SHOWN: bool = true;
    /// Whether TOML writes it without quotes, which people who know other formats forget.
    const BARE: bool = false;
}

/// Reads a value, or says what was expected and what was found.
pub(super) fn read<T: Setting>(given: Given<'_>) -> Result<T, String> {
    let value = match given {
        Given::Toml(value) => T::from_toml(value),
        Given::Text(text) => T::from_text(text.trim()),
    };
    value.ok_or_else(|| format!("expected {}{}", T::expected(), found::<T>(given)))
}

fn found<T: Setting>(given: Given<'_>) -> String {
    match given {
        Given::Text(text) if T::SHOWN => format!(", found '{text}'"),
        Given::Toml(DeValue::String(text)) if T::BARE && T::from_text(text).is_some() => {
            format!(", found the string \"{text}\"; write it without quotes")
        }
        Given::Toml(DeValue::String(text)) if T::SHOWN => format!(", found \"{text}\""),
        Given::Toml(DeValue::Integer(number)) if T::SHOWN => format!(", found {number}"),
        Given::Toml(value) => format!(", found {} {}", article(value.type_str()), value.type_str()),
        Given::Text(_) => String::new(),
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}

/// Refuses a figure out of its range.
pub(super) fn check_range<T: PartialOrd + Display>(value: &T, range: RangeInclusive<T>) -> Result<(), String> {
    if range.contains(value) {
        return Ok(());
    }
    Err(format!(
        "must be between {} and {}, found {value}",
        range.start(),
        range.end()
    ))
}

macro_rules! whole_numbers {
    ($($type:ty),+) => {
        $(impl Setting for $type {
            const BARE: bool = true;

            fn expected() -> String {
                match <$type>::BITS {
                    64 => "a whole number".to_owned(),
                    _ => format!("a whole number of at most {}", <$type>::MAX),
                }
            }

            fn from_toml(value: &DeValue<'_>) -> Option<Self> {
                let number = value.as_integer()?;
                Self::from_str_radix(number.as_str(), number.radix()).ok()
            }

            fn from_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn to_toml(&self) -> String {
                self.to_string()
            }
        })+
    };
}

whole_numbers!(u8, u16, u32, u64, usize);

impl Setting for bool {
    const BARE: bool = true;

    fn expected() -> String {
        "true or false".to_owned()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn expected() -> String {
        "a text in quotes".to_owned()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map(|text| text.trim().to_owned())
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn to_toml(&self) -> String {
        quote(self)
    }
}

impl Setting for Vec<String> {
    fn expected() -> String {
        "a list of texts, such as [\"a\", \"b\"]; in the environment a,b".to_owned()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value
            .as_array()?
            .iter()
            .map(|item| String::from_toml(item.get_ref()))
            .collect()
    }

    fn from_text(text: &str) -> Option<Self> {
        // A TOML list in an environment variable would become strange items.
        (!text.contains('"')).then(|| list(text).map(str::to_owned).collect())
    }

    fn to_toml(&self) -> String {
        format!(
            "[{}]",
            self.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", ")
        )
    }
}

impl Setting for BTreeMap<String, String> {
    fn expected() -> String {
        "a table of texts, such as { \"asked\" = \"served\" }; in the environment asked=served,a=b".to_owned()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        let pairs = value.as_table()?.iter();
        pairs
            .map(|(key, value)| Some((key.get_ref().to_string(), String::from_toml(value.get_ref())?)))
            .collect()
    }

    fn from_text(text: &str) -> Option<Self> {
        let pair = |item: &str| {
            item.split_once('=')
                .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        };
        list(text).map(pair).collect()
    }

    fn to_toml(&self) -> String {
        let pairs = self
            .iter()
            .map(|(key, value)| format!("{} = {}", quote(key), quote(value)));
        match pairs.collect::<Vec<_>>().join(", ") {
            pairs if pairs.is_empty() => "{}".to_owned(),
            pairs => format!("{{ {pairs} }}"),
        }
    }
}

impl Setting for SecretRef {
    const SHOWN: bool = false;

    fn expected() -> String {
        "a text in quotes, { env = \"NAME\" } or { file = \"/path\" }".to_owned()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::String(text) => Self::from_text(text.trim()),
            DeValue::Table(table) if table.len() == 1 => {
                let (key, value) = table.iter().next()?;
                Self::named(key.get_ref(), value.get_ref().as_str()?)
            }
            _ => None,
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text)
    }

    fn to_toml(&self) -> String {
        match self {
            Self::Unset => quote(""),
            Self::Literal(_) => quote("***"),
            Self::Env(name) => format!("{{ env = {} }}", quote(name)),
            Self::File(path) => format!("{{ file = {} }}", quote(path)),
        }
    }
}

/// Declares a closed set of names as a type that a key can have.
macro_rules! choice {
    ($($type:ty),+) => {
        $(impl Setting for $type {
            fn expected() -> String {
                let names: Vec<String> = <$type>::ALL.iter().map(|choice| quote(choice.as_str())).collect();
                format!("one of {}", names.join(", "))
            }

            fn from_toml(value: &DeValue<'_>) -> Option<Self> {
                Self::from_text(value.as_str()?)
            }

            fn from_text(text: &str) -> Option<Self> {
                <$type>::ALL.into_iter().find(|choice| choice.as_str().eq_ignore_ascii_case(text))
            }

            fn to_toml(&self) -> String {
                quote(self.as_str())
            }
        })+
    };
}

choice!(BindMode, Fsync, HangUp, LogFormat, LogLevel);

/// When the journal is forced to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fsync {
    /// With every record: a request waits for it.
    Always,
    /// Every few milliseconds.
    #[default]
    Interval,
    /// When the system likes.
    Never,
}

impl Fsync {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Always, Self::Interval, Self::Never];

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Interval => "interval",
            Self::Never => "never",
        }
    }
}

/// What becomes of a provider's answer when its client hangs up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HangUp {
    /// It is broken off at once.
    #[default]
    Abort,
    /// It is read on for a while, so that the provider's own figures are seen.
    Drain,
}

impl HangUp {
    /// Every policy.
    pub const ALL: [Self; 2] = [Self::Abort, Self::Drain];

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Drain => "drain",
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Pretty, Self::Json];

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}

/// How important a line of the log must be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Something worth knowing happened.
    #[default]
    Info,
    /// Steps, for somebody who looks for a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Every level, the most important first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
