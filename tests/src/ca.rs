//! A certificate authority of the story's own, for both ends of the gateway.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An authority with one certificate for `localhost` and `127.0.0.1`.
pub struct Ca {
    authority: String,
    certificate: String,
    key: String,
}

impl Ca {
    /// # Panics
    /// When a certificate cannot be made.
    #[expect(
        clippy::new_without_default,
        reason = "a new authority each time is an act, not a default"
    )]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names to get wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names)
            .expect("two good names")
            .signed_by(&key, &issuer)
            .expect("a certificate");
        Self {
            authority: issuer.pem(),
            certificate: leaf.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Writes the authority, the certificate and its key as PEM files.
    ///
    /// # Panics
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Files {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a folder that can be written");
            path
        };
        Files {
            authority: write("ca.pem", &self.authority),
            certificate: write("cert.pem", &self.certificate),
            key: write("key.pem", &self.key),
        }
    }

    pub(crate) fn acceptor(&self, alpn: &[&[u8]]) -> TlsAcceptor {
        let chain = vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("our own PEM")];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("our own PEM");
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions");
        let mut config = builder
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("our own certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    pub(crate) async fn connect(&self, address: SocketAddr, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.as_bytes()).expect("our own PEM"))
            .expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let tcp = TcpStream::connect(address)
            .await
            .unwrap_or_else(|error| panic!("{address}: {error}"));
        tcp.set_nodelay(true).expect("a socket that takes options");
        let name = ServerName::try_from("localhost").expect("a good name");
        TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .expect("a TLS handshake")
    }
}

/// Where [`Ca::write`] put its files.
pub struct Files {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}
