//! The key by which push services know this installation (VAPID, RFC 8292). It is made when it is first needed, and lies sealed in the
//! database: browsers tie their subscriptions to it.

use ace_policies::vault::{Sealed, vapid_key_aad};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::any::AnyRow;
use url::Url;

use crate::App;
use crate::chance;
use crate::error::ApiError;

/// How long a signed word is good, in seconds. Services take at most a day.
const LIFE_S: i64 = 12 * 3600;

/// The opened key.
pub(super) struct Key {
    pair: EcdsaKeyPair,
    public: String,
}

/// The public half, base64url: what a page gives to `pushManager.subscribe` as `applicationServerKey`.
pub(crate) async fn public_key(app: &App) -> Result<String, ApiError> {
    Ok(row(app).await?.try_get("public_key")?)
}

/// Opens it.
pub(super) async fn open(app: &App) -> Result<Key, ApiError> {
    let row = row(app).await?;
    let sealed = Sealed {
        key_id: row.try_get("key_id")?,
        bytes: row.try_get("sealed")?,
    };
    let secret = app
        .vault()
        .open(&vapid_key_aad(), &sealed)
        .map_err(ApiError::internal)?;
    let document = URL_SAFE_NO_PAD.decode(secret.expose()).map_err(ApiError::internal)?;
    Ok(Key {
        pair: pair(&document)?,
        public: row.try_get("public_key")?,
    })
}

impl Key {
    /// The value of `authorization` for a push service: who we are, for whom, until when.
    pub fn authorization(&self, endpoint: &Url, contact: Option<&str>, now_s: i64) -> Result<String, ApiError> {
        let mut claims = json!({ "aud": endpoint.origin().ascii_serialization(), "exp": now_s + LIFE_S });
        if let Some(contact) = contact {
            claims["sub"] = Value::from(contact);
        }
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = encode(&json!({ "typ": "JWT", "alg": "ES256" }));
        let signed = format!("{head}.{}", encode(&claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| ApiError::internal("signing failed"))?;
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        Ok(format!("vapid t={signed}.{signature}, k={}", self.public))
    }
}

fn pair(document: &[u8]) -> Result<EcdsaKeyPair, ApiError> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document, &SystemRandom::new())
        .map_err(|error| ApiError::internal(error.to_string()))
}

async fn row(app: &App) -> Result<AnyRow, ApiError> {
    match find(app).await? {
        Some(row) => Ok(row),
        None => {
            make(app).await?;
            find(app)
                .await?
                .ok_or_else(|| ApiError::internal("the push key is not there although it was made"))
        }
    }
}

async fn find(app: &App) -> Result<Option<AnyRow>, ApiError> {
    Ok(sqlx::query("SELECT * FROM vapid_keys")
        .fetch_optional(&app.db().read)
        .await?)
}

/// Makes the key. Of several nodes that do, one wins, and its key is everybody's.
async fn make(app: &App) -> Result<(), ApiError> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| ApiError::internal("a push key cannot be made"))?;
    let public = URL_SAFE_NO_PAD.encode(pair(document.as_ref())?.public_key());
    let secret = ace_policies::Secret::new(URL_SAFE_NO_PAD.encode(document.as_ref()));
    let sealed = app
        .vault()
        .seal(&vapid_key_aad(), secret.expose().as_bytes(), chance::bytes());
    let mut record = app.record().await?;
    sqlx::query(
        "INSERT INTO vapid_keys (id, public_key, key_id, sealed, created_at) VALUES (1, $1, $2, $3, $4)
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(public)
    .bind(&sealed.key_id)
    .bind(&sealed.bytes)
    .bind(app.now())
    .execute(record.sql())
    .await?;
    record.commit().await
}
