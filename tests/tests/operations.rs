//! What the people who run a gateway look at: health, metrics, ids, timings, logs.

use ace_tests::{Answer, Ask, Dialect, Door, Program, Script, World, program};
use serde_json::json;
use tokio::process::Command;

async fn metrics(world: &World) -> String {
    Door::plain(world.metrics)
        .call(&Ask::get("/metrics"))
        .await
        .expect(200)
        .text()
}

#[tokio::test]
async fn health_and_readiness_need_no_credential() {
    let world = World::start().await;
    for path in ["/healthz", "/readyz"] {
        world.call(&Ask::get(path)).await.expect(200);
        world.wire().await.call(&Ask::new("HEAD", path)).await.expect(200);
    }
}

#[tokio::test]
async fn metrics_count_requests_tokens_and_streams() {
    let world = World::start().await;
    world.provider.plays(Script::json(
        200,
        &json!({"usage": {"prompt_tokens": 11, "completion_tokens": 7}}),
    ));
    world.main_call(Dialect::OpenAi).await.expect(200);
    world.call(&Ask::post("/v1/messages").body("{}")).await.expect(401);
    let text = ace_tests::eventually("the metrics", async || {
        let text = metrics(&world).await;
        text.lines()
            .any(|line| line.contains("openai") && line.ends_with(" 1"))
            .then_some(text)
    })
    .await;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        assert!(
            value.is_some() && line.starts_with("ace_") || line.starts_with("process_"),
            "{line}"
        );
    }
    for name in [
        "ace_requests_total",
        "ace_tokens_total",
        "ace_request_duration_seconds_bucket",
        "ace_time_to_first_byte_seconds_bucket",
    ] {
        assert!(text.contains(name), "{name} is missing in\n{text}");
    }
    assert!(!text.contains("alice"), "labels must not tell people apart");
}

#[tokio::test]
async fn metrics_are_not_on_the_public_port() {
    let world = World::start().await;
    let answer = world.call(&Ask::get("/metrics")).await;
    assert!(!answer.text().contains("ace_requests_total"), "{}", answer.text());
}

#[tokio::test]
async fn every_answer_has_an_id_of_its_own_and_its_timing() {
    let world = World::start().await;
    let answers: [Answer; 4] = [
        world.main_call(Dialect::Anthropic).await,
        world.main_call(Dialect::Anthropic).await,
        world.call(&Ask::get("/api/auth/check")).await,
        world.call(&Ask::post("/v1/messages")).await,
    ];
    let ids: std::collections::BTreeSet<_> = answers
        .iter()
        .filter_map(|answer| answer.header("x-ace-request-id"))
        .collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    let timing = answers[0].head.all("server-timing").join(", ");
    assert!(timing.contains("dur="), "{timing:?}");
    let own = Ask::post("/v1/messages").header("x-ace-request-id", "mine");
    assert_ne!(
        world.call(&own).await.header("x-ace-request-id").as_deref(),
        Some("mine")
    );
}

#[tokio::test]
async fn a_providers_own_request_id_is_kept() {
    let world = World::start().await;
    world.provider.plays(Script::raw(
        "HTTP/1.1 200 OK\r\nx-request-id: theirs\r\ncontent-length: 2\r\n\r\n{}",
    ));
    assert_eq!(
        world.main_call(Dialect::OpenAi).await.header("x-request-id").as_deref(),
        Some("theirs")
    );
}

#[tokio::test]
async fn trap_33_no_secret_is_in_the_logs_or_on_the_disk() {
    for format in ["pretty", "json"] {
        let world = World::builder()
            .config("log", format!("format = \"{format}\""))
            .config("log", "level = \"trace\"")
            // Every byte on the disk is looked at.
            .config("ledger", "segment_bytes = 65536")
            .start()
            .await;
        let mut secrets: Vec<String> = Dialect::ALL.map(|dialect| dialect.key().to_owned()).into();
        for dialect in Dialect::ALL {
            let token = world.token(dialect).await;
            world.provider.plays(Script::json(
                401,
                &json!({"error": {"message": format!("bad key {}", dialect.key())}}),
            ));
            world.call(&dialect.authorize(dialect.ask(), &token)).await.expect(401);
            world.provider.plays(Script::new().reset());
            world
                .call(&Ask::post(&format!("{}?key={token}", dialect.path())).json(&dialect.body()))
                .await
                .expect(502);
            world
                .call(&Ask::post(&format!("{}/../?key={token}", dialect.path())))
                .await
                .expect(400);
            secrets.push(token.rsplit('.').next().unwrap_or_default().to_owned());
        }
        secrets.push("correct horse battery staple".to_owned());
        secrets.push(world.alice.cookie().split('=').nth(1).unwrap_or_default().to_owned());
        let log = world.gateway.log();
        assert!(!log.is_empty());
        for secret in &secrets {
            assert!(
                !secret.is_empty() && !log.contains(secret.as_str()),
                "{secret} is in the log:\n{log}"
            );
        }
        assert!(!log.contains("\"role\":\"user\""), "a prompt is in the log");
        for (path, bytes) in files(world.state()) {
            for secret in &secrets {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{secret} is in {}", path.display());
            }
        }
    }
}

/// Everything in the state folder.
fn files(folder: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a readable folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.is_file() {
            // The gateway goes on: what it has written to the end it removes.
            match std::fs::read(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                bytes => all.push((path, bytes.expect("a readable file"))),
            }
        }
    }
    assert!(!all.is_empty());
    all
}

#[tokio::test]
async fn the_state_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::start().await;
    for (path, _) in files(world.state()) {
        if path
            .extension()
            .is_some_and(|extension| extension == "toml" || extension == "pem")
        {
            continue;
        }
        let metadata = match path.metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            metadata => metadata.expect("a file"),
        };
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
    }
}

#[tokio::test]
async fn a_wrong_configuration_says_where_and_what_to_do() {
    let folder = tempfile::TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("gateway.toml"), "[gateway]\nprot = 1\n").expect("a file");
    let mut command = program("ace-gateway");
    command.arg("--state-dir").arg(folder.path()).env("HOME", folder.path());
    let (status, log) = Program::run(command).await;
    assert!(!status.success());
    assert!(
        log.contains("gateway.toml:2") && log.contains("did you mean `port`"),
        "{log}"
    );
}

fn on_every_address(state: &std::path::Path) -> Command {
    let mut command = program("ace-gateway");
    command.args(["--bind", "lan", "--port", "0", "--state-dir"]).arg(state);
    command.env("HOME", state).env("OPENACE_METRICS_LISTEN", "127.0.0.1:0");
    command
}

#[tokio::test]
async fn a_public_address_without_safe_credentials_is_refused() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut command = on_every_address(folder.path());
    command.env("OPENACE_ADMIN_PASSWORD", "admin123");
    let (status, log) = Program::run(command).await;
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(log.contains("admin123"), "{log}");
}

#[tokio::test]
async fn a_first_password_that_comes_too_late_makes_no_address_safe() {
    let folder = tempfile::TempDir::new().expect("a folder");
    // The first start makes an admin with a generated password, which nobody has changed.
    let (status, log) = Program::run(on_every_address(folder.path())).await;
    assert_eq!(status.code(), Some(78), "{log}");
    let mut command = on_every_address(folder.path());
    command.env("OPENACE_ADMIN_PASSWORD", "a long and unguessable one");
    let (status, log) = Program::run(command).await;
    assert_eq!(status.code(), Some(78), "{log}");
}
