//! Real directories and repositories.

use serde_json::json;

use super::*;
use crate::config::{ConfigFile, Environment};

struct World {
    dir: tempfile::TempDir,
    looking: Arc<Looking>,
}

impl World {
    /// A home with the agent's directory in it, and something outside of it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let own = home.join(".open-ace-agent");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "x").unwrap();
        fs::write(own.join("config.json"), "{}").unwrap();
        let environment = Environment::from([("HOME", home.to_str().unwrap())]);
        let config = Config::new(&own, &environment, &ConfigFile::read(&own.join("none")).unwrap()).unwrap();
        let looking = Arc::new(Looking::new(&config, Arc::default()));
        Self { dir, looking }
    }

    fn path(&self, path: &str) -> String {
        fs::canonicalize(self.dir.path())
            .unwrap()
            .join(path)
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(path), content).unwrap();
    }

    fn git(&self, arguments: &str) {
        let mut command = std::process::Command::new("git");
        let git = command
            .current_dir(self.path("home/repo"))
            .env("HOME", self.path("home"));
        let identity = ["-c", "user.name=alice", "-c", "user.email=alice@example.com"];
        let output = git.args(identity).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    async fn look(&self, command: Command) -> Result<Value, Failure> {
        self.looking.look(command).await
    }

    async fn browse(&self, path: &str) -> Result<Value, Failure> {
        self.look(Command::BrowseDirectory { path: path.to_owned() }).await
    }

    async fn read(&self, path: &str) -> Result<Value, Failure> {
        self.look(Command::ReadFile { path: self.path(path) }).await
    }
}

#[track_caller]
fn refused(looked: Result<Value, Failure>, code: FailureCode) {
    let failure = looked.expect_err("refused");
    assert_eq!(failure.code, code, "{}", failure.message);
}

