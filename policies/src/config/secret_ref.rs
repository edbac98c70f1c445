//! Where a secret is: in the configuration itself, in an environment variable, or in a file.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::Secret;

/// A secret of the configuration, or the place it is in. Fetching it from there is left to the program.
#[derive(Default)]
pub enum SecretRef {
    /// Not configured.
    #[default]
    Unset,
    /// The secret itself.
    Literal(Secret),
    /// The value of an environment variable.
    Env(String),
    /// The content of a file.
    File(String),
}

impl SecretRef {
    /// Whether nothing is configured. A reference that cannot be resolved counts as configured.
    pub const fn is_unset(&self) -> bool {
        matches!(self, Self::Unset)
    }

    /// Reads a plain text: `${NAME}` is a reference, everything else the secret itself.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => Self::named("env", name),
            None if text.is_empty() => Some(Self::Unset),
            None => Some(Self::Literal(Secret::new(text.to_owned()))),
        }
    }

    /// Reads a reference of one of the two kinds.
    pub(super) fn named(kind: &str, place: &str) -> Option<Self> {
        match kind {
            "env" if is_variable(place) => Some(Self::Env(place.to_owned())),
            "file" if !place.trim().is_empty() => Some(Self::File(place.to_owned())),
            _ => None,
        }
    }
}

fn is_variable(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|first: char| first.is_ascii_uppercase())
        && name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("Unset"),
            Self::Literal(_) => f.write_str("Literal(***)"),
            Self::Env(name) => write!(f, "Env({name})"),
            Self::File(path) => write!(f, "File({path})"),
        }
    }
}

impl PartialEq for SecretRef {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unset, Self::Unset) => true,
            (Self::Literal(a), Self::Literal(b)) => a.expose().as_bytes().ct_eq(b.expose().as_bytes()).into(),
            (Self::Env(a), Self::Env(b)) | (Self::File(a), Self::File(b)) => a == b,
            _ => false,
        }
    }
}
