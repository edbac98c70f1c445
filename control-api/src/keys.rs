//! The master key: where it comes from, and the file that holds it where nobody configured one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ace_policies::Secret;
use ace_policies::vault::{MasterKey, MasterKeyError};

use crate::chance;

/// The name of the generated file in the state directory.
pub const FILE: &str = "encryption.key";

/// A generated key is one line; a file that is longer is something else.
const MAX_FILE_BYTES: u64 = 4096;

/// The master key, and those before it that may still have sealed something.
pub struct MasterKeys {
    pub current: MasterKey,
    pub older: Vec<MasterKey>,
    /// Where the current one comes from.
    pub source: KeySource,
}

/// Where a master key comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeySource {
    /// The configuration or the environment.
    Configured,
    /// `SECRET_KEY`.
    SecretKey,
    /// The file in the state directory, which a start made.
    File,
}

/// What was configured. Reading it out of the environment is left to the program.
#[derive(Default)]
pub struct KeyMaterial {
    /// `vault.key` of the configuration.
    pub vault_key: Option<Secret>,
    /// `OPENACE_ENCRYPTION_KEY`.
    pub encryption_key: Option<Secret>,
    /// `OPENACE_ENCRYPTION_KEY_PREVIOUS`: one or several, separated by commas, the newest first.
    pub previous: Option<Secret>,
    /// `SECRET_KEY`, from which older installations derived the key.
    pub secret_key: Option<Secret>,
}

/// Whether a key may be made where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Generate {
    /// One machine, one state directory.
    Yes,
    /// Several nodes share the database: each would make a key of its own.
    No,
}

/// Finds the master key: what is configured, else what `SECRET_KEY` gives, else the file, which is made if it may be.
pub fn resolve(material: &KeyMaterial, state_dir: &Path, generate: Generate) -> Result<MasterKeys, KeyError> {
    let older = material
        .previous
        .as_ref()
        .map(parse_older)
        .transpose()?
        .unwrap_or_default();
    let (current, source) = current(material, state_dir, generate)?;
    Ok(MasterKeys { current, older, source })
}

fn current(material: &KeyMaterial, state_dir: &Path, generate: Generate) -> Result<(MasterKey, KeySource), KeyError> {
    let configured = [
        ("vault.key", &material.vault_key),
        ("OPENACE_ENCRYPTION_KEY", &material.encryption_key),
    ];
    for (name, secret) in configured {
        if let Some(secret) = secret {
            let key = MasterKey::parse(secret.expose()).map_err(|error| KeyError::Configured(name, error))?;
            return Ok((key, KeySource::Configured));
        }
    }
    if let Some(secret) = &material.secret_key {
        let key = MasterKey::from_secret_key(secret.expose());
        let key = key.map_err(|error| KeyError::Configured("SECRET_KEY", error))?;
        tracing::warn!("the encryption key is derived from SECRET_KEY; better, set OPENACE_ENCRYPTION_KEY");
        return Ok((key, KeySource::SecretKey));
    }
    let path = state_dir.join(FILE);
    let key = match read(&path) {
        Err(KeyError::File(_, error)) if error.kind() == ErrorKind::NotFound => make(&path, generate),
        found => found,
    };
    Ok((key?, KeySource::File))
}

fn make(path: &Path, generate: Generate) -> Result<MasterKey, KeyError> {
    if generate == Generate::No {
        return Err(KeyError::NotShared);
    }
    match write(path) {
        Ok(()) => {
            tracing::warn!(path = %path.display(), "made a new encryption key; without it no backup can be opened")
        }
        // Somebody else was faster: theirs is the one.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(KeyError::File(path.to_owned(), error)),
    }
    read(path)
}

fn read(path: &Path) -> Result<MasterKey, KeyError> {
    let failed = |error| KeyError::File(path.to_owned(), error);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(KeyError::Readable(path.to_owned()));
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    let secret = Secret::new(text);
    MasterKey::parse(secret.expose()).map_err(|error| KeyError::FileContent(path.to_owned(), error))
}

/// Writes a new key so that it is there whole or not at all, and never over another: under a name of its own first,
/// which is then linked.
fn write(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let draft = folder.join(format!(".{FILE}.{}", chance::id()));
    let written = write_draft(&draft).and_then(|()| fs::hard_link(&draft, path));
    let _gone_anyway = fs::remove_file(&draft);
    written?;
    File::open(folder)?.sync_all()
}

