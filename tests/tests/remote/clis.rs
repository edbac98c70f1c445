//! The real CLIs through everything: browser, control API, agent, relay, gateway, provider. What they use is what the provider bills.
//!
//! `tests/run` puts the pinned versions into `target/clis`. How each driver works in detail is tried beside the agent.

use std::path::PathBuf;

use ace_tests::{Dialect, Machine, Mock, World, classes, classes_of_row};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

/// Some CLIs take long to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

/// Where the CLIs are, and the Node they need.
#[expect(
    clippy::disallowed_methods,
    reason = "where the CLIs are is a setting of the stories"
)]
fn clis() -> PathBuf {
    let folder =
        std::env::var_os("OPENACE_TEST_CLIS").expect("tests/run sets OPENACE_TEST_CLIS, a folder with the CLIs");
    PathBuf::from(folder).join("node_modules/.bin")
}

struct Story {
    world: World,
    mock: Mock,
    _machine: Machine,
    session: String,
}

impl Story {
    async fn begins(cli: &str, more: Value) -> Self {
        let mock = Mock::start().await;
        let world = World::builder().without_keys().start().await;
        for dialect in Dialect::ALL {
            world
                .store_key(dialect, &dialect.base_url(&mock.url()), "real-key")
                .await;
        }
        let machine = Machine::start(&world, &[clis()]).await;
        let session = machine.session(&world, cli, more).await;
        Self {
            world,
            mock,
            _machine: machine,
            session,
        }
    }

    async fn says(&self, content: &str) {
        self.world
            .alice
            .post(&format!("{}/chat", self.session), json!({"content": content}))
            .await
            .ok();
    }

    async fn waits(&self, what: &str, found: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let seen = self.world.alice.get(&self.session).await.ok()["session"].clone();
            if found(&seen) {
                return seen;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "waited in vain for {what}\n{seen:#}\n{}",
                self._machine.agent.log()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the session has printed this.
    async fn prints(&self, text: &str) {
        let prints = |seen: &Value| {
            let lines = seen["output"].as_array().into_iter().flatten();
            lines
                .into_iter()
                .any(|line| line["data"].as_str().is_some_and(|data| data.contains(text)))
        };
        self.waits(text, prints).await;
    }

    /// What the ledger has of all answers that were told to their end, and what the provider says that they cost.
    async fn usage_is_what_the_provider_bills(&self) {
        let sum = |all: Vec<[i64; 6]>| {
            all.into_iter()
                .fold([0; 6], |sum, one| std::array::from_fn(|class| sum[class] + one[class]))
        };
        let begun = Instant::now();
        loop {
            let billed: Vec<_> = self
                .mock
                .requests()
                .iter()
                .filter(|line| line["usage_sent"] == true)
                .map(|line| classes(&line["usage"]))
                .collect();
            let rows = self.world.alice.ledger().await;
            let metered: Vec<_> = rows
                .iter()
                .filter(|row| row["usage_source"] == "provider")
                .map(classes_of_row)
                .collect();
            let (billed, metered) = ((billed.len(), sum(billed)), (metered.len(), sum(metered)));
            if billed == metered && billed.0 > 0 {
                let id = self.session.rsplit('/').next();
                assert!(rows.iter().all(|row| row["session_id"].as_str() == id), "{rows:#?}");
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "billed {billed:?}, metered {metered:?}\n{rows:#?}"
            );
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn has_two_turns(&self) {
        for text in ["hello there", "and again"] {
            self.says(text).await;
            self.prints(&format!("pong: {text}")).await;
        }
    }

    /// Two turns, an abort, and the same conversation in a new process.
    async fn is_told(&self) {
        self.has_two_turns().await;
        self.says("@slow=200").await;
        self.prints("w1 ").await;
        self.world
            .alice
            .post(&format!("{}/abort", self.session), json!({}))
            .await
            .ok();
        self.says("still there").await;
        self.prints("pong: still there").await;
        self.world
            .alice
            .post(&format!("{}/stop", self.session), json!({}))
            .await
            .ok();
        self.world
            .alice
            .post(&format!("{}/resume", self.session), json!({}))
            .await
            .ok();
        self.says("once more").await;
        self.prints("pong: once more").await;
        self.usage_is_what_the_provider_bills().await;
    }

    /// A tool waits for a yes from the browser.
    async fn asks(&self, message: &str, file: &str) {
        let file = self._machine.project().join(file);
        self.says(&message.replace("FILE", file.to_str().expect("text"))).await;
        let begun = Instant::now();
        let approvals = format!("{}/approvals", self.session);
        let question = loop {
            let asked = self.world.alice.get(&approvals).await.ok()["approvals"]
                .as_array()
                .and_then(|all| all.iter().find(|one| one["state"] == "pending").cloned());
            if let Some(question) = asked {
                break question;
            }
            assert!(begun.elapsed() < PATIENCE, "nothing was asked");
            sleep(Duration::from_millis(50)).await;
        };
        assert!(!file.exists(), "it waits");
        let answer = json!({"request_id": question["request_id"], "behavior": "allow"});
        self.world
            .alice
            .post(&format!("{}/permission", self.session), answer)
            .await
            .ok();
        self.waits("the tool to be used", |_| file.exists()).await;
    }
}

#[tokio::test]
async fn claude_code() {
    let story = Story::begins("claude-code", json!({"model": "claude-mock"})).await;
    story.is_told().await;
    story
        .asks(r#"@tool=Write {"file_path":"FILE","content":"hi"} @end"#, "yes.txt")
        .await;
}

#[tokio::test]
async fn qwen_code() {
    let story = Story::begins("qwen-code-cli", json!({"model": "gpt-mock"})).await;
    story.is_told().await;
    story
        .asks(
            r#"@tool=write_file {"file_path":"FILE","content":"hi"} @end"#,
            "yes.txt",
        )
        .await;
}

#[tokio::test]
async fn codex() {
    let story = Story::begins("codex", json!({"model": "gpt-mock", "permission_mode": "untrusted"})).await;
    story.is_told().await;
    let tool =
        r#"@tool=exec_command {"cmd":"touch FILE","sandbox_permissions":"require_escalated","justification":"t"} @end"#;
    story.asks(tool, "yes.txt").await;
}

#[tokio::test]
async fn opencode() {
    let story = Story::begins("opencode", json!({"model": "gpt-mock"})).await;
    story.is_told().await;
    story
        .asks(
            r#"@tool=bash {"command":"touch FILE","description":"x"} @end"#,
            "yes.txt",
        )
        .await;
}

/// It cannot go on with a conversation in a new process.
#[tokio::test]
async fn gemini_cli() {
    let story = Story::begins("gemini-cli", json!({"model": "gemini-mock"})).await;
    story.has_two_turns().await;
    story
        .asks(
            r#"@tool=write_file {"file_path":"FILE","content":"hi"} @end"#,
            "yes.txt",
        )
        .await;
    story.usage_is_what_the_provider_bills().await;
}

/// It puts more around a message than the provider repeats of it, and never asks.
#[tokio::test]
async fn openclaw() {
    let story = Story::begins("openclaw", json!({"model": "gpt-5.5"})).await;
    story.says("hello there").await;
    story.prints("pong: ").await;
    story.usage_is_what_the_provider_bills().await;
}
