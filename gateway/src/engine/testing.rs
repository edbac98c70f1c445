//! Both sides of an exchange without sockets, for tests.

use std::time::Duration;

use tokio::sync::watch;

use super::downstream::Limits;
use super::h1::client::H1Client;
use super::h1::head::HeadLimits;
use super::h1::server::H1Server;
use super::stop::Phase;
use super::{Downstream, Stop, Stream, Upstream};

const SOON: Duration = Duration::from_secs(5);

const LIMITS: Limits = Limits {
    heads: HeadLimits {
        bytes: 4096,
        fields: 16,
        target: 100,
    },
    head: SOON,
    keepalive: SOON,
    write: SOON,
    body_idle: SOON,
};

/// A process that ends when its sender says so.
pub fn stop() -> (watch::Sender<Phase>, Stop) {
    let (sender, phase) = watch::channel(Phase::Running);
    let active = Default::default();
    (sender, Stop { phase, active })
}

/// A provider whose answer's head is there, and is read.
pub async fn upstream(stream: Stream) -> Upstream {
    let mut session = H1Client::new(stream);
    session.read_head(4096, false, false).await.expect("a head");
    Upstream::H1(session, "test".into())
}

/// A client whose request is there, and is read.
pub async fn downstream(stream: Stream) -> Downstream {
    let mut session = H1Server::new(stream);
    session
        .read_head(&LIMITS, SOON)
        .await
        .unwrap_or_else(|_| panic!("a request"));
    Downstream::H1(Box::new(session))
}
