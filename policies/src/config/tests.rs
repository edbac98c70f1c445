//! The configuration as an operator meets it: what works, and what each mistake is told.

use proptest::prelude::*;
use toml::de::DeTable;

use super::*;
use crate::bind::BindMode;

const EXAMPLE: &str = include_str!("../../../conf/gateway.toml");

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

fn file(text: &str) -> Result<Config, ConfigError> {
    Config::from_sources(Some(("gateway.toml", text)), [], &[])
}

/// The file is refused with exactly these lines.
#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(file(text).unwrap_err().to_string(), expected, "{text}");
}

/// The variable is refused with exactly this line.
#[track_caller]
fn refused_env(name: &str, value: &str, expected: &str) {
    let error = Config::from_sources(None, env(&[(name, value)]), &[]).unwrap_err();
    assert_eq!(error.to_string(), expected, "{name}={value}");
}

#[test]
fn the_example_is_the_default_and_names_every_key() {
    let config = file(EXAMPLE).unwrap();
    assert_eq!(config, Config::default());
    let table = DeTable::parse(EXAMPLE).unwrap();
    for (name, section) in config.sections() {
        let written = table
            .get_ref()
            .get(name)
            .unwrap_or_else(|| panic!("[{name}] is missing"));
        for key in section.keys() {
            assert!(written.get_ref().get(*key).is_some(), "[{name}] {key} is missing");
        }
    }
}

