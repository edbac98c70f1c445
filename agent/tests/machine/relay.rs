//! The way of a CLI's requests: through its session's relay, with the freshest token.

use std::sync::{Arc, Mutex};

use ace_policies::wire::{FromAgent, ToAgent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::world::{Machine, now};

/// Answers everything, and remembers what it was shown.
async fn gateway() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shown = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8192];
            let length = stream.read(&mut head).await.unwrap_or(0);
            shown
                .lock()
                .unwrap()
                .push(String::from_utf8_lossy(&head[..length]).to_lowercase());
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
                .await
                .ok();
        }
    });
    (url, seen)
}

/// A CLI that asks the provider once a turn, as its environment tells it to.
const ASKS: &str = r#"
id = "asks"
executable = "sh"
driver = "one_shot"
[args]
start = ["-c", 'read -r _; curl -s -H "Authorization: Bearer $KEY" "$URL/v1/models"']
[env]
URL = "{url}"
KEY = "{key}"
"#;

#[tokio::test]
async fn a_cli_holds_a_local_key_and_the_relay_puts_in_the_freshest_token() {
    let (url, seen) = gateway().await;
    let mut machine = Machine::new();
    machine.gateway = url;
    machine.adapters.push(ASKS.to_owned());
    machine.limits.token_ahead_ms = 600_000;
    machine.start(&[]).await;
    machine.session("asks").await.unwrap();
    assert!(machine.turn("first\n").await.contains("\"ok\""));
    machine
        .until("a token to be asked for", |machine| {
            machine
                .said
                .iter()
                .any(|said| matches!(said, FromAgent::TokenRequest { run: 1, .. }))
        })
        .await;
    let expires_at_s = now() / 1000 + 300;
    machine
        .tell(ToAgent::Token {
            session_id: machine.session,
            token: "fresh-token".to_owned(),
            expires_at_s,
        })
        .await;
    machine.turn("second\n").await;
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    for (request, token) in seen.iter().zip(["proxy-token", "fresh-token"]) {
        assert!(
            request.contains(&format!("authorization: bearer {token}\r\n")),
            "{request}"
        );
        assert!(
            request.contains(&format!("x-ace-session: {}", machine.session)),
            "{request}"
        );
        assert!(!request.contains("acel_"), "the local key stays here");
    }
    machine.stop_session().await;
}
