//! A look into the machine from afar: directories, files, the state of repositories. Nothing here changes anything.
//!
//! Only below the configured roots, after symbolic links are resolved, and never into the agent's own directory, where its token is.

mod git;
mod listing;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use ace_policies::wire::{Command, Failure, FailureCode, FromAgent};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{sync::Semaphore, time::timeout};
use uuid::Uuid;

use crate::{config::Config, mask::Mask, outbox::Outbox};

/// Looks that may be under way at once; the others wait.
const PARALLEL: usize = 4;
/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(25);
/// What an answer's JSON may take: it has to fit into one message.
const MAX_JSON_BYTES: usize = 900 << 10;

/// What may be looked at.
pub struct Looking {
    roots: Vec<PathBuf>,
    home: PathBuf,
    work_dir: PathBuf,
    own_dir: PathBuf,
    mask: Arc<RwLock<Mask>>,
    permits: Semaphore,
}

/// A path that exists, without symbolic links, below one of the roots.
struct Allowed(PathBuf);

impl Looking {
    /// Below the roots of the settings.
    pub fn new(config: &Config, mask: Arc<RwLock<Mask>>) -> Self {
        Self {
            roots: config.roots.clone(),
            home: config.home.clone(),
            work_dir: config.work_dir.clone(),
            own_dir: config.dir.clone(),
            mask,
            permits: Semaphore::new(PARALLEL),
        }
    }

    /// Answers a command that only looks. Errors say what people can do about it.
    pub async fn look(self: &Arc<Self>, command: Command) -> Result<Value, Failure> {
        let _permit = self.permits.acquire().await.map_err(|error| failed(&error))?;
        match command {
            Command::BrowseDirectory { path } => self.on_disk(path, listing::list).await,
            Command::ReadFile { path } => self.on_disk(path, listing::read).await,
            Command::GitStatus { path } => git::status(self, self.resolve(&path)?).await,
            Command::GitDiff { path } => git::diff(self, self.resolve(&path)?).await,
            other => Err(failure(
                FailureCode::Unsupported,
                format!("{} is not a look", other.kind()),
            )),
        }
    }

    /// Disks, and those of other machines even more, can be slow: on a thread for such things.
    async fn on_disk(
        self: &Arc<Self>,
        path: String,
        look: fn(&Self, &Allowed) -> Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        let this = self.clone();
        let looked = tokio::task::spawn_blocking(move || look(&this, &this.resolve(&path)?)).await;
        looked.map_err(|error| failed(&error))?
    }

    fn resolve(&self, path: &str) -> Result<Allowed, Failure> {
        let wanted = match path {
            "" => self.work_dir.as_path(),
            path => Path::new(path),
        };
        if !wanted.is_absolute() {
            return Err(failure(FailureCode::Invalid, format!("{path} is not an absolute path")));
        }
        let real = fs::canonicalize(wanted).map_err(|error| io_failure(wanted, &error))?;
        match self.allows(&real) {
            true => Ok(Allowed(real)),
            false => Err(failure(
                FailureCode::Forbidden,
                format!(
                    "{} is outside of what may be looked at (roots in the agent's config.json)",
                    wanted.display()
                ),
            )),
        }
    }

    /// `real` has no symbolic links in it.
    fn allows(&self, real: &Path) -> bool {
        let is_below = |root: &PathBuf| fs::canonicalize(root).is_ok_and(|root| real.starts_with(root));
        self.roots.iter().any(is_below) && !is_below(&self.own_dir)
    }
}

/// Looks, and says what was found, whatever else goes on.
pub fn answer(looking: Arc<Looking>, outbox: Arc<Outbox>, command_id: Uuid, command: Command) {
    tokio::spawn(async move {
        let looked = timeout(PATIENCE, looking.look(command)).await;
        let looked = looked.unwrap_or_else(|_| {
            let text = format!("the machine has not found an answer within {PATIENCE:?}");
            Err(failure(FailureCode::Failed, text))
        });
        let (result, error) = match looked {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        let message = FromAgent::Done {
            command_id,
            result,
            error,
        };
        let message = looking
            .mask
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .message(message);
        outbox.say(message);
    });
}

fn failure(code: FailureCode, message: impl Into<String>) -> Failure {
    Failure {
        code,
        message: message.into(),
    }
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    failure(FailureCode::Failed, error.to_string())
}

fn io_failure(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => failure(FailureCode::NotFound, format!("{path} is not there")),
        io::ErrorKind::NotADirectory => failure(FailureCode::NotFound, format!("{path} is not a directory")),
        io::ErrorKind::PermissionDenied => failure(
            FailureCode::Forbidden,
            format!("{path}: the agent's user may not read it"),
        ),
        _ => failed(&format!("{path}: {error}")),
    }
}

fn rfc3339(time: io::Result<SystemTime>) -> Option<String> {
    let time = OffsetDateTime::from(time.ok()?).replace_nanosecond(0).ok()?;
    time.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests;
