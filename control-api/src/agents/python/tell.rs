//! What the older agent tells, in our terms. It knows of no runs: what it says counts for the current one, once that has been
//! handed to it.

use ace_policies::session::Report;
use ace_policies::wire::{Failure, FailureCode, Stream};
use serde_json::{Map, Value, json};
use sqlx::Row;
use uuid::Uuid;

use super::super::Agent;
use super::super::reports::{self, Said};
use super::results;
use crate::error::ApiError;
use crate::record::Record;
use crate::sessions::SessionRow;
use crate::{App, chance};

/// How large a report of usage may be, in bytes.
const MAX_USAGE: usize = 4_096;

/// One line, with its newline where it had one.
pub(super) async fn output(app: &App, agent: &Agent, message: &Value) -> Result<(), ApiError> {
    let session = reports::named(message["session_id"].as_str())?;
    let data = message["data"].as_str().unwrap_or_default();
    if data.is_empty() {
        let mut record = app.record().await?;
        return reports::theirs(&mut record, agent, session).await.map(drop);
    }
    let stream = message["stream"].as_str().and_then(|stream| stream.parse().ok());
    reports::line(app, agent, session, stream.unwrap_or(Stream::Stdout), data).await
}

/// How a session's CLI is.
pub(super) async fn status(app: &App, agent: &Agent, message: &Value) -> Result<(), ApiError> {
    let session = reports::named(message["session_id"].as_str())?;
    let mut record = app.record().await?;
    let row = reports::theirs(&mut record, agent, session).await?;
    let state = match message["status"].as_str().unwrap_or_default() {
        "running" => Report::Running,
        "paused" => Report::Paused,
        "stopped" => Report::Stopped,
        "completed" => Report::Completed,
        "error" => Report::Error,
        _ => return Ok(()),
    };
    if is_of_an_earlier_run(&mut record, &row).await? {
        return Ok(());
    }
    let said = Said {
        state,
        busy: false,
        resume_id: message["cli_session_id"].as_str(),
        message: message["message"].as_str(),
    };
    reports::apply(&mut record, &row, row.run, said).await?;
    record.commit().await
}

/// What it says while the start of the current run still waits for it cannot be about that run.
async fn is_of_an_earlier_run(record: &mut Record, row: &SessionRow) -> Result<bool, ApiError> {
    let waiting = sqlx::query(
        "SELECT COUNT(*) FROM agent_commands
         WHERE session_id = $1 AND run = $2 AND type = 'start_session' AND state = 'queued'",
    )
    .bind(row.id.to_string())
    .bind(row.run)
    .fetch_one(record.sql())
    .await?;
    Ok(waiting.try_get::<i64, _>(0)? > 0)
}

/// What it counted.
pub(super) async fn usage(app: &App, agent: &Agent, message: &Value) -> Result<Value, ApiError> {
    let report_id = message["report_id"].as_str().map(reports::text);
    let report_id = report_id.unwrap_or_else(|| chance::id().to_string());
    let mut record = app.record().await?;
    let session = match message["session_id"].as_str() {
        None => None,
        named => Some(reports::theirs(&mut record, agent, reports::named(named)?).await?.id),
    };
    let report = json!({ "tokens": message["tokens"], "requests": message["requests"] }).to_string();
    if report.len() > MAX_USAGE {
        return Err(ApiError::field("tokens", "this is no count of tokens"));
    }
    let stored = sqlx::query(
        "INSERT INTO usage_reports (machine_id, report_id, session_id, report, at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (machine_id, report_id) DO NOTHING",
    )
    .bind(agent.machine.to_string())
    .bind(&report_id)
    .bind(session.map(|session| session.to_string()))
    .bind(report)
    .bind(app.now())
    .execute(record.sql())
    .await?;
    record.commit().await?;
    let duplicate = stored.rows_affected() == 0;
    Ok(json!({ "success": true, "duplicate": duplicate, "report_id": report_id }))
}

/// A CLI asks whether it may use a tool.
pub(super) async fn question(app: &App, agent: &Agent, message: &Value) -> Result<(), ApiError> {
    let session = reports::named(message["session_id"].as_str())?;
    let asked = &message["control_request"];
    let request_id = asked["request_id"].as_str().unwrap_or_default();
    let tool = asked["request"]["tool_name"].as_str().unwrap_or_default();
    if request_id.is_empty() || tool.is_empty() {
        return Err(ApiError::field(
            "control_request",
            "request_id and request.tool_name are needed",
        ));
    }
    let question = (request_id, tool, &asked["request"]["input"]);
    reports::asked(app, agent, session, None, question).await
}

