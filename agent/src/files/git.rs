//! The state of a repository, as git tells it. Git is kept from running anything that the repository names: hooks, monitors, pagers,
//! filters, diff programs.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use ace_policies::wire::{Failure, FailureCode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::timeout,
};

use super::{Allowed, Looking, failed, failure, listing::fitting};

const PATIENCE: Duration = Duration::from_secs(20);
const MAX_OUTPUT_BYTES: usize = 1 << 20;
const MAX_FILES: usize = 5000;
/// Of what git says is wrong.
const MAX_COMPLAINT: usize = 500;
/// Around a file's name.
const FILE_JSON_BYTES: usize = 60;

/// A repository and what its own settings would have run.
struct Repository<'a> {
    looking: &'a Looking,
    dir: PathBuf,
    root: PathBuf,
    filters: Vec<String>,
}

struct Output {
    ok: bool,
    text: String,
    truncated: bool,
    complaint: String,
}

#[derive(Serialize, PartialEq, Debug)]
struct Changed {
    path: String,
    /// Between the last commit and the index, as git's letters have it; `.` is unchanged, `?` untracked.
    index: char,
    /// Between the index and the files.
    worktree: char,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

#[derive(Default)]
struct Status {
    branch: Option<String>,
    commit: Option<String>,
    upstream: Option<String>,
    ahead: u64,
    behind: u64,
    files: Vec<Changed>,
}

/// The branch, and which files have changed.
pub(super) async fn status(looking: &Looking, path: Allowed) -> Result<Value, Failure> {
    let repository = Repository::of(looking, &path.0).await?;
    let arguments = [
        "status",
        "--porcelain=v2",
        "--branch",
        "-z",
        "--ignore-submodules=dirty",
    ];
    let output = repository.git(&arguments).await?.or_complain()?;
    let mut status = parse(&output.text);
    let mut room = super::MAX_JSON_BYTES;
    let fit = status.files.iter().take(MAX_FILES).take_while(|file| {
        let size = FILE_JSON_BYTES + 2 * (file.path.len() + file.from.as_ref().map_or(0, String::len));
        room.checked_sub(size).map(|left| room = left).is_some()
    });
    let fit = fit.count();
    let truncated = output.truncated || fit < status.files.len();
    status.files.truncate(fit);
    Ok(json!({
        "path": path.0.to_string_lossy(),
        "root": repository.root.to_string_lossy(),
        "branch": status.branch,
        "commit": status.commit,
        "upstream": status.upstream,
        "ahead": status.ahead,
        "behind": status.behind,
        "files": status.files,
        "truncated": truncated,
    }))
}

/// What has changed since the last commit, below a directory or in one file.
pub(super) async fn diff(looking: &Looking, path: Allowed) -> Result<Value, Failure> {
    let repository = Repository::of(looking, &path.0).await?;
    let head = repository.git(&["rev-parse", "--verify", "--quiet", "HEAD"]).await?;
    let since = match head.ok {
        true => "HEAD".to_owned(),
        // Before the first commit: everything that is in the index is new.
        false => {
            let empty = repository.git(&["hash-object", "-t", "tree", "/dev/null"]).await?;
            empty.or_complain()?.text.trim().to_owned()
        }
    };
    let shown = path.0.to_string_lossy();
    let arguments = [
        "diff",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        "--ignore-submodules=dirty",
        &since,
        "--",
        &shown,
    ];
    let output = repository.git(&arguments).await?.or_complain()?;
    let text = fitting(&output.text);
    Ok(json!({
        "path": shown,
        "root": repository.root.to_string_lossy(),
        "diff": text,
        "truncated": output.truncated || text.len() < output.text.len(),
    }))
}

impl<'a> Repository<'a> {
    async fn of(looking: &'a Looking, path: &Path) -> Result<Self, Failure> {
        let dir = if path.is_dir() {
            path
        } else {
            path.parent().unwrap_or(path)
        };
        let mut repository = Self {
            looking,
            dir: dir.to_owned(),
            root: dir.to_owned(),
            filters: Vec::new(),
        };
        let root = repository.git(&["rev-parse", "--show-toplevel"]).await?;
        if !root.ok {
            let code = if root.complaint.contains("not a git repository") {
                FailureCode::NotFound
            } else {
                FailureCode::Failed
            };
            return Err(failure(code, root.complaint));
        }
        repository.root = PathBuf::from(root.text.trim_end_matches('\n'));
        if !std::fs::canonicalize(&repository.root).is_ok_and(|root| looking.allows(&root)) {
            let text = format!(
                "the repository {} is outside of what may be looked at",
                repository.root.display()
            );
            return Err(failure(FailureCode::Forbidden, text));
        }
        let names = [
            "config",
            "--local",
            "--name-only",
            "--get-regexp",
            r"^filter\..*\.(clean|process|smudge)$",
        ];
        let names = repository.git(&names).await?;
        repository.filters = names.text.lines().map(|name| format!("{name}=")).collect();
        Ok(repository)
    }

