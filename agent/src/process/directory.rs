//! Whether a CLI can run in a directory, said so that people know what to do about it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ace_policies::wire::{Failure, FailureCode};

/// Looks at where a CLI is to run. `roots` are the directories that sessions may be in; none means anywhere. Answers the directory
/// without links in its path.
pub fn check(path: &str, roots: &[PathBuf]) -> Result<PathBuf, Failure> {
    if !Path::new(path).is_absolute() {
        return Err(no(FailureCode::Invalid, format!("`{path}` is not an absolute path")));
    }
    let real = fs::canonicalize(path).map_err(|error| explain(path, &error))?;
    let about = fs::metadata(&real).map_err(|error| explain(path, &error))?;
    if !about.is_dir() {
        return Err(no(FailureCode::Invalid, format!("`{path}` is a file, not a directory")));
    }
    if !roots.is_empty() && !roots.iter().any(|root| real.starts_with(root)) {
        let text = format!("`{path}` lies outside the directories that this machine allows");
        return Err(no(FailureCode::Forbidden, text));
    }
    let access = rustix::fs::Access::READ_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(&real, access).map_err(|error| explain(path, &error.into()))?;
    Ok(real)
}

fn explain(path: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => no(
            FailureCode::NotFound,
            format!("the directory `{path}` does not exist on this machine"),
        ),
        io::ErrorKind::PermissionDenied => no(
            FailureCode::Forbidden,
            format!("the agent's user may not enter the directory `{path}`"),
        ),
        _ => no(
            FailureCode::Failed,
            format!("the directory `{path}` cannot be used: {error}"),
        ),
    }
}

fn no(code: FailureCode, message: String) -> Failure {
    Failure { code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(path: &str, roots: &[PathBuf], code: FailureCode, message: &str) {
        let failure = check(path, roots).unwrap_err();
        assert_eq!(
            (failure.code, failure.message.replace(path, "P").as_str()),
            (code, message)
        );
    }

    #[test]
    fn each_reason_has_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("in")).unwrap();
        refused("src", &[], FailureCode::Invalid, "`P` is not an absolute path");
        refused(
            &at("no"),
            &[],
            FailureCode::NotFound,
            "the directory `P` does not exist on this machine",
        );
        refused(&at("file"), &[], FailureCode::Invalid, "`P` is a file, not a directory");
        let roots = [fs::canonicalize(at("in")).unwrap()];
        refused(
            dir.path().to_str().unwrap(),
            &roots,
            FailureCode::Forbidden,
            "`P` lies outside the directories that this machine allows",
        );
        std::os::unix::fs::symlink(dir.path(), at("in/out")).unwrap();
        assert!(check(&at("in/out"), &roots).is_err(), "a link does not lead out");
        assert_eq!(check(&at("in"), &roots).unwrap(), roots[0]);
    }
}
