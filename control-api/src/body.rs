//! What comes in: bodies, query strings and path ids are parsed at the door, and what is wrong with them is said in words.

use ace_policies::Secret;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::ApiError;

/// The largest body, in bytes. The data plane has its own limit; what the control API is told is small.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;

/// A JSON body. None at all counts as an empty object, and then needs no content type.
///
/// Errors: 415 for another content type, 413 above [`MAX_BODY_BYTES`], 400 naming the field for all else.
pub(crate) struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let is_json = is_json(request.headers());
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        if bytes.is_empty() {
            // Nothing said: whoever needs a field misses it in the usual words.
            return Self::parse(b"{}");
        }
        if !is_json {
            let message = "the body must be JSON and its content type application/json";
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                message,
            ));
        }
        refuse_nul(&bytes)?;
        Self::parse(&bytes)
    }
}

impl<T: DeserializeOwned> Body<T> {
    fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let parsed = Json::from_bytes(bytes).map(|Json(body)| Self(body));
        parsed.map_err(|error| invalid("invalid_body", &error.body_text()))
    }
}

/// A query string. Unknown parameters are refused by the types, as unknown fields of bodies are.
///
/// Errors: 400 naming the parameter.
pub(crate) struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        refuse_nul_in_query(&parts.uri)?;
        let query = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|error| invalid("invalid_query", &error.body_text()))
    }
}

/// A part of the path. What cannot be an id names nothing: 404.
pub(crate) struct At<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(part)| Self(part))
            .map_err(|_| ApiError::not_found("thing"))
    }
}

/// A secret in a body. It is never written out again.
#[derive(ToSchema)]
#[schema(value_type = String, format = Password)]
pub(crate) struct SecretText(pub Secret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

/// For a field of a PATCH that can be left out, set, and set to nothing: `None`, `Some(Some(_))`, `Some(None)`.
pub(crate) fn settable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn unreadable(error: BytesRejection) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!("the body is larger than {MAX_BODY_BYTES} bytes");
        return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message);
    }
    ApiError::bad("unreadable_body", "the body could not be read to its end")
}

const NO_NUL: &str = "must not contain the character U+0000";

/// PostgreSQL cannot store it, and in a name or path it is always an attempt at something.
fn refuse_nul(body: &[u8]) -> Result<(), ApiError> {
    // What is no JSON at all is refused afterwards, with a better message.
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return Ok(());
    };
    match nul_in(&value, "body") {
        Some(field) => Err(ApiError::field(&field, NO_NUL)),
        None => Ok(()),
    }
}

/// The same for a query string.
fn refuse_nul_in_query(uri: &Uri) -> Result<(), ApiError> {
    // What cannot be decoded is refused afterwards, with a better message.
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
        return Ok(());
    };
    match pairs
        .iter()
        .find(|(name, value)| name.contains('\0') || value.contains('\0'))
    {
        Some((name, _)) if name.contains('\0') => Err(ApiError::field("query", NO_NUL)),
        Some((name, _)) => Err(ApiError::field(name, NO_NUL)),
        None => Ok(()),
    }
}

/// The name of the field in which there is a NUL character.
fn nul_in(value: &Value, name: &str) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(|| name.to_owned()),
        Value::Array(items) => items.iter().find_map(|item| nul_in(item, name)),
        Value::Object(fields) => fields.iter().find_map(|(field, value)| {
            if field.contains('\0') {
                Some(name.to_owned())
            } else {
                nul_in(value, field)
            }
        }),
        _ => None,
    }
}

/// The library's text without its preamble: `username: invalid type: …`.
fn invalid(code: &'static str, text: &str) -> ApiError {
    const PREAMBLES: [&str; 3] = [
        "Failed to deserialize the JSON body into the target type: ",
        "Failed to parse the request body as JSON: ",
        "Failed to deserialize query string: ",
    ];
    let text = PREAMBLES
        .iter()
        .find_map(|preamble| text.strip_prefix(preamble))
        .unwrap_or(text);
    ApiError::bad(code, text.trim_start_matches(".: ").to_owned())
}
