//! Credentials of ours that must not get out in what the CLIs print or the agent says: they are masked before anything is written.
//!
//! By their looks: `ace?_…` (every secret of ours has such a prefix) and JSON web tokens. And by their value, for those that look
//! like nothing.

use std::collections::VecDeque;

use ace_policies::{Secret, wire::FromAgent};
use memchr::memmem;

/// What is left of a secret.
const MASKED: &[u8] = b"***";
/// Fewer characters are no secret of ours, and could be an ordinary word.
const MIN_SECRET: usize = 20;
/// Proxy tokens last minutes: of more values than this the oldest have long ended.
const MAX_VALUES: usize = 64;

/// The secrets that are known by value.
#[derive(Default)]
pub struct Mask {
    values: VecDeque<Secret>,
}

impl Mask {
    /// From now on this very text is masked wherever it stands.
    pub fn learn(&mut self, secret: &str) {
        let known = self.values.iter().any(|value| value.expose() == secret);
        if known || secret.len() < MIN_SECRET {
            return;
        }
        if self.values.len() == MAX_VALUES {
            self.values.pop_front();
        }
        self.values.push_back(Secret::new(secret.to_owned()));
    }

    /// A text without the secrets in it.
    pub fn bytes(&self, data: Vec<u8>) -> Vec<u8> {
        let mut found = self.found_in(&data);
        if found.is_empty() {
            return data;
        }
        found.sort_unstable();
        let mut masked = Vec::with_capacity(data.len());
        let mut at = 0;
        for (start, end) in found {
            if start >= at {
                masked.extend_from_slice(&data[at..start]);
                masked.extend_from_slice(MASKED);
            }
            at = at.max(end);
        }
        masked.extend_from_slice(&data[at..]);
        masked
    }

    /// A message without the secrets in it. None of ours is spelled differently in JSON.
    pub fn message(&self, message: FromAgent) -> FromAgent {
        let Ok(text) = serde_json::to_vec(&message) else {
            return message;
        };
        if self.found_in(&text).is_empty() {
            return message;
        }
        serde_json::from_slice(&self.bytes(text)).unwrap_or(message)
    }

    /// Where secrets stand, from which byte to which; the part before `***` that tells their kind is left out.
    fn found_in(&self, data: &[u8]) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for value in &self.values {
            let text = value.expose().as_bytes();
            found.extend(memmem::find_iter(data, text).map(|at| (at, at + text.len())));
        }
        found.extend(memmem::find_iter(data, b"ace").filter_map(|at| prefixed(data, at)));
        found.extend(memmem::find_iter(data, b"eyJ").filter_map(|at| web_token(data, at)));
        found
    }
}

/// `acea_` and the like, and a secret's length of base64url behind it.
fn prefixed(data: &[u8], at: usize) -> Option<(usize, usize)> {
    let kind = data.get(at + 3)?;
    let start = at + 5;
    if !kind.is_ascii_lowercase() || data.get(at + 4) != Some(&b'_') {
        return None;
    }
    let end = end_of_word(data, start);
    (end - start >= MIN_SECRET).then_some((start, end))
}

/// Three words of base64url with points between; the first two are JSON objects.
fn web_token(data: &[u8], at: usize) -> Option<(usize, usize)> {
    if at > 0 && is_base64url(data[at - 1]) {
        return None;
    }
    let header = end_of_word(data, at);
    if !data.get(header..)?.starts_with(b".eyJ") {
        return None;
    }
    let payload = end_of_word(data, header + 1);
    if data.get(payload) != Some(&b'.') {
        return None;
    }
    let end = end_of_word(data, payload + 1);
    (end - payload > MIN_SECRET).then_some((at, end))
}

fn end_of_word(data: &[u8], start: usize) -> usize {
    let rest = data.get(start..).unwrap_or_default();
    start + rest.iter().take_while(|byte| is_base64url(**byte)).count()
}

const fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use ace_policies::wire::{Failure, FailureCode};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";
    const TOKEN: &str = "acea_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[track_caller]
    fn check(mask: &Mask, text: &str, expected: &str) {
        let masked = mask.bytes(text.as_bytes().to_vec());
        assert_eq!(String::from_utf8(masked).unwrap(), expected);
    }

    #[test]
    fn our_secrets_are_known_by_their_looks() {
        let mask = Mask::default();
        check(&mask, &format!("key={TOKEN}\n"), "key=acea_***\n");
        check(&mask, &format!("\"{TOKEN}\",\"{TOKEN}\""), "\"acea_***\",\"acea_***\"");
        check(&mask, &format!("Bearer {JWT}!"), "Bearer ***!");
        check(
            &mask,
            "ace_gateway acea_short interface_ namespace",
            "ace_gateway acea_short interface_ namespace",
        );
        check(
            &mask,
            "eyJhbGciOiJIUzI1NiJ9 alone, eyJ.eyJ.x",
            "eyJhbGciOiJIUzI1NiJ9 alone, eyJ.eyJ.x",
        );
        check(&mask, "ace", "ace");
    }

    #[test]
    fn and_others_by_their_value() {
        let mut mask = Mask::default();
        mask.learn("a-secret-that-looks-like-nothing");
        mask.learn("short");
        check(&mask, "xa-secret-that-looks-like-nothingx short", "x***x short");
    }

    #[test]
    fn messages_are_masked_as_well() {
        let message = |text: &str| FromAgent::Done {
            command_id: Uuid::nil(),
            result: Some(serde_json::json!({ "content": text })),
            error: Some(Failure {
                code: FailureCode::Failed,
                message: text.to_owned(),
            }),
        };
        assert_eq!(Mask::default().message(message(TOKEN)), message("acea_***"));
        assert_eq!(Mask::default().message(message("plain")), message("plain"));
    }

    proptest! {
        #[test]
        fn whatever_stands_around_them_no_secret_gets_out(before in "[ -~]{0,20}", after in "[ \"',.:;!]{1}[ -~]{0,20}") {
            let masked = Mask::default().bytes(format!("{before} {TOKEN}{after} {JWT}{after}").into_bytes());
            let masked = String::from_utf8(masked).unwrap();
            prop_assert!(!masked.contains(&TOKEN[5..]) && !masked.contains(JWT), "{}", masked);
        }
    }
}
