//! The official SDKs as acceptance tests: what works against the provider works through the gateway, and the request log
//! says what the provider says. `tests/run` prepares the Python environment that they need.

use std::path::PathBuf;
use std::time::Duration;

use ace_tests::{Ask, Dialect, Door, Mock, Program, World, classes, classes_of_row, conformance};
use serde_json::{Value, json};
use tokio::process::Command;

/// How long one suite may take.
const SUITE: Duration = Duration::from_secs(240);
const KEY: &str = "real-key";

#[tokio::test]
async fn openai_sdk() {
    suite(Dialect::OpenAi, "openai_py.py", "PROXY_BASE_OPENAI").await;
}

#[tokio::test]
async fn anthropic_sdk() {
    suite(Dialect::Anthropic, "anthropic_py.py", "PROXY_BASE_ANTHROPIC").await;
}

#[tokio::test]
async fn gemini_sdk() {
    suite(Dialect::Google, "gemini_py.py", "PROXY_BASE_GEMINI").await;
}

/// Runs one SDK's suite directly and through the gateway, and compares the results and the two logs.
async fn suite(dialect: Dialect, script: &str, base: &'static str) {
    let mock = Mock::start().await;
    let direct = results(&mock, script, "x", None, (base, &dialect.base_url(&mock.url()))).await;
    assert!(
        direct.iter().all(|line| line.starts_with("ok ")) && direct.len() > 10,
        "{direct:#?}"
    );
    let (world, token) = behind_a_gateway(&mock, dialect).await;
    mock.forget();
    let proxy = format!("http://{}/api/remote/llm-proxy", world.door.address);
    let through = results(&mock, script, &token, Some(KEY), (base, &dialect.base_url(&proxy))).await;
    assert_eq!(through, direct);
    compare_logs(&world, &mock).await;
}

/// A gateway in front of the simulated provider, with a key for one dialect, and a token of Alice's.
async fn behind_a_gateway(mock: &Mock, dialect: Dialect) -> (World, String) {
    let world = World::builder().without_keys().start().await;
    world.store_key(dialect, &dialect.base_url(&mock.url()), KEY).await;
    let token = world.token(dialect).await;
    (world, token)
}

/// The results of a suite, without what differs from run to run: timings and notes.
async fn results(mock: &Mock, script: &str, token: &str, key: Option<&str>, base: (&str, &str)) -> Vec<String> {
    let mut command = Command::new(python());
    command
        .arg(conformance(script))
        .env("PROXY_TOKEN", token)
        .env(base.0, base.1);
    command.env("CONF_CTL", format!("{}/__ctl", mock.url()));
    if let Some(key) = key {
        command.env("CONF_UPSTREAM_KEY", key);
    }
    let (_, output) = Program::run_within(command, SUITE).await;
    let lines = output
        .lines()
        .filter(|line| line.starts_with("ok ") || line.starts_with("not ok "));
    let untimed = lines.map(|line| {
        if line.starts_with("ok ") {
            line.split(" (").next().unwrap_or(line)
        } else {
            line
        }
    });
    untimed.map(str::to_owned).collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "where the SDKs are is a setting of the stories"
)]
fn python() -> PathBuf {
    std::env::var_os("OPENACE_TEST_PYTHON")
        .expect("tests/run sets OPENACE_TEST_PYTHON, a Python with the SDKs")
        .into()
}

/// Every request that the provider saw is a row of the log, with its tokens; and there are no others but those that the
/// gateway refused itself.
async fn compare_logs(world: &World, mock: &Mock) {
    let (seen, rows) = ace_tests::eventually("every request in both logs", async || {
        let seen = mock.requests();
        let rows = world.alice.request_log(seen.len()).await;
        let called: Vec<_> = rows
            .into_iter()
            .filter(|row| row["error_kind"] != "auth_error")
            .collect();
        (called.len() == seen.len()).then_some((seen, called))
    })
    .await;
    // The log has the path as it was asked for, with our prefix.
    let path = |row: &Value| {
        row["path"]
            .as_str()
            .unwrap_or_default()
            .replace("/api/remote/llm-proxy", "")
    };
    let outline = |row: &Value| format!("{} {}", row["method"], path(row));
    let (logged, expected): (Vec<_>, Vec<_>) = (rows.iter().map(outline).collect(), seen.iter().map(outline).collect());
    assert_eq!(logged, expected);
    for (row, line) in rows.iter().zip(&seen) {
        compare_line(row, line);
    }
}

