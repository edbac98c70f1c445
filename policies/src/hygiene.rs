//! Secrets that are none: blanks, and values that stand in documentation for "put yours here".

/// The signing secret that Open ACE's documentation shows as its default.
pub const DEFAULT_SECRET_KEY: &str = "dev-secret-key";

/// Below this many characters a shared secret is worth a warning (`weak_secret`).
pub const WEAK_BELOW: usize = 24;

/// Texts that people forget to replace, in lower case and without the brackets that some are printed in.
const PUBLISHED: [&str; 10] = [
    "undefined",
    "null",
    "none",
    "your-token",
    "your_token",
    "replace-me",
    "replace_me",
    "replaceme",
    "your-random-32byte-key",
    DEFAULT_SECRET_KEY,
];

/// What is wrong with a secret that somebody configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weakness {
    /// It is blank or a published placeholder: refuse to start (`placeholder_secret`).
    Placeholder,
    /// It is short: warn (`weak_secret`).
    Short,
}

impl Weakness {
    /// The stable code for machines.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Placeholder => "placeholder_secret",
            Self::Short => "weak_secret",
        }
    }
}

/// Judges a configured secret; `None` is a good one.
pub fn weakness(secret: &str) -> Option<Weakness> {
    if is_placeholder(secret) {
        return Some(Weakness::Placeholder);
    }
    (secret.trim().chars().count() < WEAK_BELOW).then_some(Weakness::Short)
}

/// Whether a text is blank or a placeholder out of some documentation.
pub fn is_placeholder(secret: &str) -> bool {
    let bare = secret
        .trim()
        .trim_start_matches('<')
        .trim_end_matches('>')
        .to_ascii_lowercase();
    bare.is_empty()
        || PUBLISHED.contains(&bare.as_str())
        || ["change-me", "change_me", "changeme"]
            .iter()
            .any(|start| bare.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(secret: &str, expected: Option<Weakness>) {
        assert_eq!(weakness(secret), expected, "{secret:?}");
    }

    #[test]
    fn placeholders_and_short_secrets_are_told_apart() {
        for secret in [
            "",
            " \t",
            "undefined",
            "NULL",
            "change-me",
            "Change-Me-Please-0123456789012345",
            "your-token",
        ] {
            check(secret, Some(Weakness::Placeholder));
        }
        check("replace-me", Some(Weakness::Placeholder));
        check("<your-random-32byte-key>", Some(Weakness::Placeholder));
        check("dev-secret-key", Some(Weakness::Placeholder));
        check("correct horse", Some(Weakness::Short));
        check("correct horse battery staple", None);
    }
}