#[test]
fn nothing_at_all_is_the_default() {
    let config = Config::from_sources(None, [], &[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!((config.gateway.bind, config.gateway.port), (BindMode::Loopback, 5000));
    assert_eq!(config.limits.max_body_bytes, 67_108_864);
}

#[test]
fn a_flag_wins_over_env_over_file_over_default() {
    let text = "[gateway]\nport = 1\nthreads = 2\nmax_connections = 3";
    let env = env(&[("OPENACE_GATEWAY_PORT", "10"), ("OPENACE_GATEWAY_THREADS", " 20 ")]);
    let flags = [("gateway.port".to_owned(), "100".to_owned(), "--port".to_owned())];
    let gateway = Config::from_sources(Some(("gateway.toml", text)), env, &flags)
        .unwrap()
        .gateway;
    assert_eq!((gateway.port, gateway.threads, gateway.max_connections), (100, 20, 3));
}

#[test]
fn every_type_is_read_from_the_file_and_from_the_environment() {
    let text = "[gateway]\nbind = \"custom\"\ncustom_bind_host = \"10.0.0.1\"\n[limits]\nmax_body_bytes = 0x100_000\n\
        [upstream]\nhttp2 = false\n[egress]\nallow = [\"llm.corp\", \"10.0.0.0/8\"]\n[models.alias]\nfast = \"gpt-5\"\n\
        [log]\nlevel = \"WARN\"\n";
    let variables = env(&[
        ("OPENACE_GATEWAY_BIND", "custom"),
        ("OPENACE_GATEWAY_CUSTOM_BIND_HOST", "10.0.0.1"),
        ("OPENACE_LIMITS_MAX_BODY_BYTES", "1048576"),
        ("OPENACE_UPSTREAM_HTTP2", "false"),
        ("OPENACE_EGRESS_ALLOW", "llm.corp, 10.0.0.0/8,"),
        ("OPENACE_MODELS_ALIAS", "fast=gpt-5"),
        ("OPENACE_LOG_LEVEL", "WARN"),
    ]);
    let (from_file, from_env) = (file(text).unwrap(), Config::from_sources(None, variables, &[]).unwrap());
    assert_eq!(from_file, from_env);
    assert_eq!(from_env.egress.allow, ["llm.corp", "10.0.0.0/8"]);
    assert_eq!(from_env.models.alias["fast"], "gpt-5");
    assert_eq!(from_env.log.level, LogLevel::Warn);
}

#[test]
fn a_misspelt_key_is_told_its_line_and_its_right_name() {
    refused(
        "\n[gateway]\n# x\nprot = 1",
        "gateway.toml:4: [gateway] prot: unknown key; did you mean `port`?",
    );
    refused(
        "[gatway]\nport = 1",
        "gateway.toml:1: [gatway] unknown section; did you mean [gateway]?",
    );
    refused(
        "[gateway]\nmax_body_bytes = 1",
        "gateway.toml:2: [gateway] max_body_bytes: unknown key; it belongs into [limits]",
    );
    refused(
        "[gateway.nonsense]\na = 1",
        "gateway.toml:1: [gateway] nonsense: unknown key; `conf/gateway.toml` lists them all",
    );
    refused(
        "[xyz]",
        "gateway.toml:1: [xyz] unknown section; `conf/gateway.toml` lists them all",
    );
    refused(
        "port = 1",
        "gateway.toml:1: port: stands outside of any section; it belongs into [gateway]",
    );
    refused("tls = true", "gateway.toml:1: tls: is a section; write [tls]");
    refused(
        "zzzzzzzz = 1",
        "gateway.toml:1: zzzzzzzz: unknown key outside of any section; `conf/gateway.toml` lists them all",
    );
}

#[test]
fn a_wrong_type_is_told_what_is_expected() {
    refused(
        "[gateway]\nport = \"5000\"",
        "gateway.toml:2: [gateway] port: expected a whole number of at most 65535, found the string \"5000\"; \
         write it without quotes",
    );
    refused(
        "[gateway]\nthreads = 1.5",
        "gateway.toml:2: [gateway] threads: expected a whole number, found a float",
    );
    refused(
        "[gateway]\nthreads = -1",
        "gateway.toml:2: [gateway] threads: expected a whole number, found -1",
    );
    refused(
        "[upstream]\nhttp2 = 1",
        "gateway.toml:2: [upstream] http2: expected true or false, found 1",
    );
    refused(
        "[tls]\ncert_file = true",
        "gateway.toml:2: [tls] cert_file: expected a text in quotes, found a boolean",
    );
    refused(
        "[gateway]\nbind = \"wan\"",
        "gateway.toml:2: [gateway] bind: expected one of \"loopback\", \"lan\", \"tailnet\", \"custom\", \"auto\", \
         found \"wan\"",
    );
    refused(
        "[egress]\nallow = \"10.0.0.0/8\"",
        "gateway.toml:2: [egress] allow: expected a list of texts, such as [\"a\", \"b\"]; in the environment a,b, \
         found \"10.0.0.0/8\"",
    );
}

#[test]
fn figures_out_of_range_are_refused() {
    refused(
        "[gateway]\nport = 70000",
        "gateway.toml:2: [gateway] port: expected a whole number of at most 65535, found 70000",
    );
    refused(
        "[timeouts]\nhead = 0",
        "gateway.toml:2: [timeouts] head: must be between 1 and 86400000, found 0",
    );
    refused(
        "[limits]\nmax_headers = 0",
        "gateway.toml:2: [limits] max_headers: must be between 8 and 10000, found 0",
    );
    assert!(
        file("[timeouts]\ntotal = 0\ndrain = 0").is_ok(),
        "no limit, and no wait"
    );
    assert!(file("[gateway]\nport = 0").is_ok(), "a free port");
}

#[test]
fn keys_that_depend_on_each_other_are_checked_together() {
    refused(
        "[tls]\nkey_file = \"k.pem\"",
        "gateway.toml:2: [tls] key_file: needs its other half: set both cert_file and key_file, or neither",
    );
    refused(
        "[gateway]\nbind = \"custom\"",
        "gateway.toml:2: [gateway] bind: mode custom needs custom_bind_host, an IP address of this host such as \
         \"192.168.1.7\"",
    );
    refused(
        "[gateway]\ncustom_bind_host = \"a.corp\"",
        "gateway.toml:2: [gateway] custom_bind_host: must be an IP address of this host such as \"192.168.1.7\", \
         found \"a.corp\"",
    );
    refused(
        "[auth]\ntoken_ttl_s = 600",
        "gateway.toml:2: [auth] token_ttl_s: token_ttl_s (600) must not be more than token_ttl_max_s (300)",
    );
    refused(
        "[limits]\nmax_head_bytes = 1024",
        "gateway.toml:2: [limits] max_head_bytes: max_target_bytes (16384) must not be more than max_head_bytes (1024)",
    );
    refused(
        "[ledger]\nqueue = 1",
        "gateway.toml:2: [ledger] queue: batch (4096) must not be more than queue (1)",
    );
    refused(
        "[quota]\ntime_zone = \"CET+1\"",
        "gateway.toml:2: [quota] time_zone: unknown time zone 'CET+1'; use a name of the IANA database such as UTC, \
         Europe/Berlin or Asia/Shanghai",
    );
    refused(
        "[egress]\nallow = [\"http://x\"]",
        "gateway.toml:2: [egress] allow: 'http://x' is neither a host name, an IP address nor a network such as 10.0.0.0/8",
    );
    refused(
        "[notify]\nallow = [\"*.corp\"]",
        "gateway.toml:2: [notify] allow: '*.corp' is neither a host name, an IP address nor a network such as 10.0.0.0/8",
    );
    refused(
        "[notify]\ncontact = \"admin@example.com\"",
        "gateway.toml:2: [notify] contact: must be such as \"mailto:admin@example.com\" or \"https://example.com\", \
         found \"admin@example.com\"",
    );
    refused(
        "[metrics]\nlisten = \"5001\"",
        "gateway.toml:2: [metrics] listen: must be an address and port such as \"127.0.0.1:5001\", found \"5001\"",
    );
    refused(
        "[control]\nupstreams = [\"a:1\", \"b\"]",
        "gateway.toml:2: [control] upstreams: 'b' must be a host and port such as \"10.0.0.5:5002\"",
    );
    refused(
        "[models]\nalias = { a = \"b\", b = \"c\" }",
        "gateway.toml:2: [models] alias: 'a' = 'b' has another alias; name the provider's model",
    );
    assert!(file("[metrics]\nlisten = \"\"").is_ok());
}

#[test]
fn every_problem_is_told_at_once() {
    refused(
        "[gateway]\nprot = 1\nthreads = true\n[limts]",
        "gateway.toml:2: [gateway] prot: unknown key; did you mean `port`?\n\
         gateway.toml:3: [gateway] threads: expected a whole number, found a boolean\n\
         gateway.toml:4: [limts] unknown section; did you mean [limits]?",
    );
}

#[test]
fn a_wrong_variable_is_named() {
    refused_env(
        "OPENACE_GATEWAY_PORT",
        "abc",
        "OPENACE_GATEWAY_PORT: [gateway] port: expected a whole number of at most 65535, found 'abc'",
    );
    refused_env(
        "OPENACE_GATEWAY_PROT",
        "1",
        "OPENACE_GATEWAY_PROT: unknown setting; did you mean OPENACE_GATEWAY_PORT?",
    );
    refused_env(
        "OPENACE_GATWAY_PORT",
        "1",
        "OPENACE_GATWAY_PORT: unknown setting; did you mean OPENACE_GATEWAY_PORT?",
    );
    refused_env(
        "OPENACE_AUTH_SOMETHING_ELSE",
        "1",
        "OPENACE_AUTH_SOMETHING_ELSE: unknown setting",
    );
    refused_env(
        "OPENACE_EGRESS_ALLOW",
        "[\"a\"]",
        "OPENACE_EGRESS_ALLOW: [egress] allow: expected a list of texts, such as [\"a\", \"b\"]; in the environment a,b, \
         found '[\"a\"]'",
    );
}

#[test]
fn a_wrong_flag_is_named() {
    let flag = |key: &str, value: &str| [(key.to_owned(), value.to_owned(), "--port".to_owned())];
    let error = Config::from_sources(None, [], &flag("gateway.port", "x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--port: [gateway] port: expected a whole number of at most 65535, found 'x'"
    );
    let error = Config::from_sources(None, [], &flag("gateway.prot", "1")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--port: [gateway] prot: unknown key; did you mean `port`?"
    );
}

#[test]
fn other_programs_variables_are_left_alone() {
    let others = env(&[
        ("OPENACE_ENCRYPTION_KEY", "x"),
        ("OPENACE_ADMIN_PASSWORD", "x"),
        ("OPENACE_STATE_DIR", "/s"),
        ("OPENACE_CONFIG", "/c"),
        ("OPENACE_GATEWAY_URL", "https://a"),
        ("OPENACE_GATEWAY_TOKEN", "x"),
        ("OPENACE_SERVER_URL", "x"),
        ("OPENACE_MAX_SESSIONS", "5"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(Config::from_sources(None, others, &[]).unwrap(), Config::default());
}

#[test]
fn secrets_are_references_and_are_masked() {
    let text = "[database]\nurl = \"postgres://u:hunter2@db/ace\"\n[vault]\nkey = { env = \"VAULT_KEY\" }\n";
    let config = file(text).unwrap();
    assert!(matches!(&config.database.url, SecretRef::Literal(url) if url.expose() == "postgres://u:hunter2@db/ace"));
    assert_eq!(config.vault.key, SecretRef::Env("VAULT_KEY".to_owned()));
    let printed = config.to_toml_masked();
    assert!(
        printed.contains("[database]\nurl = \"***\"\n") && printed.contains("key = { env = \"VAULT_KEY\" }"),
        "{printed}"
    );
    assert!(!printed.contains("hunter2") && !format!("{config:?}").contains("hunter2"));

    let of = |value: &str| {
        Config::from_sources(None, env(&[("OPENACE_VAULT_KEY", value)]), &[])
            .unwrap()
            .vault
            .key
    };
    assert_eq!(of("${VAULT_KEY}"), SecretRef::Env("VAULT_KEY".to_owned()));
    assert_eq!(of(" "), SecretRef::Unset);
    let in_file = file("[vault]\nkey = { file = \"/run/secrets/key\" }").unwrap();
    assert_eq!(in_file.vault.key, SecretRef::File("/run/secrets/key".to_owned()));
}

#[test]
fn messages_never_quote_a_secret() {
    let expected = "a text in quotes, { env = \"NAME\" } or { file = \"/path\" }";
    for value in [
        "12345",
        "[\"hunter2\"]",
        "{ evn = \"hunter2\" }",
        "{ env = \"hunter2\" }",
        "{ env = \"A\", file = \"b\" }",
    ] {
        let error = file(&format!("[vault]\nkey = {value}")).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("gateway.toml:2: [vault] key: expected {expected}, found a")),
            "{error}"
        );
        assert!(!error.contains("hunter2") && !error.contains("12345"), "{error}");
    }
    refused_env(
        "OPENACE_VAULT_KEY",
        "${hunter2}",
        &format!("OPENACE_VAULT_KEY: [vault] key: expected {expected}"),
    );
    refused_env(
        "OPENACE_DATABASE_URL",
        "mysql://u:hunter2@db",
        "OPENACE_DATABASE_URL: [database] url: must begin with sqlite:, postgres:// or postgresql://",
    );
    let error = file("[vault]\nkey = \"hunter2").unwrap_err().to_string();
    assert!(
        error.starts_with("gateway.toml:2: ") && !error.contains("hunter2"),
        "{error}"
    );
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let text = "[gateway]\nport = 1\n[egress]\nallow = [\"a.corp\"]\n[models]\nalias = { \"a b\" = \"c\\\"d\" }";
    let config = file(text).unwrap();
    assert_eq!(file(&config.to_toml_masked()).unwrap(), config);
    assert_eq!(file(&Config::default().to_toml_masked()).unwrap(), Config::default());
}

proptest! {
    #[test]
    fn any_file_and_variable_can_be_read(text in ".*", key in "[A-Z_]{0,20}", value in ".*") {
        let env = [(format!("OPENACE_{key}"), value)];
        let _read = Config::from_sources(Some(("gateway.toml", &text)), env, &[]);
    }

    #[test]
    fn any_value_of_any_key_is_read_or_refused_by_name(
        (section, key) in prop::sample::select(Config::default().sections().iter()
            .flat_map(|(name, section)| section.keys().iter().map(|key| (*name, *key))).collect::<Vec<_>>()),
        value in ".*",
    ) {
        let name = format!("OPENACE_{section}_{key}").to_uppercase();
        if let Err(error) = Config::from_sources(None, [(name.clone(), value)], &[]) {
            let text = error.to_string();
            prop_assert!(text.contains(&format!("[{section}] {key}: ")) || text.contains(": ["), "{}", text);
        }
    }
}
