use std::path::PathBuf;

use super::*;
use crate::process::environment::CliEnvironment;

fn given() -> Given {
    Given {
        url: "http://127.0.0.1:4000".to_owned(),
        key: "acel_local".to_owned(),
        session_id: "0192aaaa-0000-7000-8000-000000000001".to_owned(),
        resume_id: None,
        model: None,
        permission_mode: None,
        project: PathBuf::from("/repo"),
        dir: PathBuf::from("/state/cli"),
    }
}

fn environment() -> CliEnvironment {
    CliEnvironment::of([
        ("HOME".to_owned(), "/home/alice".to_owned()),
        ("PATH".to_owned(), "/bin".to_owned()),
    ])
}

/// Adapters with `files`, and every executable replaced by one that is there.
fn load(files: &[(&str, &str)]) -> Result<Adapters, String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let place = format!("{}/", dir.path().display());
    Adapters::load(dir.path(), &["aider".to_owned()]).map_err(|error| error.to_string().replace(&place, ""))
}

fn args(adapter: &Adapter, given: &Given) -> String {
    let mut adapter = adapter.clone();
    adapter.executable = "sh".to_owned();
    adapter.launch(given, &environment(), None).unwrap().args.join(" ")
}

#[test]
fn every_built_in_row_can_be_read() {
    assert_eq!(Adapters::built_in(&[]).rows().count(), BUILT_IN.len());
    assert_eq!(load(&[]).unwrap().rows().count(), BUILT_IN.len());
}

#[test]
fn a_row_becomes_arguments_and_an_environment() {
    let mut claude = load(&[]).unwrap().find("claude-code").unwrap();
    let mut given = given();
    assert!(args(&claude, &given).ends_with("stdio --session-id 0192aaaa-0000-7000-8000-000000000001"));
    given.resume_id = Some("r-1".to_owned());
    given.model = Some("claude-x[1m]".to_owned());
    given.permission_mode = Some("plan".to_owned());
    assert!(args(&claude, &given).ends_with("stdio --resume r-1 --model claude-x[1m] --permission-mode plan"));

    claude.executable = "sh".to_owned();
    let env = claude.launch(&given, &environment(), None).unwrap().env;
    assert!(env.contains(&("ANTHROPIC_BASE_URL".to_owned(), "http://127.0.0.1:4000".to_owned())));
    assert!(env.contains(&("HOME".to_owned(), "/home/alice".to_owned())));
}

#[test]
fn what_has_no_value_is_left_out() {
    let mut qwen = load(&[]).unwrap().find("qwen-code-cli").unwrap();
    qwen.executable = "sh".to_owned();
    let launch = qwen.launch(&given(), &environment(), None).unwrap();
    assert_eq!(
        launch.args.join(" "),
        "--acp --auth-type openai --approval-mode default"
    );
    assert!(launch.env.iter().all(|(name, _)| name != "OPENAI_MODEL"));
}

#[test]
fn names_cannot_become_arguments() {
    let claude = load(&[]).unwrap().find("claude-code").unwrap();
    for name in ["--dangerously-skip-permissions", "", "a b", "a\"b", "${HOME}", "a\nb"] {
        let mut given = given();
        given.model = Some(name.to_owned());
        let failure = claude.launch(&given, &environment(), None).unwrap_err();
        assert!(
            failure.message.ends_with("is no name of a model"),
            "{}",
            failure.message
        );
    }
}

#[test]
fn what_a_cli_cannot_do_is_refused_by_name() {
    let adapters = load(&[]).unwrap();
    let mut given = given();
    given.permission_mode = Some("plan".to_owned());
    let openclaw = adapters
        .find("openclaw")
        .unwrap()
        .launch(&given, &environment(), None)
        .unwrap_err();
    assert_eq!(openclaw.message, "OpenClaw cannot be given a permission mode");
    given.permission_mode = None;
    let missing = adapters
        .find("openclaw")
        .unwrap()
        .launch(&given, &environment(), None)
        .unwrap_err();
    assert_eq!(
        missing.message,
        "OpenClaw is not installed: there is no `openclaw` in PATH; install it with `npm install -g openclaw@latest`"
    );
}

const MY_TOOL: &str = r#"
id = "my-tool"
name = "My Tool"
executable = "my-tool"
driver = "stream_json"
features = ["model"]
[install]
command = ["npm", "install", "-g", "my-tool@latest"]
[args]
start = ["--agent"]
model = ["--model", "{model}"]
[env]
MY_TOOL_API_KEY = "{key}"
MY_TOOL_BASE_URL = "{url}"
"#;

#[test]
fn files_add_rows_and_change_them() {
    let more = "id = \"claude-code\"\nexecutable = \"/opt/claude\"\n[env]\nDISABLE_TELEMETRY = \"0\"\n";
    let adapters = load(&[
        ("my-tool.toml", MY_TOOL),
        ("claude.toml", more),
        ("note.txt", "not one"),
    ])
    .unwrap();
    assert_eq!(adapters.rows().count(), 7);
    let claude = adapters.find("claude-code").unwrap();
    assert_eq!(
        (claude.executable.as_str(), claude.name.as_str()),
        ("/opt/claude", "Claude Code")
    );
    assert_eq!(claude.env.len(), 6);
    let mut given = given();
    given.model = Some("m".to_owned());
    assert_eq!(args(&adapters.find("my-tool").unwrap(), &given), "--agent --model m");
}

#[track_caller]
fn refused(text: &str, message: &str) {
    let error = load(&[("x.toml", text)]).unwrap_err();
    assert!(error.contains(message), "{error}");
    assert!(error.starts_with("x.toml: "), "{error}");
}

#[test]
fn mistakes_are_named_with_their_file() {
    refused("id = ", "TOML parse error at line 1");
    refused("name = \"x\"", "`id` is missing");
    refused("id = \"x\"\nexecutable = \"x\"", "missing field `driver`");
    refused("id = \"codex\"\nexecutible = \"x\"", "unknown field `executible`");
    refused(
        "id = \"codex\"\ndriver = \"telnet\"",
        "unknown variant `telnet`, expected one of `stream_json`",
    );
    refused(
        "id = \"codex\"\n[env]\nA = \"{tokn}\"",
        "{tokn} is none of {url}, {key}",
    );
    refused(
        "id = \"codex\"\n[files]\n\"../x\" = \"\"",
        "`files.../x` is not a path inside",
    );
    refused("id = \"codex\"\n[install]\ncommand = []", "`install.command` is empty");
}

#[test]
fn a_cli_without_a_row_is_run_only_where_it_is_allowed() {
    let adapters = load(&[]).unwrap();
    assert_eq!(adapters.find("aider").unwrap().executable, "aider");
    assert!(adapters.find("bash").is_none());
    let any = Adapters::load(Path::new("/none"), &["*".to_owned()]).unwrap();
    assert!(any.find("bash").is_some());
    for odd in ["../bash", "/bin/bash", "-x", "", "a b"] {
        assert!(any.find(odd).is_none(), "{odd}");
    }
    assert_eq!(any.find("aider").unwrap().driver, DriverKind::OneShot);
}
