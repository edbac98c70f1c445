//! Requests that the control API makes to other servers, whose addresses people have given: only to where they may lead.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ace_policies::ssrf::{EgressAllow, check_address};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::error::ApiError;

/// A client that follows no redirects, which would take secrets along, and connects only to what is public or in `allow`.
/// Addresses that are written out in a URL are left to `policies::ssrf::check_url`, which is to be asked right before sending.
pub(crate) fn client(
    allow: &EgressAllow,
    ca_pem: Option<&[u8]>,
    timeout: Duration,
) -> Result<reqwest::Client, ApiError> {
    // Somebody else in the process may have been first; either way there is one now.
    let _already = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(Arc::new(Guarded(allow.clone())))
        .no_proxy()
        .timeout(timeout);
    if let Some(pem) = ca_pem {
        for certificate in reqwest::Certificate::from_pem_bundle(pem).map_err(ApiError::internal)? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(ApiError::internal)
}

/// Why there was no answer: `did not answer within 10 s`, `cannot be reached: …`. The innermost reason, since the outer ones say only
/// that there was one; URLs, which may hold secrets, are in none of them.
pub(crate) fn reason(error: &reqwest::Error, timeout: Duration) -> String {
    if error.is_timeout() {
        return format!("did not answer within {} s", timeout.as_secs());
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    format!("cannot be reached: {innermost}")
}

/// Resolves names, and refuses addresses that nothing must be sent to: a name can be bound to anything.
struct Guarded(EgressAllow);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, allow) = (name.as_str().to_owned(), self.0.clone());
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            for address in &found {
                check_address(address.ip(), &host, &allow)?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolves(name: &str, allow: &[&str]) -> bool {
        let allow = EgressAllow::parse(allow).unwrap();
        Guarded(allow).resolve(name.parse().unwrap()).await.is_ok()
    }

    #[tokio::test]
    async fn trap_34_a_name_that_leads_inside_is_not_followed() {
        assert!(!resolves("localhost", &[]).await);
        assert!(resolves("localhost", &["localhost"]).await);
        assert!(resolves("localhost", &["127.0.0.0/8", "::1"]).await);
    }
}