/// A turn has ended, or could not be ended.
pub(super) async fn turn(app: &App, agent: &Agent, message: &Value) -> Result<(), ApiError> {
    let session = reports::named(message["session_id"].as_str())?;
    if message["state"] == "abort_failed" {
        let why = message["message"].as_str().unwrap_or("the agent does not say why");
        let line = format!("the turn could not be aborted: {}\n", reports::text(why));
        return reports::line(app, agent, session, Stream::System, &line).await;
    }
    let mut record = app.record().await?;
    let row = reports::theirs(&mut record, agent, session).await?;
    let said = Said {
        state: Report::Running,
        busy: false,
        resume_id: None,
        message: None,
    };
    reports::apply(&mut record, &row, row.run, said).await?;
    record.commit().await
}

/// The acknowledgement of a command, with how it went.
pub(super) async fn response(app: &App, agent: &Agent, message: &Value) -> Result<(), ApiError> {
    let result = &message["result"];
    let failed = result["success"] == false || (result["success"].is_null() && result["error"].is_string());
    let error = failed.then(|| result["error"].as_str().unwrap_or("unknown error"));
    end(
        app,
        agent,
        message,
        None,
        error.map(|error| failure(FailureCode::Failed, error)),
    )
    .await
}

/// The answer to a question about files.
pub(super) async fn files(app: &App, agent: &Agent, message: &Value) -> Result<(), ApiError> {
    let found = found(message);
    match &found {
        Ok(result) => end(app, agent, message, Some(result), None).await,
        Err(failure) => end(app, agent, message, None, Some(failure.clone())).await,
    }
}

fn found(message: &Value) -> Result<Value, Failure> {
    if message["success"] != true {
        let error = message["error"].as_str().unwrap_or("unknown error");
        return Err(failure(code_of(error), error));
    }
    let result = &message["result"];
    match message["type"] == "browse_result" {
        true => results::listing(result),
        false => Ok(result.clone()),
    }
}

async fn end(
    app: &App,
    agent: &Agent,
    message: &Value,
    result: Option<&Value>,
    failure: Option<Failure>,
) -> Result<(), ApiError> {
    let id = message["request_id"]
        .as_str()
        .or_else(|| message["command_id"].as_str());
    let Some(id) = id.and_then(|id| id.parse::<Uuid>().ok()) else {
        return Err(ApiError::field("request_id", "must be the id of a command"));
    };
    let outcome = failure.as_ref().map_or(Ok(result), Err);
    reports::done(app, agent, id, outcome).await
}

fn failure(code: FailureCode, message: &str) -> Failure {
    Failure {
        code,
        message: reports::text(message),
    }
}

/// It tells why in words alone.
fn code_of(error: &str) -> FailureCode {
    let error = error.to_ascii_lowercase();
    let says = |words: &str| error.contains(words);
    match () {
        () if says("permission denied") || says("traversal") => FailureCode::Forbidden,
        () if says("does not exist") || says("not found") || says("no such file") => FailureCode::NotFound,
        () if says("not a directory") || says("required") => FailureCode::Invalid,
        () => FailureCode::Failed,
    }
}

/// What its machine can do, in our terms and its own.
pub(super) fn capabilities(said: &Map<String, Value>) -> Value {
    let mut ours = said.clone();
    if let Some(memory) = said.get("memory_mb").and_then(Value::as_f64) {
        ours.insert("memory_gb".to_owned(), json!((memory / 102.4).round() / 10.0));
    }
    if let Some(clis) = said.get("cli_details").and_then(Value::as_object) {
        let clis = clis.iter().map(|(id, cli)| {
            json!({ "id": id, "name": id, "version": cli["version"], "installed": cli["installed"] == true })
        });
        ours.insert("clis".to_owned(), clis.collect());
    }
    ours.remove("cli_details");
    Value::Object(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_for_failures_have_codes() {
        for (words, code) in [
            ("Permission denied: /root", FailureCode::Forbidden),
            ("Path traversal detected", FailureCode::Forbidden),
            ("File not found: a", FailureCode::NotFound),
            ("Directory does not exist: /x", FailureCode::NotFound),
            ("Path is not a directory: /etc/passwd", FailureCode::Invalid),
            ("timed out", FailureCode::Failed),
        ] {
            assert_eq!(code_of(words), code, "{words}");
        }
    }

    #[test]
    fn its_capabilities_are_ours_too() {
        let said = json!({ "cpu_cores": 8, "memory_mb": 16384.0, "cli_tools": ["claude-code"],
            "cli_details": { "claude-code": { "installed": true, "version": "2.0" }, "aider": { "installed": false } } });
        let ours = capabilities(said.as_object().unwrap());
        assert_eq!(ours["memory_gb"], 16.0);
        assert_eq!(ours["clis"].as_array().unwrap().len(), 2);
        let ours: ace_policies::wire::Capabilities = serde_json::from_value(ours).unwrap();
        assert!(ours.clis.iter().any(|cli| cli.id == "claude-code" && cli.installed));
    }
}
