use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use super::{Listener, serve};
use crate::testing::worlds;

const ASK: &str = "GET /api/meta HTTP/1.1\r\nhost: ace.test\r\nconnection: close\r\n\r\n";

async fn ask(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> String {
    stream.write_all(ASK.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_socket_is_private_trusted_and_gone_at_the_end() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    std::fs::write(&path, "left by a program that died").unwrap();
    let listener = Listener::unix(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(world.app.clone(), listener, shutdown.clone()));
    let answer = ask(UnixStream::connect(&path).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let busy = Listener::unix(&path).err().unwrap();
    assert!(busy.to_string().contains("another program is serving there"), "{busy}");
    shutdown.cancel();
    serving.await.unwrap().unwrap();
    assert!(!Path::new(&path).exists());
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[tokio::test]
async fn over_tcp_nobody_is_trusted() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let address = listener.address().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(world.app.clone(), listener, shutdown.clone()));
    let answer = ask(TcpStream::connect(address).await.unwrap()).await;
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("not_from_gateway"),
        "{answer}"
    );
    shutdown.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_under_way_ends_before_the_program_does() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let listener = Listener::unix(&path).unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(world.app.clone(), listener, shutdown.clone()));
    let body = format!(
        r#"{{"username":"admin","password":"{}"}}"#,
        crate::testing::ADMIN_PASSWORD
    );
    let head =
        "POST /api/auth/login HTTP/1.1\r\nhost: ace.test\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n";
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream
        .write_all(format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes())
        .await
        .unwrap();
    // Who waits for the body has read the head. The program is told to end before the body comes.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    shutdown.cancel();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    serving.await.unwrap().unwrap();
}
