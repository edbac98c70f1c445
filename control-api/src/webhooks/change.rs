//! PATCH and DELETE /api/webhooks/{id}.

use ace_policies::Secret;
use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::create::{description_of, events_of, new_secret, store_secret, url_of};
use super::{One, Webhook, lock};
use crate::App;
use crate::body::{At, Body};
use crate::error::ApiError;
use crate::login::Done;
use crate::visitor::Visitor;
use crate::when::When;
use crate::write::Write;

/// What to change; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Changes {
    url: Option<String>,
    events: Option<Vec<String>>,
    description: Option<String>,
    /// Switching it on again forgets that it failed; what was not delivered meanwhile is delivered then.
    is_active: Option<bool>,
    /// Makes a new secret, which the answer has in it. The old one signs nothing any more.
    #[serde(default)]
    rotate_secret: bool,
}

/// What the audit log keeps of the changes.
#[derive(Serialize)]
struct Recorded<'a> {
    #[serde(flatten)]
    webhook: &'a Webhook,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rotated: bool,
}

/// Changes a webhook, switches it on or off, or rotates its secret.
#[utoipa::path(patch, path = "/api/webhooks/{id}", tag = "webhooks", params(("id" = i64, Path)), request_body = Changes,
    responses((status = 200, body = One), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn update(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<i64>,
    Body(changes): Body<Changes>,
) -> Result<Json<One>, ApiError> {
    let permit = visitor
        .permit(&app, Action::WebhooksUpdate, &Standing::default())
        .await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let (before, _) = lock(write.sql(), id).await?;
    let after = apply(&app, &before, &changes)?;
    store(&mut write, &after).await?;
    let secret = match changes.rotate_secret {
        true => Some(rotate(&app, &mut write, id).await?),
        false => None,
    };
    let recorded = Recorded {
        webhook: &after,
        rotated: secret.is_some(),
    };
    write
        .target(format_args!("webhook:{id}"))
        .before(&before)?
        .after(&recorded)?;
    write.commit().await?;
    app.deliveries().notify_one();
    Ok(Json(One {
        success: true,
        webhook: after,
        secret: secret.map(|secret| secret.expose().to_owned()),
    }))
}

/// Deletes a webhook with its deliveries.
#[utoipa::path(delete, path = "/api/webhooks/{id}", tag = "webhooks", params(("id" = i64, Path)),
    responses((status = 200, body = Done), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn delete(State(app): State<App>, visitor: Visitor, At(id): At<i64>) -> Result<Json<Done>, ApiError> {
    let permit = visitor
        .permit(&app, Action::WebhooksUpdate, &Standing::default())
        .await?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let (before, _) = lock(write.sql(), id).await?;
    sqlx::query("DELETE FROM webhooks WHERE id = $1")
        .bind(id)
        .execute(write.sql())
        .await?;
    write.target(format_args!("webhook:{id}")).before(&before)?;
    write.commit().await?;
    Ok(Done::YES)
}

fn apply(app: &App, before: &Webhook, changes: &Changes) -> Result<Webhook, ApiError> {
    let mut after = before.clone();
    if let Some(url) = &changes.url {
        after.url = url_of(app, url)?;
    }
    if let Some(events) = &changes.events {
        events_of(events)?;
        after.events.clone_from(events);
    }
    if let Some(description) = &changes.description {
        after.description = description_of(description)?;
    }
    if let Some(is_active) = changes.is_active {
        after.is_active = is_active;
        after.failing_since = after.failing_since.filter(|_| !is_active);
        after.disabled_at = after.disabled_at.filter(|_| !is_active);
    }
    after.updated_at = When(app.now());
    Ok(after)
}

async fn store(write: &mut Write, webhook: &Webhook) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE webhooks SET url = $1, events = $2, description = $3, is_active = $4, failing_since = $5,
                             disabled_at = $6, updated_at = $7 WHERE id = $8",
    )
    .bind(&webhook.url)
    .bind(events_of(&webhook.events)?)
    .bind(&webhook.description)
    .bind(i64::from(webhook.is_active))
    .bind(webhook.failing_since.map(|at| at.0))
    .bind(webhook.disabled_at.map(|at| at.0))
    .bind(webhook.updated_at.0)
    .bind(webhook.id)
    .execute(write.sql())
    .await?;
    Ok(())
}

async fn rotate(app: &App, write: &mut Write, id: i64) -> Result<Secret, ApiError> {
    let (secret, sealed) = new_secret(app, id);
    store_secret(write, id, &sealed).await?;
    Ok(secret)
}
