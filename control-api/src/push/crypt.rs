//! The encryption of pushes, so that push services cannot read them: RFC 8291, in the form of RFC 8188 (`aes128gcm`).

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes128Gcm, KeyInit};
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hkdf::Hkdf;
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::rand::SystemRandom;
use sha2::Sha256;

use crate::chance;
use crate::error::ApiError;

/// A point of the curve, uncompressed.
const POINT_BYTES: usize = 65;

/// The secret of a subscription.
pub(crate) const AUTH_BYTES: usize = 16;

/// The one record of the body is at most so big, which is also what push services must take.
const RECORD_BYTES: u32 = 4096;

/// Browsers write these without padding, and people may have added some.
const TEXT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a browser gave for encrypting to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Keys {
    point: [u8; POINT_BYTES],
    auth: [u8; AUTH_BYTES],
}

impl Keys {
    /// Reads `p256dh` and `auth` of a `PushSubscription`, base64url both.
    pub fn parse(p256dh: &str, auth: &str) -> Option<Self> {
        let point: [u8; POINT_BYTES] = TEXT.decode(p256dh.trim()).ok()?.try_into().ok()?;
        let auth = TEXT.decode(auth.trim()).ok()?.try_into().ok()?;
        (point[0] == 4).then_some(Self { point, auth })
    }

    /// Whether the point is on the curve: what is not can be encrypted to by nobody.
    pub fn are_good(&self) -> bool {
        encrypt(self, b"").is_ok()
    }
}

/// Encrypts a text for a browser. Errors when its key is no point of the curve.
pub(super) fn encrypt(keys: &Keys, text: &[u8]) -> Result<Vec<u8>, ApiError> {
    let broken = |_| ApiError::internal("a subscription's key is no point of the curve");
    let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).map_err(broken)?;
    let own_point = own.compute_public_key().map_err(broken)?;
    let own_point: [u8; POINT_BYTES] = own_point.as_ref().try_into().map_err(ApiError::internal)?;
    let theirs = UnparsedPublicKey::new(&ECDH_P256, keys.point);
    let sealed = agree_ephemeral(own, &theirs, |shared| {
        seal(keys, shared, &own_point, chance::bytes(), text)
    });
    sealed.map_err(broken)
}

/// The body: salt, size of a record, the sender's point, and one record.
fn seal(keys: &Keys, shared: &[u8], own_point: &[u8; POINT_BYTES], salt: [u8; 16], text: &[u8]) -> Vec<u8> {
    let input: [u8; 32] = expand(
        &keys.auth,
        shared,
        &[b"WebPush: info\0", keys.point.as_slice(), own_point],
    );
    let key: [u8; 16] = expand(&salt, &input, &[b"Content-Encoding: aes128gcm\0"]);
    let nonce: [u8; 12] = expand(&salt, &input, &[b"Content-Encoding: nonce\0"]);
    // 2 says that this record is the last.
    let padded = [text, &[2]].concat();
    let payload = Payload { msg: &padded, aad: b"" };
    let record = Aes128Gcm::new(&key.into())
        .encrypt(&nonce.into(), payload)
        .expect("AES-GCM refuses only plaintexts of more than 64 GiB");
    let length = [POINT_BYTES as u8];
    [&salt[..], &RECORD_BYTES.to_be_bytes(), &length, own_point, &record].concat()
}

fn expand<const N: usize>(salt: &[u8], input: &[u8], info: &[&[u8]]) -> [u8; N] {
    let mut output = [0; N];
    Hkdf::<Sha256>::new(Some(salt), input)
        .expand_multi_info(info, &mut output)
        .expect("SHA-256 gives more than enough");
    output
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Opens a body as a browser would.
    pub fn decrypt(keys: &Keys, private: EphemeralPrivateKey, body: &[u8]) -> Vec<u8> {
        let (salt, rest) = body.split_at(16);
        assert_eq!(rest[..4], RECORD_BYTES.to_be_bytes());
        assert_eq!(usize::from(rest[4]), POINT_BYTES);
        let (sender, record) = rest[5..].split_at(POINT_BYTES);
        let theirs = UnparsedPublicKey::new(&ECDH_P256, sender);
        let opened = agree_ephemeral(private, &theirs, |shared| {
            let input: [u8; 32] = expand(&keys.auth, shared, &[b"WebPush: info\0", &keys.point, sender]);
            let key: [u8; 16] = expand(salt, &input, &[b"Content-Encoding: aes128gcm\0"]);
            let nonce: [u8; 12] = expand(salt, &input, &[b"Content-Encoding: nonce\0"]);
            Aes128Gcm::new(&key.into()).decrypt(&nonce.into(), record).unwrap()
        });
        let mut text = opened.unwrap();
        assert_eq!(text.pop(), Some(2));
        text
    }

    /// A browser: its private key, and what it gives away.
    pub fn browser() -> (EphemeralPrivateKey, Keys) {
        let private = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
        let point = private.compute_public_key().unwrap().as_ref().try_into().unwrap();
        let auth = chance::bytes();
        (private, Keys { point, auth })
    }

    impl Keys {
        /// As a browser writes them.
        pub fn texts(&self) -> (String, String) {
            let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
            (encode(&self.point), encode(&self.auth))
        }
    }

    #[test]
    fn a_browser_reads_what_was_encrypted_for_it() {
        let (private, keys) = browser();
        let body = encrypt(&keys, "für dich".as_bytes()).unwrap();
        assert_eq!(decrypt(&keys, private, &body), "für dich".as_bytes());
        assert_ne!(encrypt(&keys, b"x").unwrap(), encrypt(&keys, b"x").unwrap());
    }

    /// RFC 8291, appendix A.
    #[test]
    fn the_example_of_the_standard_comes_out_to_the_byte() {
        let bytes = |text: &str| TEXT.decode(text).unwrap();
        let keys = Keys::parse(
            "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            "BTBZMqHH6r4Tts7J_aSIgg",
        )
        .unwrap();
        let own_point =
            bytes("BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8");
        let shared = bytes("kyrL1jIIOHEzg3sM2ZWRHDRB62YACZhhSlknJ672kSs");
        let salt = bytes("DGv6ra1nlYgDCS1FRnbzlw");
        let body = seal(
            &keys,
            &shared,
            &own_point.try_into().unwrap(),
            salt.try_into().unwrap(),
            b"When I grow up, I want to be a watermelon",
        );
        let expected = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(body, bytes(expected));
    }

    #[test]
    fn keys_that_nothing_can_be_encrypted_to_are_found_out() {
        let (point, auth) = browser().1.texts();
        assert!(Keys::parse(&point, &auth).unwrap().are_good());
        assert!(
            Keys::parse(&format!("{point}="), &auth).is_some(),
            "padding is no matter"
        );
        assert_eq!(Keys::parse(&auth, &auth), None);
        assert_eq!(Keys::parse(&point, &point), None);
        assert_eq!(Keys::parse("?", &auth), None);
        let mut nowhere = [7; POINT_BYTES];
        nowhere[0] = 4;
        let nowhere = Keys {
            point: nowhere,
            auth: [0; AUTH_BYTES],
        };
        assert!(!nowhere.are_good(), "the point is not on the curve");
    }
}
