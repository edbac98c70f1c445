//! What the older agent found in files, in the shape in which people get it.

use ace_policies::wire::{Failure, FailureCode};
use serde_json::{Value, json};

/// A listing. For a directory that is not there it lists another one, and says so.
pub(super) fn listing(found: &Value) -> Result<Value, Failure> {
    if let Some(note) = found["fallback_note"].as_str() {
        return Err(Failure {
            code: FailureCode::NotFound,
            message: note.split(". ").next().unwrap_or(note).to_owned(),
        });
    }
    let directories = found["directories"].as_array().map_or(&[][..], Vec::as_slice);
    let entries: Vec<Value> = directories.iter().map(entry).collect();
    Ok(json!({ "path": found["path"], "parent": found["parent"], "home": found["homePath"], "entries": entries }))
}

/// It lists directories alone.
fn entry(directory: &Value) -> Value {
    json!({
        "name": directory["name"], "path": directory["path"], "kind": "directory", "size": null, "modified": null,
        "writable": directory["is_writable"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_has_one_shape() {
        let found = json!({ "path": "/w", "name": "w", "parent": "/", "homePath": "/home/a", "fallback_note": null,
            "directories": [{ "name": "x", "path": "/w/x", "is_writable": true }] });
        let entry = json!({ "name": "x", "path": "/w/x", "kind": "directory", "size": null, "modified": null, "writable": true });
        let expected = json!({ "path": "/w", "parent": "/", "home": "/home/a", "entries": [entry] });
        assert_eq!(listing(&found), Ok(expected));
        let elsewhere = json!({ "path": "/", "fallback_note": "Requested path '/x' does not exist. Showing parent directory instead." });
        assert_eq!(
            listing(&elsewhere).unwrap_err().message,
            "Requested path '/x' does not exist"
        );
    }
}
