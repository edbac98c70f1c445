//! The door: each request gets an id and a proven origin before any handler sees it, and each answer carries the id.

use std::net::{IpAddr, Ipv4Addr};

use ace_policies::edge::{self, EdgeError, EdgeHeaders};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use crate::error::ApiError;
use crate::{App, Trust, chance};

/// What a load balancer may ask without a gateway in between. It tells nothing.
pub(crate) const HEALTH: &str = "/healthz";

#[derive(Clone)]
pub(crate) struct Door {
    pub app: App,
    pub trust: Trust,
}

/// Lets a request in.
pub(crate) async fn enter(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    if request.uri().path() == HEALTH {
        return (StatusCode::OK, "ok\n").into_response();
    }
    let edge = match door.origin(&request) {
        Ok(edge) => edge,
        Err(error) => return answer(not_from_gateway(error).into_response(), &chance::id().to_string()),
    };
    let request_id = edge.request_id.clone();
    let span = tracing::info_span!("request", request_id, method = %request.method(), path = request.uri().path());
    request.extensions_mut().insert(edge);
    let timeout = door.app.config().request_timeout;
    let response = tokio::time::timeout(timeout, next.run(request)).instrument(span).await;
    answer(response.unwrap_or_else(|_| timed_out().into_response()), &request_id)
}

impl Door {
    /// Where a request comes from. Headers that are there must be right, whatever the socket.
    fn origin(&self, request: &Request) -> Result<EdgeHeaders, EdgeError> {
        let headers = request.headers();
        if self.trust == Trust::Socket && !headers.contains_key(edge::SIGNATURE) {
            return Ok(self.local(headers));
        }
        let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let origin = EdgeHeaders::read(get)?;
        let signature = get(edge::SIGNATURE).ok_or(EdgeError::Missing(edge::SIGNATURE))?;
        let (method, target) = (request.method().as_str(), request.uri().path_and_query());
        let target = target.map_or("/", |target| target.as_str());
        let now = self.app.now() / 1000;
        let mut verdict = Err(EdgeError::BadSignature);
        for key in self.app.edge_keys() {
            verdict = origin.verify(key, method, target, signature, now, edge::MAX_AGE_S);
            if verdict != Err(EdgeError::BadSignature) {
                break;
            }
        }
        verdict.map(|()| origin)
    }

    /// Somebody on this machine who opened the socket.
    fn local(&self, headers: &HeaderMap) -> EdgeHeaders {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or("localhost");
        EdgeHeaders {
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            scheme: "http".to_owned(),
            host: host.to_owned(),
            request_id: chance::id().to_string(),
            time: self.app.now() / 1000,
        }
    }
}

fn not_from_gateway(error: EdgeError) -> ApiError {
    ApiError::forbidden("not_from_gateway", error.to_string())
}

fn timed_out() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "timeout",
        "the request took too long and was given up",
    )
}

/// What every answer carries. Answers are about people and secrets, so no cache keeps them.
fn answer(mut response: Response, request_id: &str) -> Response {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(edge::REQUEST_ID, id);
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
