//! What a token must survive, and everything that must not pass for one.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;

fn key(kid: &str, byte: u8) -> SigningKey {
    SigningKey::new(kid, &SigningKey::secret_from(&[byte; 32])).unwrap()
}

fn ring() -> Keyring {
    Keyring::new(vec![key("new", 1), key("old", 2)])
}

fn claims() -> Claims {
    Claims {
        session: Some(SessionId(Uuid::from_u128(1))),
        user: UserId(2),
        tenant: TenantId(3),
        machine: Some(MachineId(Uuid::from_u128(4))),
        provider: Some(Provider::Anthropic),
        tool: "claude-code".to_owned(),
        models: Some(vec!["claude-sonnet-4-5".to_owned()]),
        iat: NOW,
        exp: NOW + 300,
        jti: Uuid::from_u128(5),
        generation: 7,
    }
}

/// A token as an attacker who knows the key's bytes, or does not, might put it together.
fn forged(header: &Value, payload: &Value, key: &[u8]) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(payload));
    let mac = Hmac::<sha2::Sha256>::new_from_slice(key)
        .unwrap()
        .chain_update(&message)
        .finalize()
        .into_bytes();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac))
}

fn secret_of(byte: u8) -> Vec<u8> {
    SigningKey::secret_from(&[byte; 32]).expose().as_bytes().to_vec()
}

#[track_caller]
fn check(token: &str, expected: Result<(), TokenError>) {
    assert_eq!(ring().verify(token, NOW).map(|_| ()), expected, "{token}");
}

#[test]
fn what_is_signed_is_read_back() {
    for kid in ["new", "old"] {
        let token = sign(&claims(), &key(kid, if kid == "new" { 1 } else { 2 })).unwrap();
        assert_eq!(ring().verify(&token, NOW), Ok(claims()));
        assert_eq!(kid_of(&token).as_deref(), Some(kid));
    }
    assert!(ring().knows("new") && !ring().knows("newer"));
}

#[test]
fn a_token_outside_of_any_session_is_small() {
    let bare = Claims {
        session: None,
        machine: None,
        provider: None,
        models: None,
        ..claims()
    };
    let token = sign(&bare, &key("new", 1)).unwrap();
    assert_eq!(ring().verify(&token, NOW), Ok(bare));
    assert!(token.len() < 320, "{} characters", token.len());
}

#[test]
fn trap_29_expiry_is_utc_seconds() {
    let token = sign(&claims(), &key("new", 1)).unwrap();
    assert!(ring().verify(&token, NOW + 299).is_ok());
    assert_eq!(ring().verify(&token, NOW + 300), Err(TokenError::Expired), "no leeway");
    // Eight hours east or west would show at once.
    assert_eq!(ring().verify(&token, NOW + 8 * 3600), Err(TokenError::Expired));
    assert_eq!(ring().verify(&token, NOW - 8 * 3600), Err(TokenError::NotYetValid));
}

#[test]
fn a_clock_may_be_a_minute_ahead_and_no_more() {
    let token = sign(&claims(), &key("new", 1)).unwrap();
    assert!(ring().verify(&token, NOW - MAX_CLOCK_SKEW_S).is_ok());
    assert_eq!(
        ring().verify(&token, NOW - MAX_CLOCK_SKEW_S - 1),
        Err(TokenError::NotYetValid)
    );
    assert_eq!(ring().verify(&token, i64::MIN), Err(TokenError::NotYetValid));
    assert_eq!(ring().verify(&token, i64::MAX), Err(TokenError::Expired));
}

#[test]
fn only_hs256_is_believed_whatever_the_header_asks_for() {
    let payload = serde_json::to_value(claims()).unwrap();
    for alg in [
        "none", "None", "NONE", "HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA", "hs256", "",
    ] {
        let token = forged(
            &json!({"alg": alg, "typ": "JWT", "kid": "new"}),
            &payload,
            &secret_of(1),
        );
        check(&token, Err(TokenError::WrongAlgorithm));
        let (unsigned, _) = token.rsplit_once('.').unwrap();
        check(&format!("{unsigned}."), Err(TokenError::WrongAlgorithm));
    }
    check(
        &forged(&json!({"kid": "new"}), &payload, &secret_of(1)),
        Err(TokenError::Malformed),
    );
    check(
        &forged(&json!({"alg": ["HS256"], "kid": "new"}), &payload, &secret_of(1)),
        Err(TokenError::Malformed),
    );
}

