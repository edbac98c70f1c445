//! The OpenAPI document is true, and nothing that can be sent breaks the control API: schemathesis makes requests from it, right and wrong ones.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use ace_tests::{Machine, Program, World};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

/// What is sent would end the login, or never ends by itself.
const LEFT_OUT: &str = "auth/(login|logout|change-password)|/live$|/stream$|agent/ws$|token/(rotate|revoke)$";

#[tokio::test]
async fn no_request_is_answered_with_a_5xx() {
    let world = World::start().await;
    let clis = PathBuf::from(setting("OPENACE_TEST_CLIS")).join("node_modules/.bin");
    let machine = Machine::start(&world, &[clis]).await;
    let session = machine.session(&world, "claude-code", json!({})).await;
    let folder = TempDir::new().expect("a temporary folder");
    let config = config(&machine.id, session.rsplit('/').next().unwrap_or_default());
    std::fs::write(folder.path().join("schemathesis.toml"), config).expect("a folder of ours");
    let token = world
        .admin
        .post("/api/tokens", json!({"name": "schema", "scopes": ["full"]}))
        .await
        .ok();
    let mut command = Command::new(schemathesis());
    command
        .current_dir(folder.path())
        .arg("run")
        .arg(format!("http://{}/api/openapi.json", world.door.address));
    command.args([
        "--header",
        &format!("Authorization: Bearer {}", token["token"].as_str().expect("a token")),
    ]);
    command.args([
        "--exclude-path-regex",
        LEFT_OUT,
        "--exclude-method",
        "DELETE",
        "--checks",
        "not_a_server_error",
        "--phases",
        "examples,coverage,fuzzing",
    ]);
    command.args([
        "--max-examples",
        "8",
        "--workers",
        "1",
        "--request-timeout",
        "40",
        "--seed",
        "7",
        "--warnings",
        "off",
    ]);
    command.args(["--continue-on-failure", "--no-color"]);
    let (status, told) = Program::run_within(command, Duration::from_secs(420)).await;
    assert!(status.success(), "{told}");
}

/// A machine and a session that are there, for those requests that name one.
fn config(machine: &str, session: &str) -> String {
    format!(
        "[[operations]]\ninclude-path-regex = \"^/api/remote/machines/\"\nparameters = {{ \"path.id\" = \"{machine}\" }}\n\
         [[operations]]\ninclude-path-regex = \"^/api/remote/sessions/\"\nparameters = {{ \"path.id\" = \"{session}\" }}\n"
    )
}

fn schemathesis() -> PathBuf {
    PathBuf::from(setting("OPENACE_TEST_PYTHON")).with_file_name("st")
}

#[expect(
    clippy::disallowed_methods,
    reason = "where other people's programs are is a setting of the stories"
)]
fn setting(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_else(|| panic!("tests/run sets {name}"))
}
