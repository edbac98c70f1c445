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
