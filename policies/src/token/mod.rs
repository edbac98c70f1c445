//! Proxy tokens: short-lived JWTs that stand for a user, and mostly for one session on one machine, at the data plane.
//!
//! HS256 is the only algorithm, whatever a header asks for. Revocation is left to the caller, who compares
//! `Claims::generation` with the sum of the user's and the session's.

mod hs256;

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{MachineId, Provider, Secret, SessionId, TenantId, UserId};

/// How far in the future `iat` may lie, in seconds: the clocks of two nodes differ a little.
pub const MAX_CLOCK_SKEW_S: i64 = 60;

/// The shortest key that may sign, in bytes: as long as the HMAC's output (RFC 7518 §3.2).
pub const MIN_KEY_BYTES: usize = 32;

/// What a proxy token says. Times are UTC seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The session it belongs to; `None` for a token that a user asked for outside of any session.
    #[serde(rename = "sid", default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Who pays.
    #[serde(rename = "uid")]
    pub user: UserId,
    /// Whose keys are used.
    #[serde(rename = "tid")]
    pub tenant: TenantId,
    /// The machine it was handed to.
    #[serde(rename = "mid", default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// The only provider it is good for; `None` leaves that to the request's path.
    #[serde(rename = "prv", default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// The AI tool it was made for, as the ledger names it.
    pub tool: String,
    /// The only models it is good for; `None` is no restriction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// When it was issued.
    pub iat: i64,
    /// When it ends: at this second it is no longer valid.
    pub exp: i64,
    /// Its own id.
    pub jti: Uuid,
    /// The sum of the user's and the session's token generation at issue.
    #[serde(rename = "gen")]
    pub generation: i64,
}

/// Signs claims with a key.
pub fn sign(claims: &Claims, key: &SigningKey) -> Result<String, TokenError> {
    hs256::install();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.kid.clone());
    jsonwebtoken::encode(&header, claims, &key.encoding).map_err(|_| TokenError::Malformed)
}

/// A key that signs and verifies proxy tokens, and does nothing else.
pub struct SigningKey {
    /// The key's name, which a token's header carries.
    pub kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl SigningKey {
    /// Takes the text of a secret as a key. Errors: `WeakKey` below 32 bytes.
    pub fn new(kid: impl Into<String>, secret: &Secret) -> Result<Self, TokenError> {
        let bytes = secret.expose().as_bytes();
        if bytes.len() < MIN_KEY_BYTES {
            return Err(TokenError::WeakKey);
        }
        let (encoding, decoding) = (EncodingKey::from_secret(bytes), DecodingKey::from_secret(bytes));
        Ok(Self {
            kid: kid.into(),
            encoding,
            decoding,
        })
    }

    /// Writes random bytes as the text in which a new signing key is sealed and stored.
    pub fn secret_from(random: &[u8; 32]) -> Secret {
        Secret::new(URL_SAFE_NO_PAD.encode(random))
    }
}

/// The keys that verify: the one that signs now and those that have signed what may still be about.
pub struct Keyring {
    keys: HashMap<String, SigningKey>,
    rules: Validation,
}

impl Keyring {
    /// Makes a ring of keys. Where two have one name, the last is kept.
    pub fn new(keys: Vec<SigningKey>) -> Self {
        hs256::install();
        let keys = keys.into_iter().map(|key| (key.kid.clone(), key)).collect();
        Self {
            keys,
            rules: signature_only(),
        }
    }

    /// Whether a key of this name is on the ring.
    pub fn knows(&self, kid: &str) -> bool {
        self.keys.contains_key(kid)
    }

    /// Checks algorithm, key, signature and time, in that order. `now` is UTC seconds.
    pub fn verify(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        let head = Head::of(token).ok_or(TokenError::Malformed)?;
        if head.alg != "HS256" {
            return Err(TokenError::WrongAlgorithm);
        }
        let key = head
            .kid
            .and_then(|kid| self.keys.get(&kid))
            .ok_or(TokenError::UnknownKey)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &self.rules)
            .map_err(reason)?
            .claims;
        check_time(&claims, now)?;
        Ok(claims)
    }
}

/// The name of the key that a token claims to be signed with. Unverified: only to decide whether to look for new keys.
pub fn kid_of(token: &str) -> Option<String> {
    Head::of(token)?.kid
}

/// What of a JOSE header matters before the signature is checked.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
}

impl Head {
    fn of(token: &str) -> Option<Self> {
        let (header, _) = token.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()
    }
}

/// The library checks the signature only: it would ask the wall clock, and time is an argument here.
fn signature_only() -> Validation {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    rules
}

fn check_time(claims: &Claims, now: i64) -> Result<(), TokenError> {
    if now >= claims.exp {
        return Err(TokenError::Expired);
    }
    if claims.iat > now.saturating_add(MAX_CLOCK_SKEW_S) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

fn reason(error: jsonwebtoken::errors::Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::BadSignature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenError::WrongAlgorithm,
        _ => TokenError::Malformed,
    }
}

/// Why a token is no good. Callers answer all of them alike; the difference is for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// It is not a JWT, or lacks a claim.
    #[error("the proxy token is malformed")]
    Malformed,
    /// Its header asks for something other than HS256.
    #[error("the proxy token names a signature algorithm other than HS256")]
    WrongAlgorithm,
    /// Its header names no key, or one that is not on the ring.
    #[error("the proxy token is signed with an unknown key")]
    UnknownKey,
    /// Its signature does not match.
    #[error("the proxy token's signature does not match")]
    BadSignature,
    /// It has ended.
    #[error("the proxy token has expired")]
    Expired,
    /// It claims to be issued in the future.
    #[error("the proxy token is not valid yet; compare the clocks of the gateways")]
    NotYetValid,
    /// A signing key is shorter than its HMAC.
    #[error("a signing key needs at least 32 bytes")]
    WeakKey,
}

#[cfg(test)]
mod tests;