#[test]
fn a_key_is_found_by_its_name_and_by_nothing_else() {
    let payload = serde_json::to_value(claims()).unwrap();
    let with = |kid: Value| forged(&json!({"alg": "HS256", "kid": kid}), &payload, &secret_of(1));
    check(&with(json!("new")), Ok(()));
    check(&with(json!("old")), Err(TokenError::BadSignature));
    check(&with(json!("New")), Err(TokenError::UnknownKey));
    check(&with(json!("../new")), Err(TokenError::UnknownKey));
    check(&with(json!("")), Err(TokenError::UnknownKey));
    check(&with(Value::Null), Err(TokenError::UnknownKey));
    check(&with(json!(1)), Err(TokenError::Malformed));
    check(
        &forged(&json!({"alg": "HS256"}), &payload, &secret_of(1)),
        Err(TokenError::UnknownKey),
    );
    // A key that the token brings along is no key.
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret_of(9))});
    let header = json!({"alg": "HS256", "kid": "new", "jwk": jwk, "jku": "https://evil.example/keys"});
    check(&forged(&header, &payload, &secret_of(9)), Err(TokenError::BadSignature));
}

#[test]
fn another_key_of_the_same_name_is_refused() {
    let token = sign(&claims(), &key("new", 9)).unwrap();
    check(&token, Err(TokenError::BadSignature));
    check(
        &forged(&json!({"alg": "HS256", "kid": "new"}), &json!({}), b""),
        Err(TokenError::BadSignature),
    );
}

#[test]
fn missing_and_strange_claims_are_malformed() {
    let header = json!({"alg": "HS256", "kid": "new"});
    let whole = serde_json::to_value(claims()).unwrap();
    for claim in ["uid", "tid", "tool", "iat", "exp", "jti", "gen"] {
        let mut payload = whole.clone();
        payload.as_object_mut().unwrap().remove(claim);
        check(&forged(&header, &payload, &secret_of(1)), Err(TokenError::Malformed));
    }
    for (claim, value) in [
        ("exp", json!("never")),
        ("exp", json!(1e300)),
        ("exp", Value::Null),
        ("prv", json!("mistral")),
        ("sid", json!("not-a-uuid")),
        ("models", json!("gpt-5")),
    ] {
        let mut payload = whole.clone();
        payload[claim] = value;
        check(&forged(&header, &payload, &secret_of(1)), Err(TokenError::Malformed));
    }
}

#[test]
fn short_keys_are_refused() {
    assert!(matches!(
        SigningKey::new("k", &Secret::new("x".repeat(31))),
        Err(TokenError::WeakKey)
    ));
    assert!(SigningKey::new("k", &Secret::new("x".repeat(32))).is_ok());
}

#[test]
fn what_has_the_wrong_shape_is_malformed() {
    for token in [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c",
        "e30.e30.",
        "e30.e30.e30",
        "sk-ant-1234",
        "é.é.é",
        "acep_x",
    ] {
        check(token, Err(TokenError::Malformed));
        assert_eq!(kid_of(token), None);
    }
    let token = sign(&claims(), &key("new", 1)).unwrap();
    check(&format!("{token}."), Err(TokenError::Malformed));
    check(&format!("{token}="), Err(TokenError::Malformed));
    check(&format!(" {token}"), Err(TokenError::Malformed));
    check(&token.replace('.', "%2E"), Err(TokenError::Malformed));
}

#[test]
fn no_changed_bit_passes() {
    let token = sign(&claims(), &key("new", 1)).unwrap();
    let ring = ring();
    for position in 0..token.len() {
        for bit in 0..8 {
            let mut bytes = token.clone().into_bytes();
            bytes[position] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(ring.verify(&changed, NOW).is_err(), "byte {position}, bit {bit}");
            }
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, now: i64) {
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(ring().verify(&text, now).is_err());
        kid_of(&text);
    }

    #[test]
    fn arbitrary_parts_never_panic(header in ".*", payload in ".*", signature: Vec<u8>) {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let head = json!({"alg": "HS256", "kid": header}).to_string();
        for head in [part(header.as_bytes()), part(head.as_bytes())] {
            let token = format!("{head}.{}.{}", part(payload.as_bytes()), part(&signature));
            prop_assert!(ring().verify(&token, NOW).is_err());
        }
    }

    #[test]
    fn every_claim_survives_the_round_trip(
        ids: (i64, i64, Option<u128>, Option<u128>, u128),
        provider in prop::option::of(prop::sample::select(Provider::ALL.to_vec())),
        tool in ".*",
        models: Option<Vec<String>>,
        iat in 0..=NOW,
        life in 1..=1_000_000_i64,
        generation: i64,
    ) {
        let (user, tenant, session, machine, jti) = ids;
        let claims = Claims {
            session: session.map(|id| SessionId(Uuid::from_u128(id))),
            user: UserId(user),
            tenant: TenantId(tenant),
            machine: machine.map(|id| MachineId(Uuid::from_u128(id))),
            provider, tool, models, iat, exp: NOW + life,
            jti: Uuid::from_u128(jti),
            generation,
        };
        let token = sign(&claims, &key("new", 1)).unwrap();
        prop_assert_eq!(ring().verify(&token, NOW), Ok(claims));
    }
}
