//! POST /api/webhooks.

use ace_policies::access::{Action, Standing};
use ace_policies::ssrf::{EgressError, check_url};
use ace_policies::vault::{Sealed, webhook_aad};
use ace_policies::{Secret, TenantId};
use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use sqlx::Row;
use utoipa::ToSchema;

use super::{EVENTS, One, Webhook};
use crate::App;
use crate::body::Body;
use crate::chance;
use crate::error::ApiError;
use crate::users::refuse_unknown_tenant;
use crate::visitor::Visitor;
use crate::write::Write;

/// How many there may be: each event is compared with each.
const MAX_WEBHOOKS: i64 = 200;

/// What the secret of a webhook begins with.
const PREFIX: &str = "whsec_";

/// A webhook to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    url: String,
    /// Such as `["session.state", "approval.*"]`; left out, all.
    events: Option<Vec<String>>,
    /// Up to 200 characters.
    #[serde(default)]
    description: String,
    /// Left out, the admin's own.
    tenant_id: Option<i64>,
}

/// Makes a webhook. The answer has the secret that signs its requests, this once.
#[utoipa::path(post, path = "/api/webhooks", tag = "webhooks", request_body = Wish,
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody)))]
pub(super) async fn create(
    State(app): State<App>,
    visitor: Visitor,
    Body(wish): Body<Wish>,
) -> Result<Json<One>, ApiError> {
    let permit = visitor
        .permit(&app, Action::WebhooksUpdate, &Standing::default())
        .await?;
    let new = New {
        tenant: wish.tenant_id.map_or(visitor.actor.tenant, TenantId),
        url: url_of(&app, &wish.url)?,
        events: events_of(wish.events.as_deref().unwrap_or(&["*".to_owned()]))?,
        description: description_of(&wish.description)?,
        by: visitor.actor.user.0,
    };
    let mut write = app.write(&permit, &visitor.edge).await?;
    let (webhook, secret) = insert(&app, &mut write, &new).await?;
    write.target(format_args!("webhook:{}", webhook.id)).after(&webhook)?;
    write.commit().await?;
    Ok(Json(One {
        success: true,
        webhook,
        secret: Some(secret.expose().to_owned()),
    }))
}

struct New {
    tenant: TenantId,
    url: String,
    events: String,
    description: String,
    by: i64,
}

async fn insert(app: &App, write: &mut Write, new: &New) -> Result<(Webhook, Secret), ApiError> {
    refuse_unknown_tenant(write, new.tenant).await?;
    let count = sqlx::query("SELECT COUNT(*) FROM webhooks")
        .fetch_one(write.sql())
        .await?;
    if count.try_get::<i64, _>(0)? >= MAX_WEBHOOKS {
        return Err(ApiError::conflict(
            "too_many_webhooks",
            format!("there are {MAX_WEBHOOKS} webhooks already"),
        ));
    }
    // The place that the secret is sealed for has the row's id in it.
    let row = sqlx::query(
        "INSERT INTO webhooks (tenant_id, url, events, description, key_id, sealed, created_by, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8) RETURNING *",
    )
    .bind(new.tenant.0)
    .bind(&new.url)
    .bind(&new.events)
    .bind(&new.description)
    .bind(app.vault().key_id())
    .bind(Vec::<u8>::new())
    .bind(new.by)
    .bind(app.now())
    .fetch_one(write.sql())
    .await?;
    let webhook = Webhook::read(&row)?;
    let (secret, sealed) = new_secret(app, webhook.id);
    store_secret(write, webhook.id, &sealed).await?;
    Ok((webhook, secret))
}

/// A secret for a webhook, and how it is stored.
pub(super) fn new_secret(app: &App, id: i64) -> (Secret, Sealed) {
    let secret = Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(chance::bytes::<32>())));
    let sealed = app
        .vault()
        .seal(&webhook_aad(id), secret.expose().as_bytes(), chance::bytes());
    (secret, sealed)
}

pub(super) async fn store_secret(write: &mut Write, id: i64, sealed: &Sealed) -> Result<(), ApiError> {
    sqlx::query("UPDATE webhooks SET key_id = $1, sealed = $2 WHERE id = $3")
        .bind(&sealed.key_id)
        .bind(&sealed.bytes)
        .bind(id)
        .execute(write.sql())
        .await?;
    Ok(())
}

/// The URL in its normal form. Errors: 400 where nothing may be sent to.
pub(super) fn url_of(app: &App, url: &str) -> Result<String, ApiError> {
    if url.len() > 2000 {
        return Err(ApiError::field("url", "must not be longer than 2000 characters"));
    }
    let checked = check_url(url, &app.config().notify.allow);
    checked.map(String::from).map_err(|error| refused_url("url", &error))
}

/// The rules are those of provider keys, their list is another.
pub(crate) fn refused_url(field: &str, error: &EgressError) -> ApiError {
    let words = error
        .to_string()
        .replace("base URL", "URL")
        .replace("egress.allow", "notify.allow");
    let code = match error {
        EgressError::PrivateName(_) | EgressError::Address { .. } | EgressError::Plaintext => "url_forbidden",
        _ => "url_invalid",
    };
    ApiError::bad(code, format!("{field}: {words}"))
}

/// The list of events as it is stored.
pub(super) fn events_of(events: &[String]) -> Result<String, ApiError> {
    if events.is_empty() || events.len() > 50 {
        return Err(ApiError::field("events", "name 1 to 50"));
    }
    let known = |event: &str| match event.strip_suffix('*') {
        Some(start) => EVENTS.iter().any(|known| known.starts_with(start)),
        None => EVENTS.contains(&event),
    };
    match events.iter().find(|event| !known(event)) {
        Some(unknown) => {
            let all = EVENTS.join(", ");
            Err(ApiError::field(
                "events",
                format_args!("there is no '{unknown}'; there are {all}, and * at the end stands for the rest"),
            ))
        }
        None => serde_json::to_string(events).map_err(ApiError::internal),
    }
}

pub(super) fn description_of(text: &str) -> Result<String, ApiError> {
    if text.chars().count() > 200 || text.contains(char::is_control) {
        return Err(ApiError::field("description", "up to 200 characters are allowed"));
    }
    Ok(text.to_owned())
}
