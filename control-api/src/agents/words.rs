//! Reading what an agent says. What it says beyond what is known here is skipped: it may be newer.

use ace_policies::wire::FromAgent;
use serde::Deserialize;
use serde_json::Value;

use crate::error::ApiError;

/// What is known here.
const TYPES: [&str; 9] = [
    "connect",
    "heartbeat",
    "output",
    "status",
    "approval",
    "approval_cancelled",
    "ack",
    "done",
    "token_request",
];

/// Reads a message. `None` for a type that is not known; errors where one that is known is not what it should be.
pub(super) fn understand(text: &str) -> Result<Option<FromAgent>, ApiError> {
    match serde_json::from_str(text) {
        Ok(message) => Ok(Some(message)),
        Err(error) => unclear(serde_json::from_str(text).unwrap_or_default(), &error),
    }
}

/// The same of a message in a list.
pub(super) fn understand_value(value: Value) -> Result<Option<FromAgent>, ApiError> {
    match FromAgent::deserialize(&value) {
        Ok(message) => Ok(Some(message)),
        Err(error) => unclear(value, &error),
    }
}

fn unclear(value: Value, error: &serde_json::Error) -> Result<Option<FromAgent>, ApiError> {
    let kind = value.get("type").and_then(Value::as_str);
    match kind {
        Some(kind) if !TYPES.contains(&kind) => Ok(None),
        Some(kind) => Err(ApiError::bad("invalid_message", format!("{kind}: {error}"))),
        None => Err(ApiError::bad(
            "invalid_message",
            "a message is a JSON object with a type",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_skipped_and_what_is_wrong_is_named() {
        assert!(matches!(
            understand(r#"{"type":"heartbeat","active_sessions":1}"#),
            Ok(Some(_))
        ));
        assert!(matches!(understand(r#"{"type":"song","of":"joy"}"#), Ok(None)));
        let wrong = understand(r#"{"type":"ack"}"#).unwrap_err();
        assert_eq!(wrong.to_string(), "ack: missing field `command_id`");
        for nothing in ["", "[]", "{", "{}", "7", r#"{"type":7}"#] {
            assert_eq!(understand(nothing).unwrap_err().code(), "invalid_message", "{nothing}");
        }
    }

    #[test]
    fn every_type_is_known() {
        for kind in TYPES {
            let error = understand_value(serde_json::json!({ "type": kind })).unwrap_err();
            assert!(error.to_string().starts_with(kind), "{error}");
        }
    }
}
