//! Who this machine is to its server, in `config.json`: its id, its token, and during a rotation the token after it.
//!
//! A stored token is bound to the origin that gave it: with another `server_url` nothing is sent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ace_policies::{MachineId, Secret, secret};
use serde_json::Value;
use uuid::Uuid;

use crate::config::{Config, ConfigError, ConfigFile, FILE, write_private};

/// The file that holds the machine's id, a text beside the settings.
const ID_FILE: &str = "machine_id";
const TOKEN: &str = "agent_token";
const NEXT: &str = "agent_token_next";
const ORIGIN: &str = "agent_token_origin";
/// The hash of the `OPENACE_AGENT_TOKEN` that a rotation has replaced: the environment cannot be changed from here.
const SUPERSEDES: &str = "agent_token_supersedes";

/// The tokens of one agent, in memory and in its settings file.
pub struct Credentials {
    file: PathBuf,
    origin: String,
    machine_id: MachineId,
    current: Option<Secret>,
    next: Option<Secret>,
    from_environment: Option<String>,
}

/// There is no token that may be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    File(#[from] io::Error),
    #[error(
        "agent_token_origin_mismatch: the stored agent token belongs to {stored}, but server_url is {effective}; nothing was sent. \
         Register with the new server (ace-agent register), or set server_url back"
    )]
    Origin { stored: String, effective: String },
}

impl Credentials {
    /// Reads what is stored, and makes the machine's id where it has none.
    pub fn open(config: &Config) -> Result<Self, CredentialError> {
        let path = config.dir.join(FILE);
        let file = ConfigFile::read(&path)?;
        let secret = |key| file.text(key).map(|text| Secret::new(text.to_owned()));
        let stored = secret(TOKEN);
        let from_environment = config.env_token.as_ref().map(|token| secret::hash(token.expose()));
        let superseded = from_environment.is_some() && from_environment.as_deref() == file.text(SUPERSEDES);
        let by_environment = config.env_token.as_ref().filter(|_| !superseded);
        let current = match by_environment {
            Some(token) => Some(Secret::new(token.expose().to_owned())),
            None => stored,
        };
        let next = secret(NEXT);
        let is_stored = next.is_some() || (by_environment.is_none() && current.is_some());
        let effective = config.origin();
        if let Some(stored) = file.text(ORIGIN).filter(|stored| is_stored && *stored != effective) {
            let stored = stored.to_owned();
            return Err(CredentialError::Origin { stored, effective });
        }
        Ok(Self {
            machine_id: machine_id(config)?,
            file: path,
            origin: effective,
            current,
            next,
            from_environment,
        })
    }

    /// The same without any token, for a registration: what an earlier one has left belongs to it, perhaps to another server.
    pub fn unregistered(config: &Config) -> io::Result<Self> {
        Ok(Self {
            machine_id: machine_id(config)?,
            file: config.dir.join(FILE),
            origin: config.origin(),
            current: None,
            next: None,
            from_environment: None,
        })
    }

    /// The machine's id, the same for its whole life.
    pub fn machine_id(&self) -> MachineId {
        self.machine_id
    }

    /// The token to try: a rotation's new one first.
    pub fn token(&self) -> Option<&Secret> {
        self.next.as_ref().or(self.current.as_ref())
    }

    /// Whether [`Self::token`] is one that has not been used yet.
    pub fn is_rotating(&self) -> bool {
        self.next.is_some()
    }

    /// Stores the answer to a registration, and forgets the registration token.
    pub fn registered(&mut self, token: Secret) -> io::Result<()> {
        let id = self.machine_id.to_string();
        self.rewrite(|file| {
            file.set(TOKEN, Some(token.expose().into()));
            file.set("machine_id", Some(id.into()));
            for key in [NEXT, SUPERSEDES, "registration_token"] {
                file.set(key, None);
            }
        })?;
        self.current = Some(token);
        self.next = None;
        Ok(())
    }

    /// Stores a rotation's new token beside the one in use.
    pub fn rotate_to(&mut self, token: Secret) -> io::Result<()> {
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.expose() == token.expose())
        {
            return Ok(());
        }
        self.rewrite(|file| file.set(NEXT, Some(token.expose().into())))?;
        self.next = Some(token);
        Ok(())
    }

    /// The new token works: the old one is dead by that, and forgotten.
    pub fn rotated(&mut self) -> io::Result<()> {
        let Some(next) = self.next.take() else { return Ok(()) };
        let supersedes = self.from_environment.clone().map(Value::from);
        let written = self.rewrite(|file| {
            file.set(TOKEN, Some(next.expose().into()));
            file.set(NEXT, None);
            file.set(SUPERSEDES, supersedes);
        });
        self.current = Some(next);
        written
    }

    /// The new token is refused: the old one counts again.
    pub fn rotation_failed(&mut self) -> io::Result<()> {
        self.next = None;
        self.rewrite(|file| file.set(NEXT, None))
    }

    /// Forgets every token; the machine keeps its id.
    pub fn forget(&mut self) -> io::Result<()> {
        (self.current, self.next) = (None, None);
        self.rewrite(|file| {
            for key in [TOKEN, NEXT, ORIGIN, SUPERSEDES, "registration_token"] {
                file.set(key, None);
            }
        })
    }

    fn rewrite(&self, change: impl FnOnce(&mut ConfigFile)) -> io::Result<()> {
        let mut file = ConfigFile::read(&self.file).map_err(io::Error::other)?;
        for key in file.unknown_keys() {
            tracing::warn!(
                key,
                "config.json has a key that means nothing to this agent; it is kept"
            );
        }
        file.set(ORIGIN, Some(self.origin.clone().into()));
        change(&mut file);
        file.write()
    }
}

