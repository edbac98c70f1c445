//! POST /api/remote/api-keys/{id}/test: asks the provider for its list of models with the key.

use std::time::{Duration, Instant};

use ace_policies::access::{Action, Standing};
use ace_policies::ssrf::check_base_url;
use ace_policies::{Provider, Secret};
use axum::Json;
use axum::extract::State;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Key, lock, open};
use crate::App;
use crate::body::At;
use crate::error::ApiError;
use crate::outbound;
use crate::visitor::Visitor;

/// How long the provider may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How much of the provider's answer is read.
const MAX_ANSWER_BYTES: usize = 4 << 20;

#[derive(Serialize, ToSchema)]
pub(super) struct Tested {
    success: bool,
    /// Whether the provider accepted the key.
    ok: bool,
    /// The provider's HTTP status, when it answered.
    status: Option<u16>,
    latency_ms: u64,
    /// How many models it lists for this key.
    models: Option<usize>,
    /// What went wrong, in words of ours: a provider's text may repeat the key.
    error: Option<String>,
}

/// Tries a provider key out.
#[utoipa::path(post, path = "/api/remote/api-keys/{id}/test", tag = "api-keys", params(("id" = i64, Path)),
    responses((status = 200, body = Tested), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn test(State(app): State<App>, visitor: Visitor, At(id): At<i64>) -> Result<Json<Tested>, ApiError> {
    let permit = visitor.permit(&app, Action::ApiKeysTest, &Standing::default()).await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let (key, sealed) = lock(write.sql(), id).await?;
    let value = open(&app, &key, &sealed)?;
    // The act is that the key is used. It is saved before the provider is asked, who may take long.
    write.target(format_args!("api_key:{id}"));
    write.commit().await?;
    let start = Instant::now();
    let outcome = ask(&app, &key, &value).await?;
    let latency_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Json(outcome.told(latency_ms)))
}

/// What came of asking.
enum Outcome {
    Answer { status: u16, models: Option<usize> },
    Failed(String),
}

impl Outcome {
    fn told(self, latency_ms: u64) -> Tested {
        let (status, models, error) = match self {
            Self::Answer { status, models } => (Some(status), models, verdict(status)),
            Self::Failed(error) => (None, None, Some(error)),
        };
        Tested {
            success: true,
            ok: error.is_none(),
            status,
            latency_ms,
            models,
            error,
        }
    }
}

fn verdict(status: u16) -> Option<String> {
    let meaning = match status {
        200..=299 => return None,
        300..=399 => "it redirects elsewhere; use the address it redirects to as base_url",
        401 | 403 => "it does not accept this key",
        404 => "it has no list of models there; is base_url right?",
        429 => "it accepts the key, but its limit is reached",
        _ => "it cannot answer now",
    };
    Some(format!("the provider answered {status}: {meaning}"))
}

async fn ask(app: &App, key: &Key, value: &Secret) -> Result<Outcome, ApiError> {
    let provider = key.provider()?;
    // The rules may have changed since the key was stored.
    let base_url = match check_base_url(&key.base_url, &app.config().egress) {
        Ok(base_url) => base_url,
        Err(error) => return Ok(Outcome::Failed(error.to_string())),
    };
    let client = outbound::client(&app.config().egress, app.config().ca_pem.as_deref(), TIMEOUT)?;
    let request = client
        .get(models_url(provider, base_url.as_str()))
        .headers(credential(provider, value)?);
    match request.send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            Ok(Outcome::Answer {
                status,
                models: count_models(answer).await,
            })
        }
        Err(error) => Ok(Outcome::Failed(reason(&error))),
    }
}

fn models_url(provider: Provider, base_url: &str) -> String {
    let base = base_url.trim_end_matches('/');
    match provider {
        Provider::OpenAi => format!("{base}/models"),
        Provider::Anthropic => format!("{}/v1/models", base.trim_end_matches("/v1")),
        Provider::Google => format!("{}/v1beta/models", base.trim_end_matches("/v1beta")),
    }
}

fn credential(provider: Provider, value: &Secret) -> Result<HeaderMap, ApiError> {
    let (name, text) = match provider {
        Provider::OpenAi => ("authorization", format!("Bearer {}", value.expose())),
        Provider::Anthropic => ("x-api-key", value.expose().to_owned()),
        Provider::Google => ("x-goog-api-key", value.expose().to_owned()),
    };
    let mut header = HeaderValue::from_str(&text).map_err(ApiError::internal)?;
    header.set_sensitive(true);
    let mut headers = HeaderMap::from_iter([(HeaderName::from_static(name), header)]);
    if provider == Provider::Anthropic {
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    }
    Ok(headers)
}

async fn count_models(mut answer: reqwest::Response) -> Option<usize> {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_ANSWER_BYTES {
            return None;
        }
    }
    let list: Value = serde_json::from_slice(&bytes).ok()?;
    list.get("data")
        .or_else(|| list.get("models"))
        .and_then(Value::as_array)
        .map(Vec::len)
}

fn reason(error: &reqwest::Error) -> String {
    format!("the provider {}", outbound::reason(error, TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_provider_has_its_list_of_models() {
        for (provider, base, url) in [
            (
                Provider::OpenAi,
                "https://api.openai.com/v1",
                "https://api.openai.com/v1/models",
            ),
            (
                Provider::Anthropic,
                "https://api.anthropic.com",
                "https://api.anthropic.com/v1/models",
            ),
            (
                Provider::Anthropic,
                "https://proxy.example/v1/",
                "https://proxy.example/v1/models",
            ),
            (Provider::Google, "https://g.example", "https://g.example/v1beta/models"),
        ] {
            assert_eq!(models_url(provider, base), url);
        }
    }
}
