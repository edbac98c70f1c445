//! `acectl health` as people run it, against a gateway that answers from a script.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Command, Output},
    sync::mpsc::{self, Receiver},
};

/// Answers each connection's requests in turn with `answers`; hands on what was asked.
fn gateway(answers: &[&'static str]) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, (sender, asked)) = (listener.local_addr().unwrap(), mpsc::channel());
    let answers = answers.to_vec();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for answer in answers {
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            sender
                .send(String::from_utf8_lossy(&request[..read]).to_lowercase())
                .unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
        // Keeps a silent gateway's connection open until the client leaves.
        while stream.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
    });
    (address, asked)
}

fn health(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_acectl"));
    for name in [
        "OPENACE_GATEWAY_URL",
        "OPENACE_GATEWAY_PORT",
        "OPENACE_ALLOW_INSECURE_PRIVATE_WS",
    ] {
        command.env_remove(name);
    }
    command.arg("health").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const NOT_READY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 23\r\n\r\n{\"reasons\":[\"database\"]}";

#[test]
fn a_healthy_gateway_is_0_and_was_sent_no_credential() {
    let (address, asked) = gateway(&[OK, OK]);
    let output = health(&["--url", &format!("ws://{address}"), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains(r#""ok":true"#));
    for path in ["get /healthz ", "get /readyz "] {
        let request = asked.recv().unwrap();
        assert!(
            request.starts_with(path) && !request.contains("authorization"),
            "{request}"
        );
    }
}

#[test]
fn one_that_is_not_ready_is_1_and_says_why() {
    let (address, _asked) = gateway(&[OK, NOT_READY]);
    let output = health(&["--port", &address.port().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("database"), "{}", text(&output.stderr));
}

#[test]
fn nobody_there_is_1() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = health(&["--url", &format!("http://{nobody}"), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("gateway_transport_error"));
}

#[test]
fn silence_is_1_after_the_timeout() {
    let (address, _asked) = gateway(&[]);
    let output = health(&["--url", &format!("http://{address}"), "--timeout", "200ms", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("ETIMEDOUT"));
}

#[test]
fn plaintext_to_another_machine_is_77_before_a_byte_is_sent() {
    let output = health(&["--url", "http://203.0.113.7:5000"]);
    assert_eq!(output.status.code(), Some(77));
    assert!(text(&output.stderr).starts_with("SECURITY ERROR: Gateway URL"));
}