#[tokio::test]
async fn a_directory_is_listed_with_what_a_screen_needs() {
    let world = World::new();
    fs::create_dir(world.path("home/src")).unwrap();
    world.write("home/a.txt", "hello");
    std::os::unix::fs::symlink(world.path("home/src"), world.path("home/link")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", world.path("home/broken")).unwrap();
    let listing = world.browse("").await.unwrap();
    assert_eq!(listing["path"], world.path("home"));
    assert_eq!(listing["parent"], Value::Null, "what is above may not be looked at");
    let entries: Vec<_> = listing["entries"].as_array().unwrap().iter().collect();
    let names: Vec<_> = entries.iter().map(|entry| (&entry["name"], &entry["kind"])).collect();
    let expected = [
        (".open-ace-agent", "directory"),
        ("link", "directory"),
        ("src", "directory"),
        ("a.txt", "file"),
        ("broken", "link"),
    ]
    .map(|(name, kind)| (json!(name), json!(kind)));
    assert_eq!(
        names,
        expected.iter().map(|(name, kind)| (name, kind)).collect::<Vec<_>>()
    );
    let file = entries.iter().find(|entry| entry["name"] == "a.txt").unwrap();
    assert_eq!((&file["size"], &file["writable"]), (&json!(5), &json!(true)));
    assert!(file["modified"].as_str().unwrap().ends_with('Z'), "{file}");
    let inner = world.browse(&world.path("home/src")).await.unwrap();
    assert_eq!(inner["parent"], world.path("home"));
}

#[tokio::test]
async fn nothing_outside_the_roots_is_shown_whichever_way_leads_there() {
    let world = World::new();
    std::os::unix::fs::symlink(world.path("outside"), world.path("home/way-out")).unwrap();
    std::os::unix::fs::symlink(world.path("outside/secret"), world.path("home/file")).unwrap();
    refused(world.browse(&world.path("outside")).await, FailureCode::Forbidden);
    refused(
        world.browse(&world.path("home/../outside")).await,
        FailureCode::Forbidden,
    );
    refused(world.browse(&world.path("home/way-out")).await, FailureCode::Forbidden);
    refused(world.read("home/file").await, FailureCode::Forbidden);
    refused(
        world.read("home/.open-ace-agent/config.json").await,
        FailureCode::Forbidden,
    );
    refused(world.browse(&world.path("home/none")).await, FailureCode::NotFound);
    refused(world.browse("relative").await, FailureCode::Invalid);
    refused(world.read("home").await, FailureCode::Invalid);
}

#[tokio::test]
async fn files_are_text_or_base64_and_fit_into_a_message() {
    let world = World::new();
    world.write("home/text", "héllo\n");
    let text = world.read("home/text").await.unwrap();
    assert_eq!(
        (&text["encoding"], &text["content"]),
        (&json!("utf-8"), &json!("héllo\n"))
    );
    assert_eq!(text["truncated"], false);
    world.write("home/binary", [0, 159, 146, 150]);
    assert_eq!(world.read("home/binary").await.unwrap()["content"], "AJ+Slg==");
    for (name, content) in [
        ("home/big", "é".repeat(2 << 20).into_bytes()),
        ("home/quotes", vec![b'"'; 800_000]),
        ("home/noise", vec![0xff; 2 << 20]),
    ] {
        world.write(name, &content);
        let file = world.read(name).await.unwrap();
        assert_eq!(
            (&file["truncated"], &file["size"]),
            (&json!(true), &json!(content.len()))
        );
        let size = serde_json::to_vec(&file).unwrap().len();
        assert!(
            (800_000..ace_policies::wire::MAX_MESSAGE_BYTES).contains(&size),
            "{name}: {size}"
        );
    }
}

#[tokio::test]
async fn a_pipe_does_not_hold_the_agent_up() {
    let world = World::new();
    let path = world.path("home/pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    refused(world.read("home/pipe").await, FailureCode::Invalid);
}

#[tokio::test]
async fn a_repository_tells_its_branch_its_changes_and_runs_nothing() {
    let world = World::new();
    fs::create_dir(world.path("home/repo")).unwrap();
    world.git("init -q -b main");
    world.write("home/repo/a.txt", "one\n");
    world.git("add a.txt");
    let path = world.path("home/repo");
    let first = world.look(Command::GitDiff { path: path.clone() }).await.unwrap();
    assert!(
        first["diff"].as_str().unwrap().contains("+one"),
        "before the first commit: {first}"
    );
    world.git("commit -q -m first");
    world.write("home/repo/a.txt", "two\n");
    world.write("home/repo/b.txt", "new\n");
    let touch = world.path("home/ran");
    let script = world.path("home/script");
    world.write("home/script", format!("#!/bin/sh\ntouch {touch}\ncat\n"));
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for key in [
        "core.fsmonitor",
        "diff.external",
        "core.pager",
        "filter.evil.clean",
        "diff.evil.textconv",
        "diff.evil.command",
    ] {
        world.git(&format!("config {key} {script}"));
    }
    world.write("home/repo/.gitattributes", "*.txt filter=evil diff=evil\n");
    let status = world.look(Command::GitStatus { path: path.clone() }).await.unwrap();
    assert_eq!((&status["branch"], &status["root"]), (&json!("main"), &json!(path)));
    let files = status["files"].to_string();
    assert!(
        files.contains(r#"{"index":".","path":"a.txt","worktree":"M"}"#),
        "{files}"
    );
    assert!(
        files.contains(r#"{"index":"?","path":"b.txt","worktree":"?"}"#),
        "{files}"
    );
    let diff = world
        .look(Command::GitDiff {
            path: format!("{path}/a.txt"),
        })
        .await
        .unwrap();
    assert!(diff["diff"].as_str().unwrap().contains("-one\n+two\n"), "{diff}");
    assert!(!Path::new(&touch).exists(), "something of the repository's was run");
    let outside = Command::GitStatus {
        path: world.path("home"),
    };
    refused(world.look(outside).await, FailureCode::NotFound);
}
