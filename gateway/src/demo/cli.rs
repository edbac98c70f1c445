//! The demo's AI CLI: it speaks stream-json as Claude Code does, and has the simulated provider answer, through the relay as any other.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

const MODEL: &str = "claude-opus-5-5";

/// A conversation with whoever writes to standard input.
struct Conversation {
    id: String,
    model: String,
    /// What was said, by both.
    messages: Vec<Value>,
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    key: String,
}

/// Runs it until standard input ends.
pub fn run(args: &[String]) -> ExitCode {
    match converse(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-cli: {error}");
            ExitCode::FAILURE
        }
    }
}

fn converse(args: &[String]) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut conversation = Conversation::begin(args);
    for line in io::stdin().lock().lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else {
            continue;
        };
        match message["type"].as_str() {
            Some("user") => runtime.block_on(conversation.turn(&message["message"]["content"]))?,
            Some("control_request") => {
                let response = json!({"subtype": "success", "request_id": message["request_id"], "response": {}});
                say(&json!({"type": "control_response", "response": response}))?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl Conversation {
    #[expect(
        clippy::disallowed_methods,
        reason = "CLIs are told by their environment where to call"
    )]
    fn begin(args: &[String]) -> Self {
        let after = |flag: &str| {
            let at = args.iter().position(|arg| arg == flag)?;
            args.get(at + 1).cloned()
        };
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        Self {
            id: after("--resume").or_else(|| after("--session-id")).unwrap_or_default(),
            model: after("--model").unwrap_or_else(|| MODEL.to_owned()),
            messages: Vec::new(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            url: variable("ANTHROPIC_BASE_URL"),
            key: variable("ANTHROPIC_API_KEY"),
        }
    }

    async fn turn(&mut self, content: &Value) -> io::Result<()> {
        say(&json!({"type": "system", "subtype": "init", "session_id": self.id, "model": self.model}))?;
        self.messages.push(json!({"role": "user", "content": content}));
        let answer = self.ask().await;
        let (text, is_error) = match &answer {
            Ok(answer) => (text_of(answer), false),
            Err(error) => (format!("The call failed: {error}"), true),
        };
        let said = json!({"role": "assistant", "content": [{"type": "text", "text": text}]});
        self.messages.push(said.clone());
        say(&json!({"type": "assistant", "session_id": self.id, "message": said}))?;
        let usage = answer.map(|answer| answer["usage"].clone()).unwrap_or_default();
        let subtype = if is_error { "error_during_execution" } else { "success" };
        say(
            &json!({"type": "result", "subtype": subtype, "is_error": is_error, "result": text, "session_id": self.id, "usage": usage}),
        )
    }

    async fn ask(&self) -> Result<Value, Box<dyn std::error::Error>> {
        let body = json!({"model": self.model, "max_tokens": 256, "messages": self.messages});
        let request = Request::post(format!("{}/v1/messages", self.url))
            .header("content-type", "application/json")
            .header("anthropic-version", "2023-06-01")
            .header("x-api-key", &self.key)
            .body(Full::from(body.to_string()))?;
        let response = self.client.request(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&bytes)?;
        if status.is_success() {
            return Ok(answer);
        }
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        Err(format!("{status}: {message}").into())
    }
}

fn text_of(answer: &Value) -> String {
    let parts = answer["content"].as_array().into_iter().flatten();
    parts.filter_map(|part| part["text"].as_str()).collect()
}

fn say(line: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
