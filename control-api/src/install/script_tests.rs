//! The installer itself, run by real shells against a real server, with a small script as the agent.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::process::Command;

use super::files::own_name;
use super::tests::app;
use crate::Trust;
use crate::testing::worlds;

/// Writes down how it was called, and fails where the test says so.
const AGENT: &str = r#"#!/bin/sh
home=${FAKE_AGENT_LOG:?}
printf '%s|token=%s\n' "$*" "${OPENACE_REGISTRATION_TOKEN:-}" >>"$home"
case $1 in
    --version) echo "ace-agent 9.9.9" ;;
    register) touch "$5/config.json" ;;
esac
[ "$1" != "${FAKE_AGENT_FAILS:-}" ]
"#;

struct Bench {
    home: tempfile::TempDir,
    held: tempfile::TempDir,
    server: SocketAddr,
}

impl Bench {
    /// A server that holds this text as the agent for this platform.
    async fn new(agent: Option<&str>) -> Self {
        let (home, held) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        if let Some(agent) = agent {
            fs::write(held.path().join(own_name()), agent).unwrap();
        }
        let world = worlds().await.remove(0);
        let app = app(&world, Some(held.path()), None).await;
        let server = serve(app.router(Trust::Socket)).await;
        // The machine's own service manager has no part in this.
        let bin = home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("systemctl"), "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        // The world goes with its folder, and with it the database: nothing here asks it.
        Self { home, held, server }
    }

    fn path(&self) -> String {
        format!("{}/bin:/usr/local/bin:/usr/bin:/bin", self.home.path().display())
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join(".open-ace-agent")
    }

    /// What the agent was asked to do.
    fn calls(&self) -> String {
        fs::read_to_string(self.home.path().join("calls")).unwrap_or_default()
    }

    async fn run(&self, shell: &str, options: &[&str]) -> Output {
        self.command(shell, options).output().await.unwrap()
    }

    fn command(&self, shell: &str, options: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/install/install.sh");
        let server = format!("http://{}", self.server);
        let mut command = Command::new(shell);
        command
            .arg(script)
            .args(["--server", &server])
            .args(options)
            .env("HOME", self.home.path())
            .env("PATH", self.path())
            .env("FAKE_AGENT_LOG", self.home.path().join("calls"))
            .env_remove("OPENACE_REGISTRATION_TOKEN");
        command
    }
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[track_caller]
fn failed(output: &Output, code: i32, words: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(words), "{error}");
}

#[track_caller]
fn unspent(bench: &Bench, output: &Output) {
    assert!(String::from_utf8_lossy(&output.stderr).contains("The registration token is not spent"));
    assert!(!bench.calls().contains("register"), "{}", bench.calls());
    assert!(!bench.dir().exists(), "nothing is left behind");
}

const TOKEN: [&str; 4] = ["--token", "acer_t", "--install-cli", "none"];

#[tokio::test]
async fn the_scripts_are_good_for_every_shell() {
    for shell in ["bash", "sh"] {
        for script in ["install.sh", "uninstall.sh"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/install").join(script);
            let checked = Command::new(shell).arg("-n").arg(path).output().await.unwrap();
            assert!(checked.status.success(), "{shell} {script}: {checked:?}");
        }
    }
}

