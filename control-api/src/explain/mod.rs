//! POST /api/explain: why an LLM request is, or would be, let through or refused. It asks in the gateway's order, and changes nothing.

mod keys;
mod limits;
mod who;

use ace_policies::Provider;
use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::{Body, SecretText};
use crate::error::ApiError;
use crate::prices;
use crate::visitor::Visitor;
use who::Who;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(explain))
}

/// The request that is asked about: whose it is, by `token` or by `user_id`, and what it asks for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Question {
    user_id: Option<i64>,
    /// Whose session it would come from.
    session_id: Option<String>,
    /// A proxy token, as a tool sends it.
    token: Option<SecretText>,
    /// `openai`, `anthropic` or `google`; left out, the token or the path says it.
    provider: Option<String>,
    model: Option<String>,
    /// Such as `/v1/messages`.
    path: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Explanation {
    success: bool,
    allowed: bool,
    /// In the order in which the gateway asks; what comes after the first that says no is told all the same.
    checks: Vec<Check>,
}

/// One thing that must hold.
#[derive(Serialize, ToSchema)]
struct Check {
    /// `token`, `user`, `session`, `provider`, `model`, `key`, `price` or `limit`.
    #[schema(value_type = String)]
    check: &'static str,
    ok: bool,
    /// The HTTP status of the refusal, where it says no.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// In words.
    reason: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    #[schema(value_type = Option<Object>)]
    details: Value,
}

impl Check {
    fn yes(check: &'static str, reason: impl Into<String>) -> Self {
        Self {
            check,
            ok: true,
            status: None,
            reason: reason.into(),
            details: Value::Null,
        }
    }

    fn no(check: &'static str, status: u16, reason: impl Into<String>) -> Self {
        Self {
            ok: false,
            status: Some(status),
            ..Self::yes(check, reason)
        }
    }

    fn with(self, details: Value) -> Self {
        Self { details, ..self }
    }
}

/// Says whether a request would be let through, and every reason for and against.
#[utoipa::path(post, path = "/api/explain", tag = "meta", request_body = Question,
    responses((status = 200, body = Explanation), (status = 400, body = crate::error::ErrorBody)))]
async fn explain(
    State(app): State<App>,
    visitor: Visitor,
    Body(question): Body<Question>,
) -> Result<Json<Explanation>, ApiError> {
    visitor.permit(&app, Action::Explain, &Standing::default()).await?;
    let provider = parse_provider(question.provider.as_deref())?;
    let mut checks = Vec::new();
    if let Some(who) = who::find(&app, &question, &mut checks).await? {
        ask(&app, &question, provider, &who, &mut checks).await?;
    }
    Ok(Json(Explanation {
        success: true,
        allowed: checks.iter().all(|check| check.ok),
        checks,
    }))
}

async fn ask(
    app: &App,
    question: &Question,
    asked: Option<Provider>,
    who: &Who,
    checks: &mut Vec<Check>,
) -> Result<(), ApiError> {
    let Some(provider) = provider(question, asked, who, checks) else {
        return Ok(());
    };
    let model = question.model.as_deref();
    let served = model.map(|model| app.config().model_aliases.get(model).map_or(model, String::as_str));
    if let Some(check) = allowed_model(who, model) {
        checks.push(check);
    }
    let (key, check) = keys::find(app, who.tenant, provider, served).await?;
    checks.push(check);
    checks.push(price(app, provider, served, key).await);
    limits::ask(app, who, key, checks).await
}

fn parse_provider(name: Option<&str>) -> Result<Option<Provider>, ApiError> {
    name.map(|name| name.parse())
        .transpose()
        .map_err(|error| ApiError::bad("unknown_provider", format!("provider: {error}")))
}

/// Which provider it goes to: the token's word counts first, then the path's.
fn provider(question: &Question, asked: Option<Provider>, who: &Who, checks: &mut Vec<Check>) -> Option<Provider> {
    let by_path = question.path.as_deref().and_then(provider_of_path);
    let told = [who.provider, by_path, asked];
    let Some(provider) = told.into_iter().flatten().next() else {
        checks.push(Check::no(
            "provider",
            400,
            "neither provider nor token nor path says where it goes",
        ));
        return None;
    };
    let check = match told.into_iter().flatten().find(|other| *other != provider) {
        Some(other) if who.provider.is_some() => Check::no(
            "provider",
            403,
            format!("the token is for {provider}, the request for {other}"),
        ),
        Some(other) => Check::no(
            "provider",
            400,
            format!("the path is {provider}'s, the question {other}'s"),
        ),
        None => Check::yes("provider", format!("it goes to {provider}")),
    };
    checks.push(check);
    Some(provider)
}

/// The dialect of a native path; other paths say nothing.
fn provider_of_path(path: &str) -> Option<Provider> {
    let path = path.split('?').next().unwrap_or_default();
    let begins = |start: &str| {
        path.strip_prefix(start)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if begins("/v1/messages") {
        Some(Provider::Anthropic)
    } else if begins("/v1beta") || begins("/upload/v1beta") {
        Some(Provider::Google)
    } else if begins("/v1/chat") || begins("/v1/responses") || begins("/v1/embeddings") || begins("/v1/completions") {
        Some(Provider::OpenAi)
    } else {
        None
    }
}

/// A token may be limited to some models.
fn allowed_model(who: &Who, model: Option<&str>) -> Option<Check> {
    let allowed = who.models.as_ref()?;
    let details = json!({ "allowed": allowed });
    let bare = |model: &str| model.strip_prefix("models/").unwrap_or(model).to_owned();
    let check = match model {
        None => Check::no(
            "model",
            403,
            "the token is limited to some models, and the request names none",
        ),
        Some(model) if allowed.iter().any(|one| bare(one) == bare(model)) => {
            Check::yes("model", format!("the token is good for {model}"))
        }
        Some(model) => Check::no("model", 403, format!("the token is not good for {model}")),
    };
    Some(check.with(details))
}

async fn price(app: &App, provider: Provider, model: Option<&str>, key: Option<ace_policies::KeyId>) -> Check {
    let table = match prices::table(app).await {
        Ok(table) => table,
        // The gateway goes on with the last table that was good.
        Err(problems) => {
            return Check::yes(
                "price",
                format!("the price table cannot be read: {}", problems.join("; ")),
            );
        }
    };
    let price = table.price(provider, model, key, app.now());
    let reason = match (price.is_default(), model) {
        (false, _) => format!("it is priced by {}", price.id()),
        (true, Some(model)) => format!(
            "the price table does not know {model}: it is priced by {}, which may be dearer or cheaper",
            price.id()
        ),
        (true, None) => format!("no model was named: priced by {}", price.id()),
    };
    let rates = &price.ordinary().base;
    Check::yes("price", reason).with(json!({
        "id": price.id(),
        "usd_per_million_input_tokens": rates.input.to_string(),
        "usd_per_million_output_tokens": rates.output.to_string(),
    }))
}

#[cfg(test)]
mod tests;