fn compare_line(row: &Value, line: &Value) {
    if line["end"] == "finish" && line["status"] != 200 {
        assert_eq!(row["status"], line["status"], "{row}\n{line}");
    }
    // An answer that ends in an injected error never tells what it would have cost.
    if line["usage_sent"] == true && line["injected"].is_null() {
        assert_eq!(
            (classes_of_row(row), &row["usage_source"]),
            (classes(&line["usage"]), &json!("provider")),
            "{row}\n{line}"
        );
    } else if line["usage"].is_object() {
        assert_ne!(
            row["usage_source"], "provider",
            "the provider never sent its usage: {row}\n{line}"
        );
    }
}

/// Main calls whose answers the provider bills in unusual ways.
fn billed() -> Vec<(Dialect, &'static str, Value, &'static str)> {
    let chat = |stream: bool| json!({"model": "gpt-mock", "stream": stream, "messages": [{"role": "user", "content": "PROMPT"}]});
    let responses = |stream: bool| json!({"model": "gpt-mock", "stream": stream, "input": "PROMPT"});
    let messages = |stream: bool| json!({"model": "claude-mock", "stream": stream, "max_tokens": 9, "messages": [{"role": "user", "content": "PROMPT"}]});
    let gemini = || json!({"contents": [{"role": "user", "parts": [{"text": "PROMPT"}]}]});
    let chat_usage = r#"{"prompt_tokens":5000,"completion_tokens":700,"prompt_tokens_details":{"cached_tokens":4864},"completion_tokens_details":{"reasoning_tokens":512}}"#;
    let huge = r#"{"prompt_tokens":3000000000,"completion_tokens":4000000000}"#;
    let responses_usage = r#"{"input_tokens":5000,"output_tokens":700,"input_tokens_details":{"cached_tokens":4864},"output_tokens_details":{"reasoning_tokens":512}}"#;
    let messages_usage = r#"{"input_tokens":3,"cache_read_input_tokens":90000,"cache_creation_input_tokens":2000,"cache_creation":{"ephemeral_5m_input_tokens":500,"ephemeral_1h_input_tokens":1500},"output_tokens":77}"#;
    let written = r#"{"input_tokens":3,"cache_creation_input_tokens":2000,"output_tokens":77}"#;
    let gemini_usage = r#"{"promptTokenCount":5000,"cachedContentTokenCount":4000,"candidatesTokenCount":70,"thoughtsTokenCount":512}"#;
    let mut all = Vec::new();
    for stream in [false, true] {
        all.push((Dialect::OpenAi, "/v1/chat/completions", chat(stream), chat_usage));
        all.push((Dialect::OpenAi, "/v1/chat/completions", chat(stream), huge));
        all.push((Dialect::OpenAi, "/v1/responses", responses(stream), responses_usage));
        all.push((Dialect::Anthropic, "/v1/messages", messages(stream), messages_usage));
        all.push((Dialect::Anthropic, "/v1/messages", messages(stream), written));
    }
    let gemini_paths = [
        "generateContent",
        "streamGenerateContent",
        "streamGenerateContent?alt=sse",
    ];
    let gemini_paths = gemini_paths.map(|call| format!("/v1beta/models/gemini-mock:{call}").leak() as &'static str);
    all.extend(gemini_paths.map(|path| (Dialect::Google, path, gemini(), gemini_usage)));
    all
}

#[tokio::test]
async fn trap_2_every_class_of_tokens_is_logged_as_it_was_billed() {
    let mock = Mock::start().await;
    let (world, _) = behind_a_gateway(&mock, Dialect::OpenAi).await;
    world.store_key(Dialect::Anthropic, &mock.url(), KEY).await;
    world.store_key(Dialect::Google, &mock.url(), KEY).await;
    let calls = billed();
    let count = calls.len();
    for (dialect, path, body, usage) in calls {
        let prompt = format!("hello @usage={usage} @end").replace('"', "\\\"");
        let body = body.to_string().replace("PROMPT", &prompt);
        let ask = Ask::post(path).header("content-type", "application/json").body(body);
        let answer = Door::plain(world.door.address)
            .call(&dialect.authorize(ask, &world.token(dialect).await))
            .await;
        answer.expect(200);
    }
    let lines = ace_tests::eventually("the provider's log", async || {
        Some(mock.requests()).filter(|lines| lines.len() == count)
    });
    assert!(lines.await.iter().all(|line| line["usage_sent"] == true));
    compare_logs(&world, &mock).await;
}
