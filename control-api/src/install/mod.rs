//! What installs an agent: scripts, and the programs they fetch. Anybody may have them; they hold no secrets.

mod files;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::At;
use crate::error::ApiError;

pub(crate) use files::Files;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(install_sh))
        .routes(routes!(install_ps1))
        .routes(routes!(uninstall_sh))
        .routes(routes!(file))
}

const SHELL: &str = "text/x-shellscript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Whoever has it asks whether it is still the same one before using it.
const CACHING: &str = "no-cache";

/// The name of the list of checksums.
const SUMS: &str = "SHA256SUMS";

/// The installer for Linux and macOS.
#[utoipa::path(get, path = "/api/remote/agent/install.sh", tag = "agent", security(()),
    responses((status = 200, body = String, content_type = "text/x-shellscript")))]
async fn install_sh(headers: HeaderMap) -> Response {
    text(&headers, SHELL, include_str!("install.sh"))
}

/// The installer for Windows.
#[utoipa::path(get, path = "/api/remote/agent/install.ps1", tag = "agent", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn install_ps1(headers: HeaderMap) -> Response {
    text(&headers, TEXT, include_str!("install.ps1"))
}

/// What takes an agent off a machine again, on Linux and macOS.
#[utoipa::path(get, path = "/api/remote/agent/uninstall.sh", tag = "agent", security(()),
    responses((status = 200, body = String, content_type = "text/x-shellscript")))]
async fn uninstall_sh(headers: HeaderMap) -> Response {
    text(&headers, SHELL, include_str!("uninstall.sh"))
}

/// A file of an agent: `SHA256SUMS`, or a program that is named in it, such as `ace-agent-x86_64-unknown-linux-gnu`.
#[utoipa::path(get, path = "/api/remote/agent/files/{path}", tag = "agent", security(()), params(("path" = String, Path)),
    responses((status = 200, body = [u8], content_type = "application/octet-stream"),
              (status = 404, body = crate::error::ErrorBody)))]
async fn file(State(app): State<App>, headers: HeaderMap, At(path): At<String>) -> Result<Response, ApiError> {
    let held = app.agent_files().list(app.config()).await?;
    if path == SUMS {
        let sums = app.agent_files().sums(&held).await?;
        return Ok(text(&headers, TEXT, &sums));
    }
    match held.iter().find(|file| file.name == path) {
        Some(file) => app.agent_files().serve(file, &headers).await,
        None => Err(missing(&held)),
    }
}

fn missing(held: &[files::Held]) -> ApiError {
    let names: Vec<_> = held.iter().map(|file| file.name.as_str()).collect();
    let there = match names[..] {
        [] => "no agents are held here; the operator sets [agents] files_dir".to_owned(),
        _ => format!("there are {SUMS}, {}", names.join(", ")),
    };
    ApiError::new(
        StatusCode::NOT_FOUND,
        "agent_file_not_found",
        "there is no such file of an agent",
    )
    .hint(there)
}

fn text(headers: &HeaderMap, content_type: &'static str, text: &str) -> Response {
    let tag = etag(&hex::encode(Sha256::digest(text.as_bytes())));
    if has_it(headers, &tag) {
        return unchanged(tag);
    }
    let head = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (header::ETAG, tag),
        (header::CACHE_CONTROL, CACHING.to_owned()),
    ];
    (head, text.to_owned()).into_response()
}

fn etag(hash: &str) -> String {
    format!("\"{hash}\"")
}

/// Whether the client has the version of this tag.
fn has_it(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag))
}

fn unchanged(tag: String) -> Response {
    let head = [(header::ETAG, tag), (header::CACHE_CONTROL, CACHING.to_owned())];
    (StatusCode::NOT_MODIFIED, head).into_response()
}

#[cfg(test)]
mod script_tests;
#[cfg(test)]
mod tests;
