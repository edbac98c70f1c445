//! Whom TLS trusts: the system, or one private CA, or one certificate by its fingerprint. It is never switched off.

use std::{fmt, io, path::PathBuf, sync::Arc};

use hyper_rustls::ConfigBuilderExt;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use sha2::{Digest, Sha256};

use super::GatewayUrl;

/// What a certificate must be. By default the system's authorities decide.
#[derive(Default, Debug)]
pub struct Trust {
    /// A PEM file; the authorities in it take the place of the system's.
    pub ca_file: Option<PathBuf>,
    /// The one certificate that is accepted, whoever signed it.
    pub pin: Option<Pin>,
}

/// The SHA-256 of a server's certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

/// What was configured cannot be trusted by.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(
        "tls_fingerprint_invalid: `{0}` is not a SHA-256: 64 hexadecimal digits, perhaps with colons and `sha256:` before them"
    )]
    Pin(String),
    #[error("tls_fingerprint_requires_tls: a pinned certificate needs an https:// or wss:// address")]
    PinNeedsTls,
    #[error("ca_file {path}: {problem}; expected certificates in PEM form")]
    CaFile { path: String, problem: String },
}

/// The protocols that are offered inside TLS.
#[derive(Clone, Copy)]
pub(super) enum Protocols {
    Http2OrHttp1,
    Http1,
}

impl Pin {
    /// Reads a fingerprint as `openssl x509 -fingerprint -sha256` and others print it.
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let bare = text.trim().to_ascii_lowercase();
        let bare = bare.strip_prefix("sha256:").unwrap_or(&bare).replace(':', "");
        let mut bytes = [0; 32];
        hex::decode_to_slice(bare, &mut bytes).map_err(|_| TrustError::Pin(text.to_owned()))?;
        Ok(Self(bytes))
    }

    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Trust {
    /// Looks at the CA file now, so that a wrong one is told at the start and not at the first connection.
    pub(super) fn check(&self) -> Result<(), TrustError> {
        self.private_roots().map(|_| ())
    }

    fn private_roots(&self) -> Result<Option<RootCertStore>, TrustError> {
        let Some(path) = &self.ca_file else { return Ok(None) };
        let wrong = |problem: String| TrustError::CaFile {
            path: path.display().to_string(),
            problem,
        };
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("no certificate in it".to_owned()));
        }
        Ok(Some(roots))
    }
}

impl GatewayUrl {
    /// `None` for plaintext.
    pub(super) fn tls_config(&self, protocols: Protocols) -> io::Result<Option<Arc<ClientConfig>>> {
        if self.url.scheme() != "https" {
            return Ok(None);
        }
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match (self.trust.pin, self.trust.private_roots().map_err(io::Error::other)?) {
            (Some(pin), _) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pinned { pin, provider })),
            (None, Some(roots)) => builder.with_root_certificates(roots),
            (None, None) => builder.with_native_roots()?,
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = match protocols {
            Protocols::Http2OrHttp1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocols::Http1 => vec![b"http/1.1".to_vec()],
        };
        Ok(Some(Arc::new(config)))
    }
}

/// Accepts the one certificate. That the server holds its key is still proven by the handshake's signature.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let actual = Pin::of(end_entity);
        if actual == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let text = format!(
            "tls_fingerprint_mismatch: expected {}, the server has {actual}",
            self.pin
        );
        let other = rustls::OtherError(Arc::new(io::Error::other(text)));
        Err(CertificateError::Other(other).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
