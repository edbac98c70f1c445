//! What the engine asks of whoever answers requests.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::downstream::Downstream;
use super::h1::head::HeadError;
use super::headers::RequestHead;
use super::stop::Stop;

/// Serves requests.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn serve(self: &Arc<Self>, request: Incoming) -> impl Future<Output = Served> + Send;

    /// Called from time to time on every thread, for housekeeping of what is kept per thread.
    fn sweep(&self);

    /// How often to [`Self::sweep`].
    fn sweep_interval(&self) -> Duration;

    /// Called by each thread whenever it has nothing left to do, before it waits.
    fn rest(&self);
}

/// A request as it was accepted.
pub struct Incoming {
    /// The way to read its body and to answer.
    pub downstream: Downstream,
    /// Its head, or why that was refused.
    pub head: Result<RequestHead, HeadRefusal>,
    /// Address of the peer.
    pub peer: IpAddr,
    /// Whether the peer speaks TLS with us.
    pub tls: bool,
    /// Tells when the process wants to end.
    pub stop: Stop,
}

/// Why there is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadRefusal {
    /// It was not finished in time.
    Timeout,
    /// It was refused.
    Head(HeadError),
}

/// How a request ended, as far as its connection is concerned.
pub enum Served {
    /// Answered; the session can go on if it is in a state to.
    Answered(Downstream),
    /// The answer broke off, or the client went away, or the connection is a tunnel now.
    Broken,
}