    async fn git(&self, arguments: &[&str]) -> Result<Output, Failure> {
        let mut command = Command::new("git");
        command
            .env_clear()
            .envs(inherited())
            .env("HOME", &self.looking.home)
            .envs([
                ("LC_ALL", "C.UTF-8"),
                ("GIT_OPTIONAL_LOCKS", "0"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_PAGER", "cat"),
                ("GIT_NO_LAZY_FETCH", "1"),
            ])
            .arg("--no-pager")
            .args([
                "-c",
                "core.fsmonitor=",
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "core.pager=cat",
            ])
            .args([
                "-c",
                "diff.external=",
                "-c",
                "core.sshCommand=false",
                "-c",
                "core.quotePath=false",
            ])
            .args(self.filters.iter().flat_map(|filter| ["-c", filter]))
            .arg("-C")
            .arg(&self.dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => failure(FailureCode::Unsupported, "git is not installed on this machine"),
            _ => failed(&error),
        })?;
        let output = timeout(PATIENCE, read(child)).await;
        let slow = |_| {
            failure(
                FailureCode::TooMuch,
                format!("git has not answered within {PATIENCE:?}"),
            )
        };
        output.map_err(slow)?.map_err(|error| failed(&error))
    }
}

/// The one variable that git needs: without it nothing is found.
#[expect(
    clippy::disallowed_methods,
    reason = "the search path of this process is git's as well"
)]
fn inherited() -> Option<(&'static str, std::ffi::OsString)> {
    std::env::var_os("PATH").map(|path| ("PATH", path))
}

async fn read(mut child: Child) -> std::io::Result<Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let reading = async {
        let Some(stdout) = stdout else { return Ok(0) };
        stdout.take(MAX_OUTPUT_BYTES as u64 + 1).read_to_end(&mut out).await
    };
    let complaining = async {
        let Some(stderr) = stderr else { return Ok(0) };
        stderr.take(MAX_COMPLAINT as u64).read_to_end(&mut err).await
    };
    let (read, complained) = tokio::join!(reading, complaining);
    read.and(complained)?;
    let truncated = out.len() > MAX_OUTPUT_BYTES;
    out.truncate(MAX_OUTPUT_BYTES);
    // Its pipes are closed by now: where it wanted to say more, that ends it.
    let status = child.wait().await?;
    Ok(Output {
        ok: status.success() || truncated,
        text: String::from_utf8_lossy(&out).into_owned(),
        truncated,
        complaint: String::from_utf8_lossy(&err).trim().to_owned(),
    })
}

impl Output {
    fn or_complain(self) -> Result<Self, Failure> {
        match self.ok {
            true => Ok(self),
            false => Err(failed(&self.complaint)),
        }
    }
}

/// `git status --porcelain=v2 --branch -z`.
fn parse(text: &str) -> Status {
    let mut status = Status::default();
    let mut items = text.split('\0');
    while let Some(item) = items.next() {
        match item.split_once(' ') {
            Some(("#", header)) => status.header(header),
            Some(("1", rest)) => status.files.extend(changed(rest, 7, None)),
            Some(("2", rest)) => status.files.extend(changed(rest, 8, items.next())),
            Some(("u", rest)) => status.files.extend(changed(rest, 9, None)),
            Some(("?", path)) => status.files.push(Changed {
                path: path.to_owned(),
                index: '?',
                worktree: '?',
                from: None,
            }),
            _ => {}
        }
    }
    status
}

impl Status {
    fn header(&mut self, header: &str) {
        let Some((name, value)) = header.split_once(' ') else {
            return;
        };
        match name {
            "branch.oid" if value != "(initial)" => self.commit = Some(value.to_owned()),
            "branch.head" if value != "(detached)" => self.branch = Some(value.to_owned()),
            "branch.upstream" => self.upstream = Some(value.to_owned()),
            "branch.ab" => {
                let mut counts = value.split(' ').map(|count| count[1..].parse().unwrap_or(0));
                self.ahead = counts.next().unwrap_or(0);
                self.behind = counts.next().unwrap_or(0);
            }
            _ => {}
        }
    }
}

/// `XY` and so many fields more, then the path.
fn changed(rest: &str, fields: usize, from: Option<&str>) -> Option<Changed> {
    let mut parts = rest.splitn(fields + 1, ' ');
    let mut letters = parts.next()?.chars();
    Some(Changed {
        index: letters.next()?,
        worktree: letters.next()?,
        path: parts.nth(fields - 1)?.to_owned(),
        from: from.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_with_renames_and_spaces() {
        let text = "# branch.oid 1234\0# branch.head main\0# branch.upstream origin/main\0# branch.ab +2 -1\0\
                    1 .M N... 100644 100644 100644 aaaa bbbb a file.txt\0\
                    2 R. N... 100644 100644 100644 aaaa bbbb R100 new name\0old name\0\
                    u UU N... 100644 100644 100644 100644 aaaa bbbb cccc both.txt\0? new.txt\0";
        let status = parse(text);
        assert_eq!(
            (status.branch.as_deref(), status.ahead, status.behind),
            (Some("main"), 2, 1)
        );
        let files: Vec<_> = status
            .files
            .iter()
            .map(|file| format!("{}{} {} {:?}", file.index, file.worktree, file.path, file.from))
            .collect();
        let expected = [
            ".M a file.txt None",
            "R. new name Some(\"old name\")",
            "UU both.txt None",
            "?? new.txt None",
        ];
        assert_eq!(files, expected);
        assert!(parse("").files.is_empty());
    }
}
