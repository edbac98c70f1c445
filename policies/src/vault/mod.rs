//! The vault: seals what the database must keep but nobody may read there (AES-256-GCM).
//!
//! Every sealed value is bound to its place by associated data, so that a row's value cannot be moved to another row.

mod master;

use std::collections::HashMap;

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};

pub use master::{MasterKey, MasterKeyError, Subkey, purpose};

use crate::{Provider, Secret, TenantId};

const NONCE_BYTES: usize = 12;

/// Seals with one master key and opens with it and with those that came before.
pub struct Vault {
    key_id: String,
    ciphers: HashMap<String, Aes256Gcm>,
}

impl Vault {
    /// Makes a vault of the master key.
    pub fn new(master: &MasterKey) -> Self {
        let key_id = master.key_id();
        Self {
            ciphers: HashMap::from([(key_id.clone(), cipher(master))]),
            key_id,
        }
    }

    /// Lets the vault also open what an older master key sealed.
    #[must_use]
    pub fn with_older(mut self, older: &MasterKey) -> Self {
        self.ciphers.entry(older.key_id()).or_insert_with(|| cipher(older));
        self
    }

    /// The id of the key that seals. A row with another one is due for sealing anew.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Whether a value sealed with the key of this id can be opened.
    pub fn knows(&self, key_id: &str) -> bool {
        self.ciphers.contains_key(key_id)
    }

    /// Seals bytes for the place that `aad` names. `nonce` must be random and never used again.
    pub fn seal(&self, aad: &str, plaintext: &[u8], nonce: [u8; NONCE_BYTES]) -> Sealed {
        let payload = Payload {
            msg: plaintext,
            aad: aad.as_bytes(),
        };
        let ciphertext = self.ciphers[&self.key_id]
            .encrypt(&nonce.into(), payload)
            .expect("AES-GCM refuses only plaintexts of more than 64 GiB");
        Sealed {
            key_id: self.key_id.clone(),
            bytes: [nonce.as_slice(), &ciphertext].concat(),
        }
    }

    /// Opens what was sealed for the same `aad`.
    pub fn open(&self, aad: &str, sealed: &Sealed) -> Result<Secret, VaultError> {
        let cipher = self
            .ciphers
            .get(&sealed.key_id)
            .ok_or_else(|| VaultError::UnknownKey(sealed.key_id.clone()))?;
        let (nonce, ciphertext) = sealed
            .bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(VaultError::Damaged)?;
        let payload = Payload {
            msg: ciphertext,
            aad: aad.as_bytes(),
        };
        let plaintext = cipher
            .decrypt(&(*nonce).into(), payload)
            .map_err(|_| VaultError::Damaged)?;
        Secret::try_from_utf8(plaintext).map_err(|_| VaultError::NotText)
    }
}

fn cipher(master: &MasterKey) -> Aes256Gcm {
    Aes256Gcm::new(master.subkey(purpose::VAULT).as_bytes().into())
}

/// A sealed value, as the database holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// The id of the master key it was sealed with.
    pub key_id: String,
    /// Nonce (12 bytes), ciphertext, tag (16 bytes).
    pub bytes: Vec<u8>,
}

/// The place of a provider key's value: its row's natural key, which survives a dump and restore.
pub fn api_key_aad(tenant: TenantId, provider: Provider, key_name: &str) -> String {
    format!("api-key:{tenant}:{provider}:{key_name}")
}

/// The place of a signing key's value.
pub fn signing_key_aad(kid: &str) -> String {
    format!("signing-key:{kid}")
}

/// The place of the secret that signs a webhook's requests.
pub fn webhook_aad(id: i64) -> String {
    format!("webhook:{id}")
}

/// The place of the key by which push services know the installation.
pub fn vapid_key_aad() -> String {
    "vapid-key".to_owned()
}

