//! Settings from all their places.

use super::*;

fn config(environment: &Environment, text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    std::fs::write(&path, text).unwrap();
    Config::new(dir.path(), environment, &ConfigFile::read(&path)?)
}

fn empty() -> Environment {
    Environment::from([("HOME", "/home/alice")])
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = config(&empty(), "{}").unwrap();
    assert_eq!(config.server_url, "http://localhost:5000");
    assert_eq!(config.heartbeat_interval, Duration::from_secs(60));
    assert_eq!(config.reconnect_base_delay, Duration::from_secs(1));
    assert_eq!(config.reconnect_max_delay, Duration::from_secs(60));
    assert_eq!((config.max_sessions, config.log_level), (5, LevelFilter::INFO));
    assert!(config.env_token.is_none() && config.machine_id.is_none() && config.registration_token.is_none());
    assert_eq!(config.roots, [PathBuf::from("/home/alice")]);
    assert_eq!(config.work_dir, PathBuf::from("/home/alice"));
}

#[test]
fn the_environment_goes_before_the_file() {
    let environment = Environment::from([
        ("HOME", "/home/alice"),
        ("OPENACE_SERVER_URL", "https://env.example.com/"),
        ("OPENACE_AGENT_TOKEN", "acea_env"),
        ("OPENACE_MACHINE_ID", "6f6c9bd1-6a3c-4b58-8cf6-6f4a0d5a6a01"),
        ("OPENACE_HEARTBEAT_INTERVAL", "30"),
        ("OPENACE_RECONNECT_BASE_DELAY", "0.5"),
        ("OPENACE_RECONNECT_MAX_DELAY", "10"),
        ("OPENACE_MAX_SESSIONS", "9"),
        ("OPENACE_LOG_LEVEL", "CRITICAL"),
    ]);
    let file =
        r#"{"server_url":"https://file.example.com","machine_id":"","heartbeat_interval":61,"max_sessions":"7"}"#;
    let all = config(&environment, file).unwrap();
    assert_eq!(all.origin(), "https://env.example.com");
    assert_eq!(all.env_token.unwrap().expose(), "acea_env");
    assert_eq!(
        all.machine_id.unwrap().to_string(),
        "6f6c9bd1-6a3c-4b58-8cf6-6f4a0d5a6a01"
    );
    assert_eq!(all.heartbeat_interval, Duration::from_secs(30));
    assert_eq!(all.reconnect_base_delay, Duration::from_millis(500));
    assert_eq!(all.reconnect_max_delay, Duration::from_secs(10));
    assert_eq!((all.max_sessions, all.log_level), (9, LevelFilter::ERROR));
    let from_file = config(&empty(), file).unwrap();
    assert_eq!((from_file.max_sessions, from_file.machine_id), (7, None));
    assert_eq!(from_file.origin(), "https://file.example.com");
}

#[test]
fn the_documented_file_reads_with_its_older_names_and_a_checksum() {
    let text = "{\"server_url\": \"https://ace.example.com/\", \"machine_id\": \"\", \"reconnect_backoff_max\": 120,\n\
                \"registration_token\": \"one-time-token\", \"log_level\": \"WARNING\", \"work_dir\": \"~/src\"}\n# checksum: 1234\n";
    let config = config(&empty(), text).unwrap();
    assert_eq!(config.reconnect_max_delay, Duration::from_secs(120));
    assert_eq!(config.registration_token.unwrap().expose(), "one-time-token");
    assert_eq!(config.log_level, LevelFilter::WARN);
    assert_eq!(config.work_dir, PathBuf::from("/home/alice/src"));
    assert_eq!(config.roots.len(), 2);
}

#[test]
fn a_wrong_value_is_named_with_its_place() {
    #[track_caller]
    fn check(environment: &Environment, text: &str, expected: &str) {
        let error = config(environment, text).err().expect("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    check(&empty(), r#"{"max_sessions":0}"#, "max_sessions in ");
    check(&empty(), r#"{"heartbeat_interval":-1}"#, "heartbeat_interval in ");
    check(&empty(), r#"{"machine_id":"seven"}"#, "`seven` is not a UUID");
    check(&empty(), r#"{"roots":["src"]}"#, "not an absolute path");
    check(&empty(), r#"{"log_level":"loud"}"#, "none of DEBUG");
    check(&empty(), "[]", "expected one JSON object");
    check(&empty(), r#"{"server_url":"http://8.8.8.8:5000"}"#, "plaintext");
    check(&empty(), r#"{"pin_sha256":"abc"}"#, "pin_sha256 in ");
    let environment = Environment::from([("OPENACE_MAX_SESSIONS", "many")]);
    check(&environment, "{}", "OPENACE_MAX_SESSIONS: `many`");
    let environment = Environment::from([("HTTPS_PROXY", "socks5://127.0.0.1:1080")]);
    check(
        &environment,
        r#"{"server_url":"https://ace.example.com"}"#,
        "HTTPS_PROXY",
    );
}

#[test]
fn a_service_finds_the_proxy_in_its_settings_and_a_shell_in_its_environment() {
    let text =
        r#"{"server_url":"https://ace.example.com","https_proxy":"http://alice:s3cret@proxy:3128","no_proxy":"lan"}"#;
    let proxy = |environment: &Environment, text| config(environment, text).unwrap().server.proxy();
    let stored = proxy(&empty(), text).unwrap();
    assert!(stored.contains("proxy:3128") && !stored.contains("s3cret"), "{stored}");
    let environment = Environment::from([("HTTPS_PROXY", "http://other:8080")]);
    assert!(proxy(&environment, text).unwrap().contains("other:8080"));
    assert_eq!(proxy(&empty(), &text.replace("\"lan\"", "\"ace.example.com\"")), None);
}

#[test]
fn rewriting_keeps_what_it_does_not_know_and_is_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new").join(FILE);
    let mut file = ConfigFile::read(&path).unwrap();
    file.set("registration_token", Some("x".into()));
    file.set("colour", Some("green".into()));
    file.write().unwrap();
    let mut file = ConfigFile::read(&path).unwrap();
    assert_eq!(file.unknown_keys(), ["colour"]);
    file.set("registration_token", None);
    file.write().unwrap();
    let file = ConfigFile::read(&path).unwrap();
    assert_eq!(
        (file.text("colour"), file.text("registration_token")),
        (Some("green"), None)
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
    }
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "no temporary file is left"
    );
}
