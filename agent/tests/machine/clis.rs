//! The real CLIs, driven against a simulated provider.
//!
//! They are not part of the project and weigh gigabytes: `tests/run` has `tests/clis/install` put the pinned versions into
//! `target/clis`.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command as Program, Stdio},
};

use crate::world::Machine;
use ace_policies::wire::{Behavior, Command};

/// The simulated provider of `tests/conformance`.
struct Provider(Child, String);

impl Provider {
    fn start(bin: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/mock_provider.mjs");
        let mut program = Program::new(bin.join("node"));
        program
            .arg(script)
            .args(["--port", "0", "--log", "/dev/null"])
            .stdout(Stdio::piped());
        let mut child = program.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        // mock-llm on http://127.0.0.1:PORT log=…
        let url = line.split_whitespace().nth(2).unwrap().to_owned();
        Self(child, url)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn bin() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = std::env::var("OPENACE_TEST_CLIS").map_or_else(|_| here.join("../target/clis"), PathBuf::from);
    let bin = dir.join("node_modules/.bin");
    assert!(
        bin.join("node").exists(),
        "there are no CLIs in {}: run tests/clis/install",
        dir.display()
    );
    bin
}

/// What a CLI is tried with.
struct Story {
    cli: &'static str,
    model: Option<&'static str>,
    other_model: Option<&'static str>,
    permission_mode: Option<&'static str>,
    /// A message that makes it ask for permission, with FILE for the file that it then writes.
    tool: &'static str,
    /// The CLI's own settings, in its user's home.
    settings: &'static [(&'static str, &'static str)],
}

impl Story {
    async fn tell(self) {
        let bin = bin();
        let provider = Provider::start(&bin);
        let mut machine = Machine::new();
        machine.gateway.clone_from(&provider.1);
        machine.path = vec![bin];
        for (path, content) in self.settings {
            let path = machine.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        machine.start(&[]).await;
        self.starts(&mut machine, 1).await;
        self.turns(&mut machine).await;
        self.asks(&mut machine).await;
        self.is_aborted(&mut machine).await;
        self.changes_its_model(&mut machine).await;
        self.goes_on_in_a_new_process(&mut machine).await;
        machine.stop_session().await;
        machine.nobody_is_left().await;
    }

    async fn starts(&self, machine: &mut Machine, run: i64) {
        let mut start = machine.start_of(self.cli, run);
        start.model = self.model.map(str::to_owned);
        start.permission_mode = self.permission_mode.map(str::to_owned);
        start.resume_id = machine.resume_id();
        machine.command(Command::StartSession(start)).await.unwrap();
    }

    /// A second turn in the same process; where each turn has its own, that after the abort is as good, and seconds cheaper.
    async fn turns(&self, machine: &mut Machine) {
        let texts = ["hello there", "and again"];
        for text in &texts[..if self.cli == "openclaw" { 1 } else { 2 }] {
            let turn = machine.turn(text).await;
            // OpenClaw puts more around a message than the provider repeats of it.
            assert!(
                self.cli == "openclaw" || turn.contains(&format!("pong: {text}")),
                "{turn}"
            );
            assert!(
                turn.contains("pong: ") && turn.contains(r#""type":"assistant""#),
                "{turn}"
            );
        }
    }

    /// A no is a no, and a yes a yes.
    async fn asks(&self, machine: &mut Machine) {
        for (name, behavior) in [("no.txt", Behavior::Deny), ("yes.txt", Behavior::Allow)] {
            if self.tool.is_empty() {
                return;
            }
            let file = machine.project.join(name);
            let (before, message) = (machine.printed.len(), self.tool.replace("FILE", file.to_str().unwrap()));
            let message = message.replace("NAME", name);
            machine.command(machine.message(&message)).await.unwrap();
            let (request_id, tool, input) = machine.asked().await;
            assert!(input.to_string().contains(name), "{tool}: {input}");
            assert!(!file.exists(), "it waits");
            machine.answer(&request_id, behavior).await.unwrap();
            let turn = machine.turn_ends(before).await;
            assert!(
                turn.contains(r#""type":"tool_use""#) && turn.contains(r#""type":"tool_result""#),
                "{turn}"
            );
            assert_eq!(file.exists(), behavior == Behavior::Allow, "{turn}");
        }
    }

    async fn is_aborted(&self, machine: &mut Machine) {
        let before = machine.printed.len();
        machine.command(machine.message("@slow=200")).await.unwrap();
        if !self.tool.is_empty() {
            machine
                .until("the first words", |machine| said(&machine.printed[before..], "w1 "))
                .await;
        }
        let session_id = machine.session;
        machine
            .command(Command::AbortRequest {
                session_id,
                reason: "enough".to_owned(),
            })
            .await
            .unwrap();
        let turn = machine.turn_ends(before).await;
        assert!(!turn.contains("w150"), "{turn}");
        let turn = machine.turn("still there").await;
        assert!(self.cli == "openclaw" || turn.contains("pong: still there"), "{turn}");
    }

    async fn changes_its_model(&self, machine: &mut Machine) {
        let Some(model) = self.other_model else {
            return;
        };
        let session_id = machine.session;
        machine
            .command(Command::UpdateModel {
                session_id,
                model: model.to_owned(),
            })
            .await
            .unwrap();
        assert!(machine.turn("with another").await.contains("pong: with another"));
        let init = machine
            .text()
            .rfind(r#""subtype":"init""#)
            .map(|at| machine.text()[at.saturating_sub(300)..].to_owned());
        assert!(
            ["codex", "gemini-cli"].contains(&self.cli) || init.is_some_and(|init| init.contains(model)),
            "{}",
            machine.text()
        );
    }

    async fn goes_on_in_a_new_process(&self, machine: &mut Machine) {
        let Some(earlier) = machine.resume_id() else {
            assert_eq!(self.cli, "gemini-cli", "{:#?}", machine.said);
            return;
        };
        machine.stop_session().await;
        self.starts(machine, 2).await;
        let turn = machine.turn("once more").await;
        assert!(self.cli == "openclaw" || turn.contains("pong: once more"), "{turn}");
        assert_eq!(machine.resume_id(), Some(earlier), "the same conversation");
    }
}

fn said(printed: &[(ace_policies::wire::Stream, Vec<u8>)], text: &str) -> bool {
    printed
        .iter()
        .any(|(_, data)| String::from_utf8_lossy(data).contains(text))
}

#[tokio::test]
async fn claude_code() {
    let tool = r#"@tool=Write {"file_path":"FILE","content":"hi"} @end"#;
    let story = Story {
        cli: "claude-code",
        model: Some("claude-mock"),
        other_model: Some("claude-other"),
        permission_mode: None,
        tool,
        settings: &[],
    };
    story.tell().await;
}

#[tokio::test]
async fn qwen_code() {
    let tool = r#"@tool=write_file {"file_path":"FILE","content":"hi"} @end"#;
    let story = Story {
        cli: "qwen-code-cli",
        model: Some("gpt-mock"),
        other_model: Some("qwen-other"),
        permission_mode: None,
        tool,
        settings: &[],
    };
    story.tell().await;
}

#[tokio::test]
async fn codex() {
    let tool =
        r#"@tool=exec_command {"cmd":"touch FILE","sandbox_permissions":"require_escalated","justification":"t"} @end"#;
    let story = Story {
        cli: "codex",
        model: Some("gpt-mock"),
        other_model: Some("gpt-other"),
        permission_mode: Some("untrusted"),
        tool,
        settings: &[],
    };
    story.tell().await;
}

#[tokio::test]
async fn gemini_cli() {
    let tool = r#"@tool=write_file {"file_path":"FILE","content":"hi"} @end"#;
    let story = Story {
        cli: "gemini-cli",
        model: Some("gemini-mock"),
        other_model: Some("gemini-2.5-pro"),
        permission_mode: None,
        tool,
        settings: &[],
    };
    story.tell().await;
}

#[tokio::test]
async fn opencode() {
    let tool = r#"@tool=bash {"command":"touch FILE","description":"x"} @end"#;
    let story = Story {
        cli: "opencode",
        model: Some("gpt-mock"),
        other_model: Some("gpt-other"),
        permission_mode: None,
        tool,
        settings: &[],
    };
    story.tell().await;
}

#[tokio::test]
async fn openclaw() {
    let story = Story {
        cli: "openclaw",
        model: Some("gpt-5.5"),
        other_model: None,
        permission_mode: None,
        tool: "",
        // Each of its processes loads every plugin that there is, unless it is told which: that is a third of its time.
        settings: &[(".openclaw/openclaw.json", r#"{"plugins":{"allow":["openai"]}}"#)],
    };
    story.tell().await;
}

#[tokio::test]
async fn versions_are_told() {
    use ace_agent::{
        adapter::{Adapters, detect},
        process::environment::CliEnvironment,
    };
    let environment = CliEnvironment::of([("PATH".to_owned(), bin().to_str().unwrap().to_owned())]);
    let adapters = Adapters::load(Path::new("/none"), &[]).unwrap();
    let agent = Path::new(env!("CARGO_BIN_EXE_ace-agent"));
    let clis = detect::clis(&adapters, &environment, agent, crate::world::PATIENCE).await;
    let pinned = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clis/package.json")).unwrap();
    for cli in clis {
        assert!(cli.installed, "{}", cli.id);
        assert!(
            pinned.contains(&format!("\"{}\"", cli.version.unwrap_or_default())),
            "{}",
            cli.id
        );
    }
}
