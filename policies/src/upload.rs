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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn key() -> Subkey {
        Subkey::from_bytes([1; 32])
    }

    fn grant() -> UploadGrant {
        UploadGrant {
            url: "https://generativelanguage.googleapis.com/upload/v1beta/files?upload_id=x".to_owned(),
            user: UserId(1),
            tenant: TenantId(2),
            key: KeyId(3),
            session: Some(SessionId(Uuid::from_u128(4))),
            exp: NOW + 60,
        }
    }

    #[test]
    fn a_grant_is_read_back_until_it_ends() {
        let token = sign_upload(&key(), &grant());
        assert_eq!(verify_upload(&key(), &token, NOW + 59), Ok(grant()));
        assert_eq!(verify_upload(&key(), &token, NOW + 60), Err(UploadError::Expired));
        assert!(
            token
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)),
            "safe in a URL"
        );
    }

    #[test]
    fn trap_34_nobody_chooses_where_the_key_goes() {
        let evil = UploadGrant {
            url: "https://evil.example/".to_owned(),
            ..grant()
        };
        let other_key = sign_upload(&Subkey::from_bytes([2; 32]), &evil);
        assert_eq!(verify_upload(&key(), &other_key, NOW), Err(UploadError::BadSignature));
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&evil).unwrap());
        let token = sign_upload(&key(), &grant());
        let spliced = format!("{payload}.{}", token.split_once('.').unwrap().1);
        assert_eq!(verify_upload(&key(), &spliced, NOW), Err(UploadError::BadSignature));
    }

    #[test]
    fn no_changed_bit_passes() {
        let token = sign_upload(&key(), &grant());
        for bit in 0..token.len() * 8 {
            let mut bytes = token.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(verify_upload(&key(), &changed, NOW).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn what_is_signed_but_no_grant_is_malformed() {
        let mac = URL_SAFE_NO_PAD.encode(key().mac(&[DOMAIN, b"{}"]));
        let token = format!("{}.{mac}", URL_SAFE_NO_PAD.encode("{}"));
        assert_eq!(verify_upload(&key(), &token, NOW), Err(UploadError::Malformed));
        for token in ["", ".", "a", "e30.!", "e30"] {
            assert!(verify_upload(&key(), token, NOW).is_err(), "{token}");
        }
    }

    proptest! {
        #[test]
        fn any_text_can_be_verified(token in ".*") {
            prop_assert!(verify_upload(&key(), &token, NOW).is_err());
        }

        #[test]
        fn any_url_survives(url in ".*", ids: (i64, i64, i64), session: Option<u128>, life in 1..=i64::MAX - NOW) {
            let (user, tenant, row) = ids;
            let session = session.map(|id| SessionId(Uuid::from_u128(id)));
            let grant = UploadGrant {
                url, user: UserId(user), tenant: TenantId(tenant), key: KeyId(row), session, exp: NOW + life,
            };
            prop_assert_eq!(verify_upload(&key(), &sign_upload(&key(), &grant), NOW), Ok(grant));
        }
    }
}
