//! Directories and files.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    path::Path,
};

use ace_policies::wire::{Failure, FailureCode};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Allowed, Looking, MAX_JSON_BYTES, failed, failure, io_failure, rfc3339};

const MAX_ENTRIES: usize = 5000;
/// Around an entry's name.
const ENTRY_JSON_BYTES: usize = 110;
/// A larger file is shown from its beginning.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Bytes that are not text grow by a third on the way.
const MAX_BINARY_BYTES: usize = MAX_JSON_BYTES / 4 * 3;

#[derive(Serialize)]
struct Entry {
    name: String,
    path: String,
    kind: &'static str,
    size: u64,
    modified: Option<String>,
    writable: bool,
}

/// A directory's entries, directories first.
pub(super) fn list(looking: &Looking, dir: &Allowed) -> Result<Value, Failure> {
    let path = &dir.0;
    let mut entries = Vec::new();
    let mut truncated = false;
    let mut room = MAX_JSON_BYTES;
    for entry in fs::read_dir(path).map_err(|error| io_failure(path, &error))? {
        let entry = describe(&entry.map_err(|error| io_failure(path, &error))?.path());
        let size = ENTRY_JSON_BYTES + 2 * (entry.name.len() + entry.path.len());
        if entries.len() == MAX_ENTRIES || size > room {
            truncated = true;
            break;
        }
        room -= size;
        entries.push(entry);
    }
    entries.sort_by(|a, b| (a.kind != "directory", &a.name).cmp(&(b.kind != "directory", &b.name)));
    let parent = path.parent().filter(|parent| looking.allows(parent));
    Ok(json!({
        "path": path.to_string_lossy(),
        "parent": parent.map(Path::to_string_lossy),
        "home": looking.home.to_string_lossy(),
        "writable": is_writable(path),
        "entries": entries,
        "truncated": truncated,
    }))
}

/// An entry as what it leads to; a link that leads nowhere is a `link`.
fn describe(path: &Path) -> Entry {
    let metadata = fs::metadata(path).or_else(|_| fs::symlink_metadata(path));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Entry {
        name,
        path: path.to_string_lossy().into_owned(),
        kind: metadata.as_ref().map_or("other", kind),
        size: metadata
            .as_ref()
            .map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { 0 }),
        modified: metadata.ok().and_then(|metadata| rfc3339(metadata.modified())),
        writable: is_writable(path),
    }
}

fn kind(metadata: &Metadata) -> &'static str {
    match metadata {
        _ if metadata.is_dir() => "directory",
        _ if metadata.is_file() => "file",
        _ if metadata.is_symlink() => "link",
        _ => "other",
    }
}

#[cfg(unix)]
fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(not(unix))]
fn is_writable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.permissions().readonly())
}

/// A file's content, or its beginning.
pub(super) fn read(_: &Looking, path: &Allowed) -> Result<Value, Failure> {
    let path = &path.0;
    let file = open(path).map_err(|error| io_failure(path, &error))?;
    let metadata = file.metadata().map_err(|error| io_failure(path, &error))?;
    if !metadata.is_file() {
        return Err(failure(
            FailureCode::Invalid,
            format!("{} is not a file", path.display()),
        ));
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_BYTES).read_to_end(&mut bytes);
    read.map_err(|error| failed(&format!("{}: {error}", path.display())))?;
    let (encoding, content) = shown(&mut bytes);
    Ok(json!({
        "path": path.to_string_lossy(),
        "size": metadata.len(),
        "modified": rfc3339(metadata.modified()),
        "writable": is_writable(path),
        "encoding": encoding,
        "content": content,
        "truncated": (bytes.len() as u64) < metadata.len(),
    }))
}

/// The link that the path may have become by now is not followed, and a pipe is not waited on.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags as i32);
    }
    options.open(path)
}

/// Text where it is text, else base64; what does not fit into a message is cut off `bytes`.
fn shown(bytes: &mut Vec<u8>) -> (&'static str, String) {
    let text_up_to = match str::from_utf8(bytes) {
        Ok(_) => Some(bytes.len()),
        // Cut in the middle of its last character.
        Err(error) if error.error_len().is_none() && bytes.len() as u64 == MAX_FILE_BYTES => Some(error.valid_up_to()),
        Err(_) => None,
    };
    let Some(end) = text_up_to.filter(|_| !bytes.contains(&0)) else {
        bytes.truncate(MAX_BINARY_BYTES);
        return ("base64", STANDARD.encode(bytes));
    };
    bytes.truncate(end);
    let text = fitting(&String::from_utf8_lossy(bytes)).to_owned();
    bytes.truncate(text.len());
    ("utf-8", text)
}

/// As much of a text as an answer can hold, at most.
pub(super) fn fitting(text: &str) -> &str {
    let mut room = MAX_JSON_BYTES;
    for (at, c) in text.char_indices() {
        let spelled = match c {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            '\0'..' ' => 6,
            c => c.len_utf8(),
        };
        match room.checked_sub(spelled) {
            Some(left) => room = left,
            None => return &text[..at],
        }
    }
    text
}
