//! The pooled connections to the one gateway.

use std::io;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error},
    rt::{TokioExecutor, TokioTimer},
};

use super::{Config, replay::Attempt};
use crate::transport::Connector;

pub(super) struct Upstream {
    client: Client<Connector, Attempt<Incoming>>,
    name: String,
}

impl Upstream {
    pub(super) fn new(config: &Config) -> io::Result<Self> {
        let limits = &config.limits;
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits.pool_idle)
            .pool_max_idle_per_host(limits.pool_size)
            .http1_max_buf_size(limits.head_bytes)
            .http1_max_headers(limits.headers)
            .http2_adaptive_window(true)
            .build(config.gateway.connector(limits.connect)?);
        Ok(Self {
            client,
            name: config.gateway.url().origin().ascii_serialization(),
        })
    }

    /// The gateway's origin, for messages.
    pub(super) fn name(&self) -> String {
        self.name.clone()
    }

    pub(super) async fn request(&self, request: Request<Attempt<Incoming>>) -> Result<Response<Incoming>, Error> {
        self.client.request(request).await
    }
}
