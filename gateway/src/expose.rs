//! The metrics listener: one page in Prometheus' text format.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::ledger::Backlog;
use crate::ledger::journal::Journal;
use crate::metrics::Metrics;
use crate::store::Store;

/// Scrapers at once.
const MAX_CONNECTIONS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the page shows.
#[derive(Clone)]
pub struct Exposed {
    /// The counts.
    pub metrics: Arc<Metrics>,
    /// The ledger's lag.
    pub backlog: Backlog,
    /// For its age.
    pub store: Store,
    /// For its figures.
    pub journal: Arc<Journal>,
}

/// Serves `GET /metrics` for ever.
pub async fn serve(listener: TcpListener, exposed: Exposed) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let exposed = exposed.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &exposed))));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            // A scraper that goes away is none of our business.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop(slot);
        });
    }
}

fn answer(request: &Request<Incoming>, exposed: &Exposed) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            let text = exposed.metrics.text(
                exposed.backlog.rows(),
                exposed.store.staleness(),
                exposed.journal.stats(),
            );
            (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", b"GET only\n".to_vec()),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            b"Metrics are at /metrics\n".to_vec(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
