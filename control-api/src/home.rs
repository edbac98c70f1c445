//! What a browser finds at `/`, and what nobody finds.

use ace_policies::edge::EdgeHeaders;
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use crate::App;
use crate::error::ApiError;
use crate::meta::VERSION;
use crate::visitor::Origin;

const PAGE: &str = include_str!("home.html");

/// The page needs nothing but its own style.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/", get(home))
}

/// Answers whatever no route is for: JSON under `/api`, where programs ask, and a line of text elsewhere.
pub(crate) async fn not_found(request: Request) -> Response {
    let path = request.uri().path();
    if path == "/api" || path.starts_with("/api/") {
        return ApiError::not_found("path").into_response();
    }
    (StatusCode::NOT_FOUND, "404: there is nothing here\n").into_response()
}

async fn home(Origin(edge): Origin) -> Response {
    let page = PAGE
        .replace("{{version}}", VERSION)
        .replace("{{origin}}", &address(&edge));
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(page)).into_response()
}

/// The address that the browser used. A host that could be anything but a host is not repeated.
fn address(edge: &EdgeHeaders) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]_".contains(c);
    let host = if !edge.host.is_empty() && edge.host.chars().all(plain) {
        &edge.host
    } else {
        "localhost:5000"
    };
    let scheme = if edge.scheme == "https" { "https" } else { "http" };
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests;
