//! The agents that are held here: the running program, where it is one, and those in the operator's folder.

use std::collections::HashMap;
use std::env::consts;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio_util::io::ReaderStream;

use super::{CACHING, etag, has_it, unchanged};
use crate::ControlConfig;
use crate::error::ApiError;

/// What the name of every agent begins with; its target follows.
const PREFIX: &str = "ace-agent-";

/// How many files of the operator's folder are looked at.
const MAX_FILES: usize = 100;

/// How much is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// A file that can be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub name: String,
    path: PathBuf,
}

/// Remembers the checksums: each file is read once for its, and again only when it has changed.
#[derive(Default)]
pub(crate) struct Files(Mutex<HashMap<PathBuf, (Version, String)>>);

/// By which a changed file is told from the one before.
type Version = (u64, Option<SystemTime>);

impl Files {
    /// What can be had, in the order of names. A request's path is only ever compared with these names, never opened.
    pub(super) async fn list(&self, config: &ControlConfig) -> Result<Vec<Held>, ApiError> {
        let mut held = match &config.agent_files {
            Some(folder) => in_folder(folder).await.map_err(ApiError::internal)?,
            None => Vec::new(),
        };
        let own = format!("{PREFIX}{}", own_target());
        if let Some(program) = &config.agent_program
            && held.iter().all(|file| file.name != own)
        {
            held.push(Held {
                name: own,
                path: program.clone(),
            });
        }
        held.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(held)
    }

    /// The list of checksums, as `sha256sum` writes and reads it.
    pub(super) async fn sums(&self, held: &[Held]) -> Result<String, ApiError> {
        let mut lines = String::new();
        for file in held {
            let (_, _, hash) = self.open(file).await.map_err(ApiError::internal)?;
            lines.push_str(&format!("{hash}  {}\n", file.name));
        }
        Ok(lines)
    }

    /// Streams a file.
    pub(super) async fn serve(&self, file: &Held, headers: &HeaderMap) -> Result<Response, ApiError> {
        let (content, length, hash) = self.open(file).await.map_err(ApiError::internal)?;
        let tag = etag(&hash);
        if has_it(headers, &tag) {
            return Ok(unchanged(tag));
        }
        let head = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, length.to_string()),
            (header::ETAG, tag),
            (header::CACHE_CONTROL, CACHING.to_owned()),
        ];
        // What is longer by now than what was announced was replaced in place; the client's checksum tells.
        let stream = ReaderStream::with_capacity(content.take(length), CHUNK_BYTES);
        Ok((head, Body::from_stream(stream)).into_response())
    }

    /// The open file, its length and its checksum, all of the same content.
    async fn open(&self, file: &Held) -> io::Result<(File, u64, String)> {
        let content = File::open(&file.path).await?;
        let metadata = content.metadata().await?;
        let version = (metadata.len(), metadata.modified().ok());
        // One at a time: of many that ask at once, one reads the file.
        let mut known = self.0.lock().await;
        if let Some((seen, hash)) = known.get(&file.path)
            && *seen == version
        {
            return Ok((content, version.0, hash.clone()));
        }
        let hash = checksum(&file.path).await?;
        known.insert(file.path.clone(), (version, hash.clone()));
        Ok((content, version.0, hash))
    }
}

async fn checksum(path: &Path) -> io::Result<String> {
    let path = path.to_owned();
    let hashing = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(path)?;
        let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(hex::encode(hash.finalize())),
                length => hash.update(&chunk[..length]),
            }
        }
    });
    hashing.await.map_err(io::Error::other)?
}

async fn in_folder(folder: &Path) -> io::Result<Vec<Held>> {
    let mut held = Vec::new();
    let mut entries = match tokio::fs::read_dir(folder).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(held),
        entries => entries?,
    };
    while let Some(entry) = entries.next_entry().await? {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if is_agent(&name) && tokio::fs::metadata(entry.path()).await?.is_file() && held.len() < MAX_FILES {
            held.push(Held {
                name,
                path: entry.path(),
            });
        }
    }
    Ok(held)
}

/// Names that can stand in a list of checksums and a URL as they are.
fn is_agent(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.strip_prefix(PREFIX)
        .is_some_and(|target| !target.is_empty() && target.chars().all(plain))
}

/// The target of this very program, as Rust names it.
fn own_target() -> String {
    let vendor_and_system = match consts::OS {
        "linux" if cfg!(target_env = "musl") => "unknown-linux-musl",
        "linux" => "unknown-linux-gnu",
        "macos" => "apple-darwin",
        other => other,
    };
    format!("{}-{vendor_and_system}", consts::ARCH)
}

#[cfg(test)]
pub(super) fn own_name() -> String {
    format!("{PREFIX}{}", own_target())
}
