//! `ace-agent` as people start it.

use std::{
    io::Write,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use serde_json::Value;

use crate::{
    agent::home,
    server::{Server, pause},
};

fn agent(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ace-agent"));
    let home = dir.parent().unwrap();
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
    command.args(arguments).arg("--dir").arg(dir).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A program that ends by itself, waited for without holding up the server of this process.
async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn config(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap()
}

async fn register(server: &Server, dir: &Path, token: &str) -> Output {
    let mut command = agent(dir, &["register", "--server", &server.url(), "--name", "build box"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap()
}

async fn status(dir: &Path) -> (Option<i32>, Value) {
    let output = output(agent(dir, &["status", "--json"])).await;
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

/// Ends a program as a service manager does, and tells its exit code.
async fn terminate(mut child: Child) -> Option<i32> {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    tokio::time::timeout(Duration::from_secs(60), ended)
        .await
        .unwrap()
        .unwrap()
        .code()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_registers_runs_tells_its_status_and_ends_when_asked() {
    let (_keep, home) = home();
    let dir = home.join(".open-ace-agent");
    let server = Server::start().await;
    *server.registration_token.lock().unwrap() = Some("acer_once".to_owned());

    let refused = register(&server, &dir, "acer_wrong").await;
    assert_eq!(refused.status.code(), Some(77), "{}", text(&refused.stderr));
    assert!(
        text(&refused.stderr).contains("ask an administrator for a new one"),
        "{}",
        text(&refused.stderr)
    );
    assert!(
        !dir.join("config.json").exists(),
        "a failed registration leaves nothing"
    );

    let registered = register(&server, &dir, "acer_once\n").await;
    assert!(registered.status.success(), "{}", text(&registered.stderr));
    let config = config(&dir);
    assert_eq!(
        (&config["agent_token"], &config["machine_name"]),
        (&"acea_first".into(), &"build box".into())
    );
    assert_eq!(config["registration_token"], Value::Null);
    assert_eq!(
        std::fs::read_to_string(dir.join("machine_id")).unwrap().trim(),
        config["machine_id"]
    );

    let other = Server::start().await;
    *other.registration_token.lock().unwrap() = Some("acer_other".to_owned());
    let moved = register(&other, &dir, "acer_other").await;
    assert!(moved.status.success(), "{}", text(&moved.stderr));
    *server.registration_token.lock().unwrap() = Some("acer_again".to_owned());
    assert!(
        register(&server, &dir, "acer_again").await.status.success(),
        "and back to the first"
    );

    assert_eq!(status(&dir).await.0, Some(1), "none runs");
    let running = agent(&dir, &["run"]).spawn().unwrap();
    server.until("connected", |server| server.transports() == ["ws"]).await;
    pause().await;
    let second = output(agent(&dir, &["run"])).await;
    assert_eq!(second.status.code(), Some(75));
    assert!(text(&second.stderr).contains("another ace-agent runs"));
    let (code, told) = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let (code, told) = status(&dir).await;
            if code == Some(0) {
                return (code, told);
            }
            pause().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(
        (code, told["status"]["transport"].as_str()),
        (Some(0), Some("WebSocket")),
        "{told}"
    );
    let resident = resident_kib(running.id());
    println!("{resident} KiB resident while idle");
    assert_eq!(terminate(running).await, Some(0));
    let log = std::fs::read_to_string(dir.join("agent.log")).unwrap();
    assert!(log.contains("INFO") && log.contains("over WebSocket"), "{log}");
    assert!(!log.contains("acea_first"), "{log}");
    assert!(dir.join("agent-error.log").exists());
}

#[cfg(target_os = "linux")]
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(not(target_os = "linux"))]
fn resident_kib(_pid: u32) -> u64 {
    0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_registration_token_is_used_once_and_forgotten() {
    let (_keep, home) = home();
    let dir = home.join("agent");
    let server = Server::start().await;
    server.websockets.store(false, SeqCst);
    *server.registration_token.lock().unwrap() = Some("acer_once".to_owned());
    std::fs::create_dir(&dir).unwrap();
    let settings = format!(
        "{{\"server_url\": \"{}/\", \"machine_id\": \"\", \"registration_token\": \"acer_once\", \"x_note\": \"keep\"}}\n# checksum: 1\n",
        server.url()
    );
    std::fs::write(dir.join("config.json"), settings).unwrap();
    let running = agent(&dir, &["run"]).spawn().unwrap();
    server
        .until("connected", |server| server.transports() == ["poll"])
        .await;
    let config = config(&dir);
    assert_eq!(
        (&config["registration_token"], &config["x_note"]),
        (&Value::Null, &"keep".into())
    );
    assert_eq!(terminate(running).await, Some(0));
    let log = std::fs::read_to_string(dir.join("agent.log")).unwrap();
    assert!(log.contains("HTTP polling") && log.contains("x_note"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_told_by_its_exit_code() {
    let (_keep, home) = home();
    let dir = home.join("agent");
    let server = Server::start().await;
    std::fs::create_dir(&dir).unwrap();
    let put = |text: String| std::fs::write(dir.join("config.json"), text).unwrap();

    put(r#"{"max_sessions": "many"}"#.to_owned());
    let run = output(agent(&dir, &["run"])).await;
    assert_eq!(run.status.code(), Some(78), "{}", text(&run.stderr));
    assert!(text(&run.stderr).contains("max_sessions in "), "{}", text(&run.stderr));

    put(format!(
        r#"{{"server_url": "{}", "agent_token": "acea_bad"}}"#,
        server.url()
    ));
    let run = output(agent(&dir, &["run"])).await;
    assert_eq!(run.status.code(), Some(77), "{}", text(&run.stderr));
    assert!(
        text(&run.stderr).contains("ace-agent register"),
        "{}",
        text(&run.stderr)
    );

    put(format!(r#"{{"server_url": "{}"}}"#, server.url()));
    let run = output(agent(&dir, &["run"])).await;
    assert_eq!(run.status.code(), Some(77), "{}", text(&run.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_what_is_wrong() {
    let (_keep, home) = home();
    let dir = home.join("agent");
    let server = Server::start().await;
    std::fs::create_dir(&dir).unwrap();
    let put = |token: &str, url: &str| {
        std::fs::write(
            dir.join("config.json"),
            format!(r#"{{"server_url": "{url}", "agent_token": "{token}"}}"#),
        )
        .unwrap();
    };
    put("acea_first", &server.url());
    let doctor = output(agent(&dir, &["doctor"])).await;
    let told = text(&doctor.stdout);
    assert!(told.contains("ok    network") && told.contains("ok    auth"), "{told}");
    assert!(told.contains("WARN  config") && told.contains("chmod 600"), "{told}");

    put("acea_bad", &server.url());
    let doctor = output(agent(&dir, &["doctor"])).await;
    assert_eq!(doctor.status.code(), Some(1));
    assert!(text(&doctor.stdout).contains("FAIL  auth"), "{}", text(&doctor.stdout));

    put("acea_first", "http://127.0.0.1:1");
    let doctor = output(agent(&dir, &["doctor"])).await;
    assert!(text(&doctor.stdout).contains("FAIL  tcp"), "{}", text(&doctor.stdout));
    put("acea_first", "https://no-such-host.invalid");
    let doctor = output(agent(&dir, &["doctor"])).await;
    assert!(text(&doctor.stdout).contains("FAIL  dns"), "{}", text(&doctor.stdout));
}
