//! Upload URLs of ours: they stand for a provider's own, carry what the gateway must remember, and are signed.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{KeyId, SessionId, TenantId, UserId, vault::Subkey};

/// What an upload URL allows: the rest of one upload, with the key that it was begun with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UploadGrant {
    /// The provider's absolute URL.
    pub url: String,
    /// Who uploads.
    pub user: UserId,
    /// Whose key it is.
    pub tenant: TenantId,
    /// The provider key the upload was begun with.
    pub key: KeyId,
    /// The session it belongs to, if any.
    pub session: Option<SessionId>,
    /// When it ends, in UTC seconds.
    pub exp: i64,
}

/// Signs a grant: the payload and its HMAC in base64url, joined by a point. It is signed, not secret.
pub fn sign_upload(key: &Subkey, grant: &UploadGrant) -> String {
    let payload = serde_json::to_vec(grant).expect("a struct of texts and numbers is always JSON");
    let mac = key.mac(&[DOMAIN, &payload]);
    [URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(mac)].join(".")
}

/// Checks the signature, then the time. `now` is UTC seconds.
pub fn verify_upload(key: &Subkey, token: &str, now: i64) -> Result<UploadGrant, UploadError> {
    let (payload, mac) = token.split_once('.').ok_or(UploadError::Malformed)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| UploadError::Malformed)?;
    let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| UploadError::Malformed)?;
    if !key.verify(&[DOMAIN, &payload], &mac) {
        return Err(UploadError::BadSignature);
    }
    let grant: UploadGrant = serde_json::from_slice(&payload).map_err(|_| UploadError::Malformed)?;
    if now >= grant.exp {
        Err(UploadError::Expired)
    } else {
        Ok(grant)
    }
}

const DOMAIN: &[u8] = b"upload-v1";

/// Why an upload URL is no good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UploadError {
    /// It is not of our making.
    #[error("the upload URL is malformed")]
    Malformed,
    /// Its signature does not match.
    #[error("the upload URL's signature does not match")]
    BadSignature,
    /// It has ended.
    #[error("the upload URL has expired; begin the upload again")]
    Expired,
}
