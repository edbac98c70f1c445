//! A proxy token in a file, read again whenever the file changes: for using the relay by hand.

use std::{
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ace_policies::secret::Secret;

use crate::relay::{ProxyToken, TokenFeed};

/// How often the file is looked at.
const POLL: Duration = Duration::from_millis(250);
/// Larger than any token of ours; what is larger is not a token file.
const MAX_BYTES: u64 = 64 * 1024;

/// A token file that could be read at least once, by its owner only.
pub struct TokenFile {
    path: PathBuf,
    seen: Stamp,
    clock: fn() -> SystemTime,
}

/// Changes whenever somebody writes or replaces the file.
#[derive(PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl TokenFile {
    /// Reads the file for the first time and publishes its token. Refuses a file that others may read.
    pub fn open(path: &Path, feed: &TokenFeed, clock: fn() -> SystemTime) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        refuse_shared(path, &metadata)?;
        let token = read(path)?.ok_or_else(|| invalid(path, "holds no token"))?;
        feed.publish(ProxyToken::from_jwt(token, clock()));
        Ok(Self {
            path: path.to_owned(),
            seen: Stamp::of(&metadata),
            clock,
        })
    }

    /// Publishes every later token of the file, for ever. A file that is away or half written is looked at again.
    pub async fn follow(mut self, feed: &TokenFeed) {
        loop {
            tokio::time::sleep(POLL).await;
            match self.changed().await {
                Ok(Some(token)) => feed.publish(ProxyToken::from_jwt(token, (self.clock)())),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "the token file cannot be read just now"),
            }
        }
    }

    async fn changed(&mut self) -> io::Result<Option<Secret>> {
        let metadata = tokio::fs::metadata(&self.path).await?;
        let stamp = Stamp::of(&metadata);
        if stamp == self.seen {
            return Ok(None);
        }
        refuse_shared(&self.path, &metadata)?;
        let token = read(&self.path)?;
        // An empty file is one that is being written: its stamp is not remembered, so that it is read again.
        if token.is_some() {
            self.seen = stamp;
        }
        Ok(token)
    }
}

/// The token: the file's whole text, or the `token` of the answer to `POST /api/proxy-tokens` saved as it came.
fn read(path: &Path) -> io::Result<Option<Secret>> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: String,
    }
    if std::fs::metadata(path)?.len() > MAX_BYTES {
        return Err(invalid(path, "is too large for a token"));
    }
    let text = std::fs::read_to_string(path)?;
    let token = match text.trim_start().starts_with('{') {
        true => serde_json::from_str::<Answer>(&text)
            .map(|answer| answer.token)
            .unwrap_or_default(),
        false => text.trim().to_owned(),
    };
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    Ok(is_token.then(|| Secret::new(token)))
}

fn invalid(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}", path.display()))
}

#[cfg(unix)]
fn refuse_shared(path: &Path, metadata: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o077 != 0 {
        let path = path.display();
        let text = format!("{path} can be read by others (mode {mode:04o}): chmod 600 {path}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_shared(_path: &Path, _metadata: &Metadata) -> io::Result<()> {
    Ok(())
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            len: metadata.len(),
            inode: inode(metadata),
        }
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_metadata: &Metadata) -> u64 {
    0
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::UNIX_EPOCH};

    use super::*;
    use crate::relay::token_channel;

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn now() -> SystemTime {
        UNIX_EPOCH
    }

    #[test]
    fn both_shapes_are_read_and_a_half_written_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = |text: &str| {
            write(&path, text);
            read(&path).unwrap().map(|secret| secret.expose().to_owned())
        };
        assert_eq!(token(" a.b.c\n").as_deref(), Some("a.b.c"));
        assert_eq!(
            token("{\"token\":\"a.b.c\",\"expires_at\":\"…\"}").as_deref(),
            Some("a.b.c")
        );
        for unfinished in ["", "\n", "{\"token\":\"a.b", "{}", "two words"] {
            assert_eq!(token(unfinished), None);
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        write(&path, "a.b.c");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = TokenFile::open(&path, &token_channel().0, now)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("mode 0644") && error.contains("chmod 600"), "{error}");
    }

    #[tokio::test]
    async fn a_replaced_file_is_noticed_and_a_missing_one_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        write(&path, "first");
        let mut file = TokenFile::open(&path, &token_channel().0, now).unwrap();
        assert!(file.changed().await.unwrap().is_none());

        std::fs::remove_file(&path).unwrap();
        assert!(file.changed().await.is_err());
        write(&path, "");
        assert!(file.changed().await.unwrap().is_none());
        write(&path, "second");
        assert_eq!(file.changed().await.unwrap().unwrap().expose(), "second");
    }
}
