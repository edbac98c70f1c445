//! The master key and the keys derived from it. No key has two purposes: the one that signs never encrypts.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::hygiene;

/// The purposes that subkeys are made for.
pub mod purpose {
    /// Seals provider keys and signing keys.
    pub const VAULT: &str = "vault";
    /// Signs the gateway's `x-ace-*` headers to the control API.
    pub const GATEWAY_HEADERS: &str = "gateway-headers";
    /// Signs the upload URLs that stand for a provider's own.
    pub const UPLOAD_URLS: &str = "upload-urls";
    /// Signs webhooks.
    pub const WEBHOOKS: &str = "webhooks";
    /// Chains the audit log.
    pub const AUDIT: &str = "audit";
}

/// The one secret that everything sealed depends on. Wiped when dropped; never stored in the database.
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// Takes 32 bytes over.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads 32 bytes written as 64 hexadecimal digits or as base64 (either alphabet, padded or not).
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let text = text.trim();
        if hygiene::is_placeholder(text) {
            return Err(MasterKeyError::Placeholder);
        }
        let bytes = Zeroizing::new(decode(text).ok_or(MasterKeyError::Format)?);
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| MasterKeyError::Format)?;
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(MasterKeyError::Placeholder);
        }
        Ok(Self::from_bytes(bytes))
    }

    /// Derives the key from a long passphrase such as `SECRET_KEY`, where no encryption key is set.
    pub fn from_secret_key(secret_key: &str) -> Result<Self, MasterKeyError> {
        let secret_key = secret_key.trim();
        if hygiene::is_placeholder(secret_key) || secret_key == hygiene::DEFAULT_SECRET_KEY {
            return Err(MasterKeyError::Placeholder);
        }
        if secret_key.chars().count() < 32 {
            return Err(MasterKeyError::TooShort);
        }
        Ok(Self(expand(secret_key.as_bytes(), "secret-key")))
    }

    /// The key's public name: eight hexadecimal digits that tell nothing about it.
    pub fn key_id(&self) -> String {
        hex::encode(&expand(self.0.as_slice(), "key-id")[..4])
    }

    /// The key for one purpose. Subkeys tell nothing about each other or the master key.
    pub fn subkey(&self, purpose: &str) -> Subkey {
        Subkey(expand(self.0.as_slice(), &format!("subkey:{purpose}")))
    }
}

/// A key for one purpose. Wiped when dropped.
pub struct Subkey(Zeroizing<[u8; 32]>);

impl Subkey {
    /// Takes 32 bytes over.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The HMAC-SHA256 of a list of fields. Each is preceded by its length, so that no two lists read alike.
    pub fn mac(&self, fields: &[&[u8]]) -> [u8; 32] {
        self.digest(fields).finalize().into_bytes().into()
    }

    /// Whether `mac` is that of the fields, in constant time.
    pub fn verify(&self, fields: &[&[u8]], mac: &[u8]) -> bool {
        self.digest(fields).verify_slice(mac).is_ok()
    }

    fn digest(&self, fields: &[&[u8]]) -> Hmac<Sha256> {
        let keyed = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("HMAC takes keys of any length");
        fields.iter().fold(keyed, |mac, field| {
            mac.chain_update((field.len() as u64).to_be_bytes()).chain_update(field)
        })
    }
}

/// Why a text is no master key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// It is neither hexadecimal nor base64 of 32 bytes.
    #[error("the encryption key must be 32 bytes in hexadecimal or base64; make one with `openssl rand -hex 32`")]
    Format,
    /// It is a value out of some documentation.
    #[error("the encryption key is a published placeholder; make one with `openssl rand -hex 32`")]
    Placeholder,
    /// The passphrase is too short to derive a key from.
    #[error("SECRET_KEY must have at least 32 characters; better, set OPENACE_ENCRYPTION_KEY (`openssl rand -hex 32`)")]
    TooShort,
}

fn expand(secret: &[u8], info: &str) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(b"ace-gateway v1"), secret)
        .expand(info.as_bytes(), key.as_mut_slice())
        .expect("HKDF-SHA256 gives up to 8160 bytes");
    key
}

fn decode(text: &str) -> Option<Vec<u8>> {
    match text.len() {
        64 => hex::decode(text).ok(),
        43 | 44 => decode_base64(text),
        _ => None,
    }
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let mut standard = text.replace('-', "+").replace('_', "/");
    let bytes = GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(&standard).ok();
    standard.zeroize();
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&MasterKey, MasterKeyError>) {
        let found = MasterKey::parse(text).map(|key| *key.0);
        assert_eq!(found, expected.map(|key| *key.0), "{text:?}");
    }

    #[test]
    fn a_key_may_be_written_in_hexadecimal_or_base64() {
        let mut bytes = [0xfb; 32];
        bytes[0] = 0xff;
        let key = MasterKey::from_bytes(bytes);
        let standard = base64::engine::general_purpose::STANDARD.encode(bytes);
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        assert!(standard.contains('+') && url.contains('-'));
        for text in [
            hex::encode(bytes),
            hex::encode_upper(bytes),
            standard,
            url,
            format!(" {}\n", hex::encode(bytes)),
        ] {
            check(&text, Ok(&key));
        }
    }

    #[test]
    fn other_texts_are_no_key() {
        for text in [
            "abc",
            &"a".repeat(63),
            &"g".repeat(64),
            &"ab".repeat(33),
            &"!".repeat(43),
            &"é".repeat(32),
        ] {
            check(text, Err(MasterKeyError::Format));
        }
        for text in [
            "",
            " ",
            "<your-random-32byte-key>",
            "change-me",
            "null",
            &"00".repeat(32),
            &"ab".repeat(32),
        ] {
            check(text, Err(MasterKeyError::Placeholder));
        }
    }

    #[test]
    fn trap_33_the_published_secret_key_is_refused() {
        let derive = |text: &str| MasterKey::from_secret_key(text).map(|key| key.key_id());
        assert_eq!(derive("dev-secret-key"), Err(MasterKeyError::Placeholder));
        assert_eq!(derive(""), Err(MasterKeyError::Placeholder));
        assert_eq!(derive(&"x".repeat(31)), Err(MasterKeyError::TooShort));
        let (a, b) = (derive(&"x".repeat(32)).unwrap(), derive(&"y".repeat(32)).unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), 8);
    }

    #[test]
    fn a_mac_is_over_fields_and_not_over_their_sum() {
        let key = Subkey::from_bytes([1; 32]);
        let mac = key.mac(&[b"ab", b"c"]);
        assert!(key.verify(&[b"ab", b"c"], &mac));
        assert!(
            !key.verify(&[b"a", b"bc"], &mac) && !key.verify(&[b"abc"], &mac) && !key.verify(&[b"ab", b"c", b""], &mac)
        );
        assert!(!key.verify(&[b"ab", b"c"], &mac[..31]) && !key.verify(&[b"ab", b"c"], b""));
        assert!(!Subkey::from_bytes([2; 32]).verify(&[b"ab", b"c"], &mac));
    }

    proptest! {
        #[test]
        fn any_text_can_be_tried(text in ".*") {
            prop_assert!(MasterKey::parse(&text).is_err());
            let _short_or_long = MasterKey::from_secret_key(&text).is_ok();
        }

        #[test]
        fn every_key_is_read_back(bytes: [u8; 32]) {
            prop_assume!(bytes.iter().any(|byte| *byte != bytes[0]));
            let key = MasterKey::parse(&hex::encode(bytes)).unwrap();
            prop_assert_eq!(*key.0, bytes);
        }
    }
}
