//! Paths on machines, as people give them.

use crate::error::ApiError;

const MAX_BYTES: usize = 4_096;

/// Refuses what is no absolute path, on whatever system the machine runs: `/srv/app`, `C:\app`, `\\server\share`. Errors: 400 naming
/// the field.
pub(crate) fn judge(field: &str, path: &str) -> Result<(), ApiError> {
    if path.len() > MAX_BYTES || path.chars().any(char::is_control) {
        let problem = format_args!("must have at most {MAX_BYTES} bytes and no control characters").to_string();
        return Err(ApiError::field(field, problem));
    }
    if path.starts_with('/') || path.starts_with("\\\\") || begins_with_drive(path) {
        return Ok(());
    }
    let problem = "must be an absolute path on the machine, such as /home/user/project";
    Err(ApiError::field(field, problem))
}

fn begins_with_drive(path: &str) -> bool {
    matches!(path.as_bytes(), [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_absolute_on_one_system_or_another() {
        for path in ["/", "/srv/a b", "C:\\app", "z:/app", "\\\\server\\share"] {
            judge("path", path).unwrap();
        }
        for path in ["", "app", "~/app", "C:", "C:app", "1:/app", "\\app", "/a\nb", "/\u{0}"] {
            assert_eq!(judge("path", path).unwrap_err().code(), "invalid_field", "{path:?}");
        }
        judge("path", &"/".repeat(MAX_BYTES + 1)).unwrap_err();
    }
}
