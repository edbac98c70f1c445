//! Real handshakes with certificates made for each test.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::transport::{BreakGlass, Proxies, Step};

const PATIENCE: Duration = Duration::from_secs(5);

struct Server {
    port: u16,
    /// What came in the clear after each handshake.
    heard: mpsc::Receiver<String>,
    pin: String,
}

/// Serves TLS on loopback, signed by `issuer` or by itself.
async fn server(issuer: Option<&CertifiedIssuer<'static, KeyPair>>) -> Server {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    let der = certificate.der().clone();
    let pin = hex::encode(Sha256::digest(&der)).to_uppercase();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (say, heard) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else {
                continue;
            };
            let mut buffer = [0; 64];
            let read = stream.read(&mut buffer).await.unwrap_or(0);
            let _ = say.send(String::from_utf8_lossy(&buffer[..read]).into_owned()).await;
        }
    });
    Server { port, heard, pin }
}

fn url(port: u16, trust: Trust) -> GatewayUrl {
    let url = GatewayUrl::parse(&format!("https://localhost:{port}"), "test", BreakGlass::Closed);
    url.unwrap().trusting(trust).unwrap()
}

async fn speaks(url: &GatewayUrl) -> Result<(), super::super::DialError> {
    let mut stream = url.dial(PATIENCE).await?;
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    Ok(())
}

#[tokio::test]
async fn a_private_authority_is_trusted_and_no_other() {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, issuer.pem()).unwrap();
    let trust = || Trust {
        ca_file: Some(ca_file.clone()),
        pin: None,
    };
    let mut ours = server(Some(&issuer)).await;
    speaks(&url(ours.port, trust())).await.unwrap();
    assert_eq!(ours.heard.recv().await.unwrap(), "hello");

    let mut other = server(None).await;
    let error = speaks(&url(other.port, trust())).await.unwrap_err();
    assert_eq!(error.step, Step::Tls);
    assert!(error.to_string().contains("ca_file"), "{error}");
    assert!(other.heard.try_recv().is_err(), "nothing was said to it");
}

#[tokio::test]
async fn a_pin_accepts_its_certificate_and_tells_of_another_before_anything_is_said() {
    let mut ours = server(None).await;
    let mut other = server(None).await;
    let trust = |pin: &str| Trust {
        ca_file: None,
        pin: Some(Pin::parse(pin).unwrap()),
    };
    speaks(&url(ours.port, trust(&ours.pin))).await.unwrap();
    assert_eq!(ours.heard.recv().await.unwrap(), "hello");
    let error = speaks(&url(other.port, trust(&ours.pin)))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("tls_fingerprint_mismatch"), "{error}");
    assert!(
        error.contains(&ours.pin.to_lowercase()) && error.contains(&other.pin.to_lowercase()),
        "{error}"
    );
    assert!(other.heard.try_recv().is_err(), "nothing was said to it");
}

#[test]
fn pins_are_read_in_their_usual_forms() {
    let digits = "ab".repeat(32);
    let colons = vec!["AB"; 32].join(":");
    let pins = [
        digits.clone(),
        format!("sha256:{digits}"),
        colons.clone(),
        format!("SHA256:{colons}"),
    ];
    for text in pins {
        assert_eq!(Pin::parse(&text).unwrap().to_string(), format!("sha256:{digits}"));
    }
    for text in ["", "ab", "sha1:abcd", &digits[1..]] {
        assert!(
            Pin::parse(text)
                .unwrap_err()
                .to_string()
                .contains("tls_fingerprint_invalid")
        );
    }
    let plain = GatewayUrl::parse("http://127.0.0.1:5000", "test", BreakGlass::Closed).unwrap();
    let trust = Trust {
        ca_file: None,
        pin: Some(Pin::parse(&digits).unwrap()),
    };
    let error = plain.trusting(trust).unwrap_err().to_string();
    assert!(error.contains("tls_fingerprint_requires_tls"), "{error}");
}

#[test]
fn a_ca_file_without_certificates_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("empty.pem", Some("nothing")), ("none.pem", None)] {
        let path = dir.path().join(name);
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let url = GatewayUrl::parse("https://localhost", "test", BreakGlass::Closed).unwrap();
        let trust = Trust {
            ca_file: Some(path),
            pin: None,
        };
        let error = url.trusting(trust).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

/// A proxy that opens one tunnel if it is asked with the right login, and tells what it was asked.
async fn proxy(answer: &'static str) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (say, heard) = mpsc::channel(8);
    tokio::spawn(async move {
        let (mut inside, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let read = inside.read(&mut head).await.unwrap();
        let head = String::from_utf8(head[..read].to_vec()).unwrap();
        let target = head.split(' ').nth(1).unwrap().to_owned();
        say.send(head).await.unwrap();
        inside.write_all(answer.as_bytes()).await.unwrap();
        if answer.contains(" 200 ") {
            let mut outside = TcpStream::connect(target).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
        }
    });
    (port, heard)
}

fn through(url: GatewayUrl, port: u16) -> GatewayUrl {
    let name = format!("http://me:secret@127.0.0.1:{port}");
    let proxies = Proxies::from_lookup(|variable| (variable == "HTTPS_PROXY").then(|| name.clone()));
    url.through(&proxies).unwrap()
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel_and_sees_no_more_than_the_name() {
    let mut ours = server(None).await;
    let trust = Trust {
        ca_file: None,
        pin: Some(Pin::parse(&ours.pin).unwrap()),
    };
    let (port, mut asked) = proxy("HTTP/1.1 200 Connection established\r\n\r\n").await;
    speaks(&through(url(ours.port, trust), port)).await.unwrap();
    assert_eq!(ours.heard.recv().await.unwrap(), "hello");
    let head = asked.recv().await.unwrap();
    assert!(
        head.starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", ours.port)),
        "{head}"
    );
    assert!(head.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{head}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told_as_such() {
    let (port, _asked) = proxy("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    let error = speaks(&through(url(1, Trust::default()), port)).await.unwrap_err();
    assert_eq!(error.step, Step::Proxy);
    let error = error.to_string();
    assert!(
        error.contains("407") && error.contains("HTTPS_PROXY") && !error.contains("secret"),
        "{error}"
    );
}

#[test]
fn plaintext_never_goes_through_a_proxy() {
    let plain = GatewayUrl::parse("http://127.0.0.1:5000", "test", BreakGlass::Closed).unwrap();
    assert_eq!(through(plain, 3128).proxy(), None);
}