fn write_draft(draft: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    let secret = Secret::new(hex::encode(chance::bytes::<32>()));
    file.write_all(secret.expose().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn parse_older(previous: &Secret) -> Result<Vec<MasterKey>, KeyError> {
    let keys = previous
        .expose()
        .split(',')
        .map(str::trim)
        .filter(|key| !key.is_empty());
    keys.map(parse_any)
        .collect::<Result<_, _>>()
        .map_err(|error| KeyError::Configured("OPENACE_ENCRYPTION_KEY_PREVIOUS", error))
}

/// An older key may have been derived from `SECRET_KEY`.
fn parse_any(text: &str) -> Result<MasterKey, MasterKeyError> {
    match MasterKey::parse(text) {
        Err(MasterKeyError::Format) => MasterKey::from_secret_key(text).map_err(|_| MasterKeyError::Format),
        parsed => parsed,
    }
}

/// Why there is no master key. All of it is for the operator to set right.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{0}: {1}")]
    Configured(&'static str, #[source] MasterKeyError),
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    File(PathBuf, #[source] io::Error),
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    FileContent(PathBuf, #[source] MasterKeyError),
    #[error("{path}: others may read the encryption key; run `chmod 600 {path}`, and consider it known", path = .0.display())]
    Readable(PathBuf),
    #[error(
        "no encryption key: nodes that share a PostgreSQL database must share the key too; set OPENACE_ENCRYPTION_KEY \
         on each (`openssl rand -hex 32` makes one)"
    )]
    NotShared,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text.to_owned()))
    }

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const OTHER: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn a_generated_key_stays_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = resolve(&KeyMaterial::default(), folder.path(), Generate::Yes).unwrap();
        let again = resolve(&KeyMaterial::default(), folder.path(), Generate::No).unwrap();
        assert_eq!(first.current.key_id(), again.current.key_id());
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [FILE], "nothing else is left behind");
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn programs_that_start_at_once_find_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let start = || {
            resolve(&KeyMaterial::default(), folder.path(), Generate::Yes)
                .unwrap()
                .current
                .key_id()
        };
        let ids: Vec<String> = std::thread::scope(|scope| {
            let programs: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            programs.into_iter().map(|program| program.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn trap_33_a_key_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, KEY).unwrap();
        for mode in [0o644, 0o640, 0o604] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = resolve(&KeyMaterial::default(), folder.path(), Generate::Yes);
            assert!(matches!(refused, Err(KeyError::Readable(_))), "{mode:o}");
        }
    }

    #[test]
    fn trap_33_default_and_short_secret_keys_are_refused() {
        for weak in ["dev-secret-key", "short", ""] {
            let material = KeyMaterial {
                secret_key: secret(weak),
                ..KeyMaterial::default()
            };
            assert!(
                resolve(&material, Path::new("/nowhere"), Generate::Yes).is_err(),
                "{weak:?}"
            );
        }
        let material = KeyMaterial {
            secret_key: secret(&"a-long-flask-secret-key".repeat(2)),
            ..KeyMaterial::default()
        };
        assert!(resolve(&material, Path::new("/nowhere"), Generate::Yes).is_ok());
    }

    #[test]
    fn the_configuration_wins_over_the_environment_and_that_over_secret_key() {
        let id = |material: &KeyMaterial| {
            resolve(material, Path::new("/nowhere"), Generate::No)
                .unwrap()
                .current
                .key_id()
        };
        let expected = MasterKey::parse(KEY).unwrap().key_id();
        let secret_key = || secret(&"x1y2z3".repeat(8));
        let material = KeyMaterial {
            vault_key: secret(KEY),
            encryption_key: secret(OTHER),
            secret_key: secret_key(),
            previous: None,
        };
        assert_eq!(id(&material), expected);
        let material = KeyMaterial {
            encryption_key: secret(KEY),
            secret_key: secret_key(),
            ..KeyMaterial::default()
        };
        assert_eq!(id(&material), expected);
    }

    #[test]
    fn several_older_keys_may_be_given() {
        let older = format!("{OTHER}, {}", "a-long-flask-secret-key".repeat(2));
        let material = KeyMaterial {
            encryption_key: secret(KEY),
            previous: secret(&older),
            ..KeyMaterial::default()
        };
        assert_eq!(
            resolve(&material, Path::new("/nowhere"), Generate::No)
                .unwrap()
                .older
                .len(),
            2
        );
    }

    #[test]
    fn nodes_that_share_a_database_never_make_keys_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let refused = resolve(&KeyMaterial::default(), folder.path(), Generate::No);
        assert!(matches!(refused, Err(KeyError::NotShared)));
    }
}
