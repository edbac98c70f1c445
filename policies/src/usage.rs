//! Token usage: the classes in which every provider's figures are kept, and where a figure comes from.

use std::{
    fmt,
    ops::{Add, AddAssign},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Tokens of one answer, or a sum of them.
///
/// The classes of the input side are disjoint: `input` is what no cache served. `output` includes `reasoning` and
/// `audio_output`, `input` includes `audio_input`; those three are "of which" figures and never added on top.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Input tokens that neither came from a cache nor were written to one.
    pub input: u64,
    /// Input tokens read from the provider's cache.
    pub cache_read: u64,
    /// Input tokens written to a cache that lives five minutes.
    pub cache_write_5m: u64,
    /// Input tokens written to a cache that lives an hour.
    pub cache_write_1h: u64,
    /// Output tokens, hidden reasoning included.
    pub output: u64,
    /// Of `output`: reasoning that may not be shown.
    pub reasoning: u64,
    /// Of `input`: audio.
    pub audio_input: u64,
    /// Of `output`: audio.
    pub audio_output: u64,
}

impl Usage {
    /// All tokens, each counted once.
    pub const fn total(&self) -> u64 {
        self.input_side().saturating_add(self.output)
    }

    /// All tokens of the input side, cached or not.
    pub const fn input_side(&self) -> u64 {
        self.input
            .saturating_add(self.cache_read)
            .saturating_add(self.cache_write_5m)
            .saturating_add(self.cache_write_1h)
    }

    /// Whether nothing was used.
    pub const fn is_zero(&self) -> bool {
        self.total() == 0
    }
}

impl Add for Usage {
    type Output = Self;

    /// Adds class by class. Figures come from outside, so an absurd one saturates instead of overflowing.
    fn add(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write_5m: self.cache_write_5m.saturating_add(other.cache_write_5m),
            cache_write_1h: self.cache_write_1h.saturating_add(other.cache_write_1h),
            output: self.output.saturating_add(other.output),
            reasoning: self.reasoning.saturating_add(other.reasoning),
            audio_input: self.audio_input.saturating_add(other.audio_input),
            audio_output: self.audio_output.saturating_add(other.audio_output),
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Where the figures of a record come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The provider's own final figures.
    Provider,
    /// The provider's figures up to where the stream broke off.
    Partial,
    /// Our estimate, because the provider said nothing.
    Estimated,
    /// Nothing was used, or the call is of a kind that uses no tokens.
    #[default]
    None,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 4] = [Self::Provider, Self::Partial, Self::Estimated, Self::None];

    /// The name in the ledger and the HTTP API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Partial => "partial",
            Self::Estimated => "estimated",
            Self::None => "none",
        }
    }

    /// Whether some of the figures are ours and not the provider's.
    pub const fn is_estimated(self) -> bool {
        matches!(self, Self::Partial | Self::Estimated)
    }
}

/// Whether a request counts as an error in sums: it was answered with an error, or something went wrong on the way.
pub const fn is_error(status: u16, error_kind: Option<&str>) -> bool {
    status >= 400 || error_kind.is_some()
}

/// The name is not one of the usage sources.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown usage source '{0}'")]
pub struct UnknownSource(pub String);

impl FromStr for Source {
    type Err = UnknownSource;

    fn from_str(name: &str) -> Result<Self, UnknownSource> {
        Self::ALL
            .into_iter()
            .find(|source| source.as_str() == name)
            .ok_or_else(|| UnknownSource(name.to_owned()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: Usage = Usage {
        input: 10,
        cache_read: 200,
        cache_write_5m: 30,
        cache_write_1h: 4,
        output: 50,
        reasoning: 40,
        audio_input: 5,
        audio_output: 6,
    };

    #[test]
    fn trap_02_cached_tokens_are_classes_of_their_own_and_nothing_is_subtracted() {
        assert_eq!(USED.input_side(), 244);
        assert_eq!(USED.total(), 294, "reasoning and audio are already inside");
    }

    #[test]
    fn sums_go_class_by_class_and_saturate() {
        let mut sum = USED;
        sum += USED;
        assert_eq!(sum.cache_read, 400);
        assert_eq!(sum.total(), 588);
        let absurd = Usage {
            output: u64::MAX,
            ..USED
        };
        assert_eq!((absurd + absurd).total(), u64::MAX);
        assert!(Usage::default().is_zero());
    }

    #[test]
    fn an_error_is_told_by_its_status_or_its_kind() {
        assert!(!is_error(200, None));
        assert!(!is_error(101, None));
        assert!(is_error(400, None));
        assert!(is_error(200, Some("upstream_reset")), "it broke off after its head");
    }

    #[test]
    fn one_name_for_a_source_in_text_and_json() {
        for source in Source::ALL {
            assert_eq!(source.to_string().parse(), Ok(source));
            assert_eq!(serde_json::to_string(&source).unwrap(), format!("\"{source}\""));
        }
        assert!("guessed".parse::<Source>().is_err());
    }
}