/// Why a sealed value cannot be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VaultError {
    /// It was sealed with a master key that this program was not given.
    #[error("sealed with master key {0}, which is not configured; add it as an older key")]
    UnknownKey(String),
    /// It was changed, cut, or moved here from another row.
    #[error("the sealed value is damaged or belongs to another row")]
    Damaged,
    /// It opened, but what is in it is no text.
    #[error("the sealed value is not UTF-8 text")]
    NotText,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: [u8; 12] = [9; 12];

    fn master(byte: u8) -> MasterKey {
        MasterKey::from_bytes([byte; 32])
    }

    /// Opens to a text, so that a failure can be printed; the secret type cannot.
    fn open(vault: &Vault, aad: &str, sealed: &Sealed) -> Result<String, VaultError> {
        vault.open(aad, sealed).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let vault = Vault::new(&master(1));
        let place = api_key_aad(TenantId(1), Provider::OpenAi, "production");
        let sealed = vault.seal(&place, b"sk-secret", NONCE);
        assert_eq!(open(&vault, &place, &sealed).as_deref(), Ok("sk-secret"));
        for other in [
            api_key_aad(TenantId(2), Provider::OpenAi, "production"),
            api_key_aad(TenantId(1), Provider::Anthropic, "production"),
            api_key_aad(TenantId(1), Provider::OpenAi, "staging"),
            signing_key_aad("production"),
            String::new(),
        ] {
            assert_eq!(open(&vault, &other, &sealed), Err(VaultError::Damaged), "{other}");
        }
    }

    #[test]
    fn the_form_is_nonce_ciphertext_tag_and_holds_no_plaintext() {
        let vault = Vault::new(&master(1));
        let sealed = vault.seal("a", b"sk-secret", NONCE);
        assert_eq!(sealed.bytes.len(), 12 + 9 + 16);
        assert_eq!(sealed.bytes[..12], NONCE);
        assert_eq!(sealed.key_id, vault.key_id());
        assert!(!sealed.bytes.windows(9).any(|window| window == b"sk-secret"));
        assert_ne!(vault.seal("a", b"sk-secret", [8; 12]).bytes[12..], sealed.bytes[12..]);
    }

    #[test]
    fn older_keys_open_and_do_not_seal() {
        let old = Vault::new(&master(1)).seal("a", b"x", NONCE);
        let vault = Vault::new(&master(2)).with_older(&master(1));
        assert_eq!(open(&vault, "a", &old).as_deref(), Ok("x"));
        assert_eq!(vault.seal("a", b"x", NONCE).key_id, master(2).key_id());
        assert!(vault.knows(&old.key_id) && !vault.knows("00000000"));
        let unknown = Err(VaultError::UnknownKey(old.key_id.clone()));
        assert_eq!(open(&Vault::new(&master(2)), "a", &old), unknown);
        let renamed = Sealed {
            key_id: master(2).key_id(),
            ..old
        };
        assert_eq!(open(&vault, "a", &renamed), Err(VaultError::Damaged), "the wrong key");
    }

    #[test]
    fn cut_and_changed_values_are_refused() {
        let vault = Vault::new(&master(1));
        let sealed = vault.seal("a", b"sk-secret", NONCE);
        for length in 0..sealed.bytes.len() {
            let cut = Sealed {
                bytes: sealed.bytes[..length].to_vec(),
                ..sealed.clone()
            };
            assert_eq!(open(&vault, "a", &cut), Err(VaultError::Damaged), "{length} bytes");
        }
        for bit in 0..sealed.bytes.len() * 8 {
            let mut changed = sealed.clone();
            changed.bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&vault, "a", &changed), Err(VaultError::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn trap_33_signing_key_never_encrypts() {
        let master = master(1);
        let keys = [
            purpose::VAULT,
            purpose::GATEWAY_HEADERS,
            purpose::UPLOAD_URLS,
            purpose::WEBHOOKS,
            purpose::AUDIT,
        ];
        let mut all: Vec<[u8; 32]> = keys.iter().map(|purpose| *master.subkey(purpose).as_bytes()).collect();
        all.push([1; 32]);
        all.sort_unstable();
        all.dedup();
        assert_eq!(
            all.len(),
            keys.len() + 1,
            "every purpose has its own key, and none is the master key"
        );
        let sealed = Vault::new(&master).seal("a", b"x", NONCE);
        let payload = Payload {
            msg: &sealed.bytes[12..],
            aad: b"a",
        };
        assert!(
            Aes256Gcm::new(&[1; 32].into()).decrypt(&NONCE.into(), payload).is_err(),
            "the master key opens nothing"
        );
    }

    #[test]
    fn what_was_sealed_stays_readable_in_later_versions() {
        let sealed = Sealed {
            key_id: "75b42f41".to_owned(),
            bytes: hex::decode("090909090909090909090909e72f3a898c88c3d663186e07a510d8f4a02e5e5b8e9a89c032").unwrap(),
        };
        assert_eq!(Vault::new(&master(1)).key_id(), sealed.key_id);
        assert_eq!(open(&Vault::new(&master(1)), "a", &sealed).as_deref(), Ok("sk-secret"));
    }

    proptest! {
        #[test]
        fn any_text_in_any_place_survives(aad in ".*", text in ".*", key: [u8; 32], nonce: [u8; 12]) {
            let vault = Vault::new(&MasterKey::from_bytes(key));
            prop_assert_eq!(open(&vault, &aad, &vault.seal(&aad, text.as_bytes(), nonce)), Ok(text));
        }

        #[test]
        fn arbitrary_bytes_never_open(bytes: Vec<u8>) {
            let vault = Vault::new(&master(1));
            let sealed = Sealed { key_id: vault.key_id().to_owned(), bytes };
            prop_assert_eq!(open(&vault, "a", &sealed), Err(VaultError::Damaged));
        }
    }
}
