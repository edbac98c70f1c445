//! The simulated provider behind `ace-gateway demo`: OpenAI, Anthropic and Gemini on one loopback port.
//!
//! It answers in each provider's own wire format, streams with a small delay between chunks and bills plausible
//! tokens, so that a first minute with the gateway needs no account anywhere. It insists on the key that the gateway
//! must inject. It knows nothing of the gateway.

mod answer;
mod anthropic;
mod google;
mod openai;
mod uploads;

use std::convert::Infallible;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use answer::{Answer, Call};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uploads::Uploads;

/// The pause before each streamed chunk: fast enough not to bore, slow enough to see that it streams.
const CHUNK_DELAY: Duration = Duration::from_millis(20);
/// Larger than any body that the gateway lets through by default.
const MAX_BODY_BYTES: usize = 256 << 20;
/// A listener without free file descriptors fails at once; the pause keeps that from becoming a busy loop.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The keys that the provider accepts, one per dialect.
pub struct Keys {
    pub openai: String,
    pub anthropic: String,
    pub google: String,
}

/// Answers on `listener` until `shutdown`, then lets the connections that are busy finish.
pub async fn serve(listener: TcpListener, keys: Keys, shutdown: CancellationToken) {
    let provider = Arc::new(Provider {
        keys,
        uploads: Uploads::default(),
        served: AtomicU64::new(0),
    });
    let connections = TaskTracker::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&provider), shutdown.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
            },
        }
    }
    connections.close();
    connections.wait().await;
}

async fn converse(stream: TcpStream, provider: Arc<Provider>, shutdown: CancellationToken) {
    // Small writes far apart: with Nagle's algorithm each would wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let provider = Arc::clone(&provider);
        async move { Ok::<_, Infallible>(provider.answer(request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // How a connection ended is its client's affair: nothing is left to do for it here.
    tokio::select! {
        _ = &mut connection => {}
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

struct Provider {
    keys: Keys,
    uploads: Uploads,
    served: AtomicU64,
}

/// Whose API a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    OpenAi,
    Anthropic,
    Google,
}

impl Provider {
    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, io::Error>> {
        let (head, body) = request.into_parts();
        let dialect = Dialect::of(head.uri.path(), &head.headers);
        let raw = match Limited::new(body, MAX_BODY_BYTES).collect().await {
            Ok(raw) => raw.to_bytes(),
            Err(_) => {
                return dialect
                    .refuse(413, "The request body could not be read.")
                    .into_response(CHUNK_DELAY);
            }
        };
        let call = Call {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            body: read_json(&head.headers, &raw),
            headers: head.headers,
            bytes: raw.len() as u64,
            number: self.served.fetch_add(1, Ordering::Relaxed) + 1,
            now_s: now_s(),
        };
        self.route(dialect, &call).into_response(CHUNK_DELAY)
    }

    fn route(&self, dialect: Dialect, call: &Call) -> Answer {
        // The second step of a Gemini upload carries no credential: its URL is one.
        if let Some(answer) = self.uploads.finish(call) {
            return answer;
        }
        if !self.keys.accept(dialect, &call.headers) {
            return dialect.refuse(
                401,
                "Incorrect API key provided. The simulated provider expects the demo's own key.",
            );
        }
        if call.body.is_none() && call.method == http::Method::POST && call.bytes > 0 && call.has_json_type() {
            return dialect.refuse(400, "We could not parse the JSON body of your request.");
        }
        match dialect {
            Dialect::OpenAi => openai::answer(call),
            Dialect::Anthropic => anthropic::answer(call),
            Dialect::Google => self.uploads.answer(call).unwrap_or_else(|| google::answer(call)),
        }
    }
}

impl Dialect {
    /// `/v1/models` is the same path at all three: there the credential's header tells them apart.
    fn of(path: &str, headers: &HeaderMap) -> Self {
        let google_path = path.starts_with("/v1beta/") || path.starts_with("/upload/") || path.contains(':');
        if google_path || headers.contains_key("x-goog-api-key") {
            Self::Google
        } else if path.starts_with("/v1/messages")
            || headers.contains_key("anthropic-version")
            || headers.contains_key("x-api-key")
        {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }

    fn refuse(self, status: u16, message: &str) -> Answer {
        match self {
            Self::OpenAi => openai::error(status, message),
            Self::Anthropic => anthropic::error(status, message),
            Self::Google => google::error(status, message),
        }
    }
}

impl Keys {
    fn accept(&self, dialect: Dialect, headers: &HeaderMap) -> bool {
        let (name, prefix, key) = match dialect {
            Dialect::OpenAi => ("authorization", "Bearer ", &self.openai),
            Dialect::Anthropic => ("x-api-key", "", &self.anthropic),
            Dialect::Google => ("x-goog-api-key", "", &self.google),
        };
        let given = headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        given.strip_prefix(prefix) == Some(key.as_str())
    }
}

/// Reads the body as JSON, decompressed where its sender compressed it (Codex does, with zstd).
fn read_json(headers: &HeaderMap, raw: &[u8]) -> Option<Value> {
    let plain = match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
        Some(b"gzip") => inflate(flate2::read::GzDecoder::new(raw)),
        Some(b"zstd") => inflate(zstd::Decoder::new(raw).ok()?),
        _ => return serde_json::from_slice(raw).ok(),
    }?;
    serde_json::from_slice(&plain).ok()
}

fn inflate(reader: impl Read) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    reader.take(MAX_BODY_BYTES as u64).read_to_end(&mut plain).ok()?;
    Some(plain)
}

#[expect(
    clippy::disallowed_methods,
    reason = "stands for a program of somebody else's, which has its own clock"
)]
fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests;
