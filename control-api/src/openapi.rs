//! The description of the API, generated from the code that serves it.

use axum::Router;
use axum::http::header;
use axum::routing::get;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Info, OpenApi, OpenApiBuilder, SecurityRequirement};

use crate::App;
use crate::meta::VERSION;
use crate::visitor::COOKIE;

/// Where the document is.
pub(crate) const PATH: &str = "/api/openapi.json";

/// What holds for all routes.
pub(crate) fn head() -> OpenApi {
    let mut components = Components::new();
    components.add_security_scheme(
        "cookie",
        SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(COOKIE))),
    );
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let no_scopes = || Vec::<String>::new();
    OpenApiBuilder::new()
        .info(Info::new("ACE Gateway control API", VERSION))
        .components(Some(components))
        .security(Some([
            SecurityRequirement::new("cookie", no_scopes()),
            SecurityRequirement::new("bearer", no_scopes()),
        ]))
        .build()
}

/// Serves the document. It is the same for everybody, and written once.
pub(crate) fn route(document: &OpenApi) -> Router<App> {
    let text = document.to_json().expect("an OpenAPI document is always JSON");
    let answer = move || {
        let text = text.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], text) }
    };
    Router::new().route(PATH, get(answer))
}
