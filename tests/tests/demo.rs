//! `ace-gateway demo`: the first minute, as its printed lines say.

use std::time::Duration;

use ace_tests::{Door, PATIENCE, Program, program};
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

/// Every `curl` command that the demo prints, lines that go on with a backslash joined.
fn printed_commands(log: &str) -> Vec<String> {
    let joined = log.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.trim().trim_start_matches("$ "));
    lines
        .filter(|line| line.starts_with("curl "))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_ready_line_tells_everything_that_a_script_needs() {
    let (_program, ready, _home) = demo(&["--json"]).await;
    for field in ["url", "metrics_url", "proxy_token", "admin_password"] {
        assert!(ready[field].is_string(), "{field} is missing in {ready}");
    }
}

#[tokio::test]
async fn the_printed_commands_work() {
    let home = tempfile::TempDir::new().expect("a folder");
    let mut command = program("ace-gateway");
    command.args(["demo", "--port", "0"]).env("HOME", home.path());
    let program = Program::open(command);
    let commands = ace_tests::eventually("the demo's commands", async || {
        let commands = printed_commands(&program.log());
        (commands.len() >= 3).then_some(commands)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    for command in printed_commands(&program.log()) {
        let output = Command::new("bash")
            .arg("-c")
            .arg(&command)
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
    let address = ready["url"]
        .as_str()
        .and_then(|url| url.rsplit('/').find(|part| part.contains(':')));
    let address = address.and_then(|address| address.parse().ok()).expect("an address");
    let token = ready["proxy_token"].as_str().unwrap_or_default();
    for dialect in ace_tests::Dialect::ALL {
        for ask in [dialect.ask(), dialect.streaming_ask()] {
            let answer = Door::plain(address)
                .call(&dialect.authorize(ask, token))
                .await
                .expect(200);
            assert!(answer.text().contains("simulated provider"), "{}", answer.text());
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
