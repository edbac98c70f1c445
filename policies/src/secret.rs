//! Secrets as types: nothing that can be printed, copied or serialised by accident, and what is stored instead of them.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// A secret text. It is wiped from memory when dropped, and has no `Debug`, `Clone` or `Serialize` on purpose.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text over as a secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Takes bytes over as a secret; they are wiped where they are not UTF-8.
    pub fn try_from_utf8(bytes: Vec<u8>) -> Result<Self, NotText> {
        String::from_utf8(bytes).map(Self::new).map_err(|error| {
            error.into_bytes().zeroize();
            NotText
        })
    }

    /// The secret itself. Every use is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The bytes are not UTF-8 and so cannot be a secret text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the secret is not UTF-8 text")]
pub struct NotText;

/// The SHA-256 of a secret: what the database holds where we only compare.
#[derive(Clone, Copy, Debug)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    /// Hashes a secret. Only for secrets of full entropy; passwords need a slow hash.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for SecretHash {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// The hexadecimal SHA-256 of a secret, as the database holds it.
pub fn hash(secret: &str) -> String {
    SecretHash::of(secret).to_string()
}

/// The kinds of our own secrets. Each has a prefix: a leaked one can be recognised, and none passes for another kind.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TokenKind {
    /// A browser or command line login.
    Login,
    /// A personal API token.
    PersonalToken,
    /// A one-time token that registers a machine.
    Registration,
    /// The standing credential of one machine's agent.
    Agent,
}

impl TokenKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Login, Self::PersonalToken, Self::Registration, Self::Agent];

    /// What every secret of this kind starts with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Login => "aces_",
            Self::PersonalToken => "acep_",
            Self::Registration => "acer_",
            Self::Agent => "acea_",
        }
    }
}

/// Writes 256 random bits as a secret of the given kind: the prefix and 43 characters of base64url.
pub fn format(kind: TokenKind, random: &[u8; 32]) -> Secret {
    let body = Zeroizing::new(URL_SAFE_NO_PAD.encode(random));
    Secret::new([kind.prefix(), body.as_str()].concat())
}

/// The kind of one of our secrets, or `None` for a text that cannot be one. It says nothing about validity.
pub fn kind_of(token: &str) -> Option<TokenKind> {
    let kind = TokenKind::ALL
        .into_iter()
        .find(|kind| token.starts_with(kind.prefix()))?;
    let random = URL_SAFE_NO_PAD
        .decode(&token[kind.prefix().len()..])
        .map(Zeroizing::new)
        .ok()?;
    (random.len() == 32).then_some(kind)
}

/// What people may see of a provider key: `sk-…abcd`. A short key shows nothing of itself.
pub fn hint(api_key: &str) -> String {
    let characters: Vec<char> = api_key.chars().collect();
    if characters.len() < 12 {
        return "…".to_owned();
    }
    let first: String = characters[..3].iter().collect();
    let last: String = characters[characters.len() - 4..].iter().collect();
    format!("{first}…{last}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_has_its_shape() {
        for kind in TokenKind::ALL {
            let token = format(kind, &[7; 32]);
            assert_eq!(token.expose().len(), 5 + 43);
            assert_eq!(kind_of(token.expose()), Some(kind));
            assert_eq!(kind_of(&token.expose()[..47]), None, "too short");
        }
        assert_eq!(kind_of("acex_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), None);
        assert_eq!(kind_of(""), None);
    }

    #[test]
    fn the_hash_is_plain_sha256() {
        assert_eq!(
            hash("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(hash("abc").parse::<SecretHash>().unwrap(), SecretHash::of("abc"));
        assert_ne!(SecretHash::of("abc"), SecretHash::of("abd"));
        assert!("ab".parse::<SecretHash>().is_err());
    }

    #[test]
    fn a_hint_shows_little_and_of_short_keys_nothing() {
        assert_eq!(hint("sk-proj-0123456789abcd"), "sk-…abcd");
        assert_eq!(hint("sk-45678901"), "…");
        assert_eq!(hint("sk-456789012"), "sk-…9012");
        assert_eq!(hint(""), "…");
        assert_eq!(hint("ключ-очень-длинный"), "клю…нный");
    }

    #[test]
    fn bytes_become_a_secret_only_as_text() {
        assert!(Secret::try_from_utf8(b"sk-1".to_vec()).is_ok_and(|secret| secret.expose() == "sk-1"));
        assert!(Secret::try_from_utf8(vec![0xff]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_can_be_asked_for_its_kind_and_hint(text in ".*") {
            prop_assert_eq!(kind_of(&text), None);
            hint(&text);
        }
    }
}