/// `OPENACE_MACHINE_ID`, the settings' own, the one in the file beside them, or a new one; in the end it stands in the file.
fn machine_id(config: &Config) -> io::Result<MachineId> {
    let path = config.dir.join(ID_FILE);
    let kept = read_id(&path);
    let id = config.machine_id.or(kept).unwrap_or_else(|| MachineId(Uuid::new_v4()));
    if kept != Some(id) {
        write_private(&path, format!("{id}\n").as_bytes())?;
    }
    Ok(id)
}

fn read_id(path: &Path) -> Option<MachineId> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(FILE), text).unwrap();
            Self(dir)
        }

        fn file(&self) -> ConfigFile {
            ConfigFile::read(&self.0.path().join(FILE)).unwrap()
        }

        fn open<const N: usize>(&self, environment: [(&str, &str); N]) -> Result<Credentials, CredentialError> {
            let config = Config::new(self.0.path(), &Environment::from(environment), &self.file())?;
            Credentials::open(&config)
        }
    }

    fn token(credentials: &Credentials) -> Option<&str> {
        credentials.token().map(Secret::expose)
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_machine_keeps_its_id() {
        let home = Home::new(r#"{"machine_id":""}"#);
        let first = home.open([]).unwrap().machine_id();
        assert_eq!(home.open([]).unwrap().machine_id(), first);
        let other = "6f6c9bd1-6a3c-4b58-8cf6-6f4a0d5a6a01";
        assert_eq!(
            home.open([("OPENACE_MACHINE_ID", other)])
                .unwrap()
                .machine_id()
                .to_string(),
            other
        );
        assert_eq!(home.open([]).unwrap().machine_id().to_string(), other, "it is kept");
    }

    #[test]
    fn registration_forgets_its_token_and_a_rotation_the_old_one() {
        let home = Home::new(r#"{"registration_token":"once","colour":"green"}"#);
        let mut credentials = home.open([]).unwrap();
        assert_eq!(token(&credentials), None);
        credentials.registered(secret("one")).unwrap();
        assert_eq!(
            (home.file().text("registration_token"), home.file().text("colour")),
            (None, Some("green"))
        );
        credentials.rotate_to(secret("two")).unwrap();
        let mut credentials = home.open([]).unwrap();
        assert!(credentials.is_rotating());
        assert_eq!(token(&credentials), Some("two"));
        assert_eq!(home.file().text(TOKEN), Some("one"), "until the new one has worked");
        credentials.rotated().unwrap();
        assert_eq!((home.file().text(TOKEN), home.file().text(NEXT)), (Some("two"), None));
        credentials.rotate_to(secret("three")).unwrap();
        credentials.rotation_failed().unwrap();
        assert_eq!(token(&home.open([]).unwrap()), Some("two"));
        credentials.forget().unwrap();
        assert_eq!(token(&home.open([]).unwrap()), None);
    }

    #[test]
    fn the_environment_goes_first_until_a_rotation_has_replaced_it() {
        let home = Home::new(r#"{"agent_token":"stored"}"#);
        let environment = [("OPENACE_AGENT_TOKEN", "given")];
        let mut credentials = home.open(environment).unwrap();
        assert_eq!(token(&credentials), Some("given"));
        credentials.rotate_to(secret("new")).unwrap();
        credentials.rotated().unwrap();
        assert_eq!(token(&home.open(environment).unwrap()), Some("new"));
        assert_eq!(
            token(&home.open([("OPENACE_AGENT_TOKEN", "another")]).unwrap()),
            Some("another")
        );
    }

    #[test]
    fn a_stored_token_does_not_go_to_another_server() {
        let home = Home::new("{}");
        home.open([]).unwrap().registered(secret("one")).unwrap();
        let elsewhere = ("OPENACE_SERVER_URL", "https://other.example.com");
        let error = home.open([elsewhere]).err().unwrap().to_string();
        assert!(error.starts_with("agent_token_origin_mismatch"), "{error}");
        let given = home.open([elsewhere, ("OPENACE_AGENT_TOKEN", "given")]).unwrap();
        assert_eq!(token(&given), Some("given"));
    }
}
