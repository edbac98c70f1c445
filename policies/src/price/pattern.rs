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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let pattern = Pattern::new(pattern);
        assert_eq!(yes.iter().find(|model| !pattern.matches(model)), None);
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
    fn the_closest_pattern_is_the_greatest() {
        let order = ["gpt-5", "gpt-5-*", "gpt-*-mini", "gpt-*", "g*5*", "*gpt-5", "*"];
        let patterns = order.map(Pattern::new);
        assert!(patterns.is_sorted_by(|a, b| a.closeness() > b.closeness()));
    }
}
