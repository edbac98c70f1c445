//! Which models an entry is for.

use std::cmp::Reverse;

/// A model's name in which `*` stands for anything, or nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    text: Box<str>,
    /// Where the first `*` is: looked for once, because requests are matched with every pattern until one fits.
    star: Option<usize>,
}

impl Pattern {
    /// Takes a pattern as it is written.
    pub fn new(text: &str) -> Self {
        Self {
            text: text.into(),
            star: text.find('*'),
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How the models begin that it is for.
    pub(super) fn beginning(&self) -> Beginning {
        let fixed = &self.text[..self.star.unwrap_or(self.text.len())];
        let unknown = u64::BITS - 8 * fixed.len().min(8) as u32;
        let mask = u64::MAX.checked_shr(unknown).unwrap_or(0);
        Beginning {
            bytes: first_bytes(fixed),
            mask,
        }
    }

    /// Whether it is for this model.
    pub fn matches(&self, model: &str) -> bool {
        let Some(star) = self.star else {
            return *self.text == *model;
        };
        let (prefix, rest) = (&self.text[..star], &self.text[star + 1..]);
        let Some(mut left) = model.strip_prefix(prefix) else {
            return false;
        };
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        for part in middle.split('*') {
            match left.split_once(part) {
                Some((_, after)) => left = after,
                // `split_once` finds the empty text too.
                None => return false,
            }
        }
        left.ends_with(suffix)
    }

    /// How closely it says which models it is for, the closest being the greatest: an exact name, then the longest text before
    /// the first `*`, then the longest text at all, then the fewest `*`, then by the alphabet.
    pub(super) fn closeness(&self) -> (bool, usize, usize, Reverse<usize>, Reverse<&str>) {
        let (stars, long) = (self.text.matches('*').count(), self.text.len());
        let prefix = self.star.unwrap_or(long);
        (stars == 0, prefix, long - stars, Reverse(stars), Reverse(&self.text))
    }
}

/// The first bytes of the models that a pattern is for, up to eight: one comparison passes over most of a table's patterns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Beginning {
    bytes: u64,
    mask: u64,
}

impl Beginning {
    /// Whether a model may be one of them, by its [`first_bytes`].
    pub const fn fits(self, first_bytes: u64) -> bool {
        first_bytes & self.mask == self.bytes
    }
}

/// The first eight bytes of a text, zeros behind a shorter one.
pub(super) fn first_bytes(text: &str) -> u64 {
    let mut first = [0; 8];
    let len = text.len().min(8);
    first[..len].copy_from_slice(&text.as_bytes()[..len]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let pattern = Pattern::new(pattern);
        let begins = |model: &str| pattern.beginning().fits(first_bytes(model));
        assert_eq!(yes.iter().find(|model| !pattern.matches(model) || !begins(model)), None);
        assert_eq!(no.iter().find(|model| pattern.matches(model)), None);
    }

    #[test]
    fn a_star_stands_for_anything() {
        check("gpt-5", &["gpt-5"], &["gpt-5-mini", "gpt-", ""]);
        check("gpt-5*", &["gpt-5", "gpt-5-mini"], &["gpt-4", "a-gpt-5"]);
        check("*-mini", &["o4-mini", "-mini"], &["o4-mini-2025", "mini"]);
        check("a*b*c", &["abc", "a-b-c", "abbc", "abcbc"], &["ac", "acb", "abcd"]);
        check("a*a", &["aa", "aba"], &["a"]);
        check("*", &["", "x"], &[]);
        check("**", &["", "x"], &[]);
        check("*ü*", &["über", "mühe"], &["uber"]);
    }

    #[test]
    fn the_first_bytes_tell_most_models_apart() {
        let fits = |pattern: &str, model: &str| Pattern::new(pattern).beginning().fits(first_bytes(model));
        assert!(fits("claude-opus-4", "claude-o") && fits("gpt-5*", "gpt-5-mini") && fits("*", ""));
        assert!(!fits("gpt-5*", "gpt-4") && !fits("gpt-5*", "gpt") && !fits("claude-opus-4", "claude-sonnet"));
    }

    #[test]
    fn the_closest_pattern_is_the_greatest() {
        let order = ["gpt-5", "gpt-5-*", "gpt-*-mini", "gpt-*", "g*5*", "*gpt-5", "*"];
        let patterns = order.map(Pattern::new);
        assert!(patterns.is_sorted_by(|a, b| a.closeness() > b.closeness()));
    }
}
