//! `ace-gateway demo`: the first minute, as its printed lines say.

use std::net::SocketAddr;

use ace_tests::{Dialect, Door, PATIENCE, Program, Provider, program};
use serde_json::Value;
use tokio::process::Command;

async fn demo(flags: &[&str]) -> (Program, Value, tempfile::TempDir) {
    let home = tempfile::TempDir::new().expect("a folder");
    let mut command = program("ace-gateway");
    command
        .arg("demo")
        .args(["--port", "0"])
        .args(flags)
        .env("HOME", home.path());
    let (program, ready) = Program::start(command).await;
    (program, ready, home)
}

fn address(ready: &Value) -> SocketAddr {
    let host = ready["url"].as_str().and_then(|url| url.strip_prefix("http://"));
    host.and_then(|host| host.parse().ok())
        .unwrap_or_else(|| panic!("no address in {ready}"))
}

/// Every `curl` command that the demo prints, lines that go on with a backslash joined.
fn printed_commands(log: &str) -> Vec<String> {
    let joined = log.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.trim().trim_start_matches("$ "));
    lines
        .filter(|line| line.starts_with("curl ") || line.starts_with("SESSION=$(curl "))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_ready_line_tells_everything_that_a_script_needs() {
    let (_program, ready, _home) = demo(&["--json"]).await;
    let tokens = [
        "/proxy_tokens/openai",
        "/proxy_tokens/anthropic",
        "/proxy_tokens/google",
    ];
    for field in ["/url", "/metrics_url", "/admin/username", "/admin/password"]
        .iter()
        .chain(&tokens)
    {
        assert!(
            ready.pointer(field).is_some_and(Value::is_string),
            "{field} is missing in {ready}"
        );
    }
}

/// The command as in a terminal, where what was set before is still known.
fn remembering(command: &str) -> String {
    format!(
        "set -o pipefail; [ ! -f vars ] || . ./vars; {command}; status=$?; [ -z \"${{SESSION-}}\" ] || echo SESSION=$SESSION > vars; exit $status"
    )
}

#[tokio::test]
async fn the_printed_commands_work() {
    let home = tempfile::TempDir::new().expect("a folder");
    let mut command = program("ace-gateway");
    command.args(["demo", "--port", "0"]).env("HOME", home.path());
    let program = Program::open(command);
    let commands = ace_tests::eventually("the last of the demo's commands", async || {
        let commands = printed_commands(&program.log());
        let is_last = |command: &String| command.ends_with("/metrics");
        commands.last().is_some_and(is_last).then_some(commands)
    })
    .await;
    assert!(commands.len() >= 3, "{commands:?}");
    for command in &commands {
        let output = Command::new("bash")
            .arg("-c")
            .arg(remembering(command))
            .current_dir(home.path())
            .output()
            .await
            .expect("bash");
        assert!(
            output.status.success(),
            "{command}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            !text.contains("\"error\":{") && !text.contains("\"code\":\""),
            "{command}\n{text}"
        );
    }
    assert!(
        commands
            .iter()
            .any(|command| command.contains("llm-proxy") || command.contains("/v1/")),
        "{commands:?}"
    );
}

#[tokio::test]
async fn it_stops_when_it_is_asked_and_leaves_nothing_behind() {
    let (mut program, ready, home) = demo(&["--json"]).await;
    let door = Door::plain(address(&ready));
    for dialect in Dialect::ALL {
        let token = ready["proxy_tokens"][dialect.name()].as_str().unwrap_or_default();
        for ask in [dialect.ask(), dialect.streaming_ask()] {
            let answer = door.call(&dialect.authorize(ask, token)).await.expect(200);
            assert!(answer.text().contains("simulated "), "{}", answer.text());
        }
    }
    program.terminate();
    assert!(program.exit(PATIENCE).await.success());
    let left: Vec<_> = std::fs::read_dir(home.path())
        .expect("a folder")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn an_own_server_can_stand_in_for_the_simulated_provider() {
    let provider = Provider::start().await;
    let upstream = format!("openai={}/v1,sk-own", provider.url());
    let (_program, ready, _home) = demo(&["--json", "--upstream", &upstream]).await;
    let door = Door::plain(address(&ready));
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let token = ready["proxy_tokens"][dialect.name()].as_str().unwrap_or_default();
        door.call(&dialect.authorize(dialect.ask(), token)).await.expect(200);
    }
    assert_eq!(
        provider.request().header("authorization").as_deref(),
        Some("Bearer sk-own")
    );
}
