//! Passwords: argon2id, off the threads that serve requests, and what is too weak to be one.

use std::sync::Arc;

use ace_policies::Secret;
use ace_policies::hygiene;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::chance;
use crate::error::ApiError;

/// The shortest password that a person may choose.
const MIN_CHARS: usize = 8;

/// The longest: hashing is paid for by the byte.
const MAX_BYTES: usize = 1024;

/// What is tried first by whoever guesses.
const COMMON: [&str; 8] = [
    "admin123",
    "password",
    "password1",
    "password123",
    "12345678",
    "123456789",
    "qwerty123",
    "letmein123",
];

/// Hashes and compares passwords. At most as many at once as there are cores: each costs 19 MiB and some 20 ms.
pub(crate) struct Passwords {
    slots: Arc<Semaphore>,
}

impl Passwords {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            slots: Arc::new(Semaphore::new(cores)),
        }
    }

    /// The hash of a password, with its salt and parameters in it.
    pub async fn hash(&self, password: Secret) -> Result<String, ApiError> {
        self.off_thread(move || {
            Argon2::default()
                .hash_password(password.expose().as_bytes())
                .map(|hash| hash.to_string())
        })
        .await?
        .map_err(|error| ApiError::internal(error.to_string()))
    }

    /// Whether a password is the one that was hashed. Without a hash, for a user who is not there, it takes as long.
    pub async fn matches(&self, hash: Option<String>, password: Secret) -> Result<bool, ApiError> {
        self.off_thread(move || {
            let argon2 = Argon2::default();
            let Some(hash) = hash else {
                let _same_time = argon2.hash_password(password.expose().as_bytes());
                return false;
            };
            PasswordHash::new(&hash)
                .is_ok_and(|hash| argon2.verify_password(password.expose().as_bytes(), &hash).is_ok())
        })
        .await
    }

    async fn off_thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
        let slot = self.slots.clone().acquire_owned().await.map_err(ApiError::internal)?;
        let done = spawn_blocking(move || {
            let _slot = slot;
            work()
        });
        done.await.map_err(ApiError::internal)
    }
}

/// A password that nobody knows yet: 120 random bits in words' length.
pub(crate) fn generate() -> Secret {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let letters = chance::bytes::<24>().map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    let groups: Vec<String> = letters.chunks(6).map(|group| group.iter().collect()).collect();
    Secret::new(groups.join("-"))
}

/// Refuses what should not be a password. `field` is named in the answer.
pub(crate) fn judge(field: &str, password: &Secret, username: &str) -> Result<(), ApiError> {
    let text = password.expose();
    if text.chars().count() < MIN_CHARS {
        return Err(ApiError::bad(
            "weak_password",
            format!("{field}: at least {MIN_CHARS} characters are needed"),
        ));
    }
    if text.len() > MAX_BYTES {
        return Err(ApiError::field(
            field,
            format_args!("at most {MAX_BYTES} bytes are allowed"),
        ));
    }
    let lower = text.to_ascii_lowercase();
    if hygiene::is_placeholder(text) || COMMON.contains(&lower.as_str()) || lower == username {
        return Err(ApiError::bad(
            "weak_password",
            format!("{field}: this is among the first that anybody would try"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_matches_its_password_alone() {
        let passwords = Passwords::new();
        let hash = passwords.hash(Secret::new("correct horse".to_owned())).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let matches = |hash: Option<&str>, password: &str| {
            passwords.matches(hash.map(ToOwned::to_owned), Secret::new(password.to_owned()))
        };
        assert!(matches(Some(&hash), "correct horse").await.unwrap());
        assert!(!matches(Some(&hash), "correct horsf").await.unwrap());
        assert!(!matches(None, "correct horse").await.unwrap());
        assert!(!matches(Some("garbage"), "correct horse").await.unwrap());
    }

    #[test]
    fn weak_passwords_are_refused() {
        for weak in ["", "short", "admin123", "Password123", "alice-smith", "changeme-now"] {
            assert!(
                judge("password", &Secret::new(weak.to_owned()), "alice-smith").is_err(),
                "{weak}"
            );
        }
        assert!(judge("password", &Secret::new("correct horse".to_owned()), "alice-smith").is_ok());
    }

    #[test]
    fn generated_passwords_are_strong_and_different() {
        let (one, other) = (generate(), generate());
        assert_eq!(one.expose().len(), 27);
        assert_ne!(one.expose(), other.expose());
        assert!(judge("password", &one, "admin").is_ok());
    }
}
