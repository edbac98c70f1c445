//! Commands in the words of the older agent.

use std::path::Path;

use ace_policies::wire::Command;
use serde_json::{Map, Value, json};

use super::super::Agent;
use super::super::hand_over::Handed;
use crate::App;
use crate::error::ApiError;

/// How long the agent is told that it has for a rotation, in seconds. The old token lives on until the new one is used.
const ROTATION_TIMEOUT_S: i64 = 300;

/// A command as an item of `pending_commands`. `None` for what the agent has no word for.
pub(super) async fn item(app: &App, agent: &Agent, handed: &Handed) -> Result<Option<Value>, ApiError> {
    let kind = handed.command.kind().as_str();
    let Some((name, fields)) = words(app, agent, handed).await? else {
        tracing::info!(machine = %agent.machine, kind, "the older agent knows no such command");
        return Ok(None);
    };
    let mut item: Map<String, Value> = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    item.retain(|_, value| !value.is_null());
    item.insert("type".to_owned(), "command".into());
    item.insert("command".to_owned(), name.into());
    item.insert("command_id".to_owned(), handed.command_id.to_string().into());
    Ok(Some(Value::Object(item)))
}

async fn words(app: &App, agent: &Agent, handed: &Handed) -> Result<Option<(&'static str, Value)>, ApiError> {
    let request_id = handed.command_id;
    let name = handed.command.kind().as_str();
    Ok(Some(match &handed.command {
        Command::StartSession(start) => {
            let fields = json!({
                "session_id": start.session_id, "project_path": start.project_path, "model": start.model,
                "cli_tool": start.cli_tool, "proxy_token": start.proxy_token, "cli_settings": {},
                "permission_mode": start.permission_mode, "resume_session_id": start.resume_id,
            });
            (name, fields)
        }
        Command::SendMessage {
            session_id, content, ..
        } => (name, json!({ "session_id": session_id, "content": content })),
        Command::StopSession { session_id }
        | Command::PauseSession { session_id }
        | Command::ResumeSession { session_id } => (name, json!({ "session_id": session_id })),
        Command::AbortRequest { session_id, reason } => (name, json!({ "session_id": session_id, "reason": reason })),
        Command::PermissionResponse {
            session_id,
            request_id,
            behavior,
            tool_name,
            message,
        } => {
            let fields = json!({
                "session_id": session_id, "request_id": request_id, "behavior": behavior, "tool_name": tool_name,
                "message": message,
            });
            (name, fields)
        }
        Command::UpdateModel { session_id, model } => (name, json!({ "session_id": session_id, "model": model })),
        Command::UpdatePermissionMode {
            session_id,
            permission_mode,
        } => (
            name,
            json!({ "session_id": session_id, "permission_mode": permission_mode }),
        ),
        Command::BrowseDirectory { path } => (name, json!({ "request_id": request_id, "path": path })),
        Command::ReadFile { path } => {
            let (folder, file) = split(path);
            (
                "git_file",
                json!({ "request_id": request_id, "project_path": folder, "file": file }),
            )
        }
        Command::GitStatus { path } => (name, json!({ "request_id": request_id, "project_path": path })),
        Command::GitDiff { path } => (
            name,
            json!({ "request_id": request_id, "project_path": path, "file": "." }),
        ),
        Command::RotateToken { rotation_id, new_token } => {
            let fields = json!({
                "new_token": new_token, "rotation_id": rotation_id,
                "token_version": super::token_version(app, agent).await? + 1,
                "rotated_at": app.now() / 1000, "timeout": ROTATION_TIMEOUT_S,
            });
            (name, fields)
        }
        // Never queued: the agent of a machine that is gone is told so in place of an answer.
        Command::Unregister {} => return Ok(None),
    }))
}

/// It reads files by their name in a folder.
fn split(path: &str) -> (String, String) {
    let path = Path::new(path);
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    (text(path.parent().map(Path::as_os_str)), text(path.file_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_by_its_name_in_a_folder() {
        assert_eq!(split("/home/a/b.txt"), ("/home/a".to_owned(), "b.txt".to_owned()));
        assert_eq!(split("/b"), ("/".to_owned(), "b".to_owned()));
    }
}