#[tokio::test]
async fn it_downloads_checks_registers_and_starts_in_that_order() {
    let bench = Bench::new(Some(AGENT)).await;
    for shell in ["bash", "sh"] {
        let output = bench
            .run(shell, &[&TOKEN[..], &["--name", "my machine"]].concat())
            .await;
        assert!(output.status.success(), "{output:?}");
        let dir = bench.dir().display().to_string();
        let server = bench.server;
        // The second time there is one already.
        let stop = match shell {
            "sh" => format!("stop --dir {dir}|token=\n"),
            _ => String::new(),
        };
        let expected = format!(
            "--version|token=\n\
             {stop}register --server http://{server} --dir {dir} --name my machine|token=acer_t\n\
             install-service --dir {dir}|token=\n"
        );
        assert_eq!(bench.calls(), expected, "{shell}: the token is in no command line");
        let agent = bench.dir().join("ace-agent");
        assert_eq!(fs::metadata(&agent).unwrap().permissions().mode() & 0o777, 0o700);
        let names: Vec<_> = fs::read_dir(bench.dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
        fs::remove_file(bench.home.path().join("calls")).unwrap();
    }
}

#[tokio::test]
async fn trap_47_an_upgrade_keeps_who_the_machine_is_and_needs_no_token() {
    let bench = Bench::new(Some(AGENT)).await;
    bench.run("bash", &TOKEN).await;
    fs::write(bench.held.path().join(own_name()), format!("{AGENT}# newer\n")).unwrap();
    fs::write(bench.dir().join("machine_id"), "kept").unwrap();
    let output = bench.run("bash", &["--install-cli", "none"]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(bench.calls().matches("register").count(), 1, "{}", bench.calls());
    assert!(
        fs::read_to_string(bench.dir().join("ace-agent"))
            .unwrap()
            .ends_with("# newer\n")
    );
    assert_eq!(fs::read_to_string(bench.dir().join("machine_id")).unwrap(), "kept");
}

#[tokio::test]
async fn what_the_connection_needs_is_kept_for_upgrades_and_the_service() {
    let bench = Bench::new(Some(AGENT)).await;
    let authority = bench.home.path().join("ca.pem");
    fs::write(&authority, "x").unwrap();
    let authority = authority.to_str().unwrap();
    let trust = ["--ca-file", authority, "--pin", "ab12", "--allow-insecure-private"];
    let output = bench.run("sh", &[&TOKEN[..], &trust].concat()).await;
    assert!(output.status.success(), "{output:?}");
    let calls = bench.calls();
    assert!(calls.contains(&format!("--ca-file {authority} --pin ab12|")), "{calls}");
    let service = calls.lines().find(|call| call.starts_with("install-service")).unwrap();
    assert!(service.contains("--allow-insecure-private"), "{calls}");
}

#[tokio::test]
async fn a_platform_that_is_not_held_costs_no_token() {
    let bench = Bench::new(None).await;
    fs::write(bench.held.path().join("ace-agent-riscv64-unknown-hurd"), "x").unwrap();
    let output = bench.run("bash", &TOKEN).await;
    failed(&output, 69, "it holds: ace-agent-riscv64-unknown-hurd");
    unspent(&bench, &output);
}

#[tokio::test]
async fn an_agent_that_does_not_run_here_costs_no_token() {
    let bench = Bench::new(Some("#!/bin/sh\necho 'GLIBC_2.99 not found' >&2\nexit 1\n")).await;
    let output = bench.run("bash", &TOKEN).await;
    failed(&output, 69, "does not run here: GLIBC_2.99 not found");
    unspent(&bench, &output);
}

#[tokio::test]
async fn a_damaged_download_costs_no_token() {
    let bench = Bench::new(Some(AGENT)).await;
    let (name, wrong) = (own_name(), "0".repeat(64));
    let sums = format!("{wrong}  {name}\n");
    let router = Router::new()
        .route("/api/remote/agent/files/SHA256SUMS", get(move || async { sums }))
        .route(&format!("/api/remote/agent/files/{name}"), get(|| async { AGENT }));
    let bench = Bench {
        server: serve(router).await,
        ..bench
    };
    let output = bench.run("bash", &TOKEN).await;
    failed(&output, 65, "what was downloaded is damaged");
    unspent(&bench, &output);
    assert_eq!(bench.calls(), "", "it was not even tried");
}

#[tokio::test]
async fn a_server_that_is_not_there_costs_no_token() {
    let mut bench = Bench::new(Some(AGENT)).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    bench.server = free.local_addr().unwrap();
    drop(free);
    let output = bench.run("bash", &TOKEN).await;
    failed(&output, 69, "is --server right?");
    unspent(&bench, &output);
}

#[tokio::test]
async fn a_registration_that_fails_leaves_no_service_and_a_running_agent_alone() {
    let bench = Bench::new(Some(AGENT)).await;
    fs::create_dir(bench.dir()).unwrap();
    fs::write(bench.dir().join("ace-agent"), "the old one").unwrap();
    fs::write(bench.dir().join("config.json"), "{}").unwrap();
    let output = bench
        .command("bash", &TOKEN)
        .env("FAKE_AGENT_FAILS", "register")
        .output()
        .await
        .unwrap();
    failed(&output, 69, "the machine was not registered");
    assert!(!bench.calls().contains("install-service"));
    let calls = bench.calls();
    let order: Vec<_> = calls.lines().filter_map(|call| call.split(' ').next()).collect();
    assert_eq!(order[1..], ["stop", "register", "start"], "{calls}");
    assert_eq!(
        fs::read_to_string(bench.dir().join("ace-agent")).unwrap(),
        "the old one"
    );
}

#[tokio::test]
async fn a_tool_that_was_asked_for_and_cannot_be_had_costs_no_token() {
    let bench = Bench::new(Some(AGENT)).await;
    let output = bench
        .command("bash", &["--token", "acer_t", "--install-cli", "claude-code"])
        .env("FAKE_AGENT_FAILS", "install-cli")
        .output()
        .await
        .unwrap();
    failed(&output, 69, "claude-code could not be installed");
    unspent(&bench, &output);
}

#[tokio::test]
async fn options_that_make_no_sense_are_said() {
    let bench = Bench::new(Some(AGENT)).await;
    for (options, words) in [
        (&["--tokn", "x"][..], "unknown option --tokn"),
        (&["--token"], "--token needs a value"),
        (&["--server", "ftp://x", "--token", "x"], "must begin with https://"),
        (&["--ca-file", "/nowhere", "--token", "x"], "/nowhere cannot be read"),
        (&[], "--token is missing"),
    ] {
        let output = bench.run("bash", options).await;
        let code = if words.contains("/nowhere") { 66 } else { 64 };
        failed(&output, code, words);
        assert_eq!(bench.calls(), "");
    }
}

#[tokio::test]
async fn uninstalling_leaves_nothing_and_touches_only_an_agents_folder() {
    let bench = Bench::new(Some(AGENT)).await;
    bench.run("bash", &TOKEN).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/install/uninstall.sh");
    let uninstall = |dir: PathBuf| {
        let mut command = Command::new("sh");
        command
            .arg(&script)
            .arg("--dir")
            .arg(dir)
            .env("HOME", bench.home.path());
        command.env("FAKE_AGENT_LOG", bench.home.path().join("calls"));
        command.env("PATH", bench.path()).env_remove("XDG_CONFIG_HOME");
        command.env("OPENACE_SYSTEMD_DIR", bench.home.path());
        command
    };
    let elsewhere = bench.home.path().join("documents");
    fs::create_dir(&elsewhere).unwrap();
    failed(
        &uninstall(elsewhere.clone()).output().await.unwrap(),
        66,
        "does not look like the agent's folder",
    );
    failed(
        &uninstall(bench.home.path().to_owned()).output().await.unwrap(),
        64,
        "is not the agent's folder",
    );
    assert!(elsewhere.exists());
    let output = uninstall(bench.dir()).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!bench.dir().exists());
    assert!(
        bench
            .calls()
            .ends_with(&format!("uninstall --dir {}|token=\n", bench.dir().display()))
    );
}
