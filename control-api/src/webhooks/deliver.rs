//! Delivers what is due: each webhook's one after another, several webhooks at once, again and again until it got through or has waited
//! too long. A node that dies with a delivery in hand leaves it due, so that another sends it, at the worst twice.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ace_policies::TenantId;
use serde_json::json;
use sqlx::Row;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::send::{Letter, Outcome, client, send};
use super::{Webhook, open, sealed};
use crate::App;
use crate::audit::{Entry, act};
use crate::error::ApiError;
use crate::notifications::{Notification, notify, system_admins};
use crate::push;

/// How often is looked although nothing was queued here: what other nodes queued, and what failed before.
const POLL: Duration = Duration::from_secs(2);

/// How long a delivery is in a node's hand, in milliseconds. Longer than any receiver may take.
const IN_HAND_MS: i64 = 60_000;

/// Deliveries to one webhook in one go; then others have their turn.
const TURN: usize = 50;

/// The pauses after each failure, in seconds, over about a day and a half. After the last one it is given up.
const PAUSES_S: [i64; 11] = [5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 21_600, 28_800, 43_200];

/// Delivers until the program ends.
pub(crate) async fn run(app: App) {
    let client = match client(&app) {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "webhooks cannot be delivered"),
    };
    let mut post = Post::new(app.clone(), client);
    loop {
        if let Err(error) = post.round().await {
            tracing::warn!(%error, "due webhook deliveries could not be read; they are looked for again");
        }
        tokio::select! {
            () = app.closing().cancelled() => break,
            () = app.deliveries().notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
    post.end().await;
}

/// The webhooks that are being served by this node.
pub(super) struct Post {
    app: App,
    client: reqwest::Client,
    busy: Arc<Mutex<HashSet<i64>>>,
    places: Arc<Semaphore>,
    turns: JoinSet<()>,
}

impl Post {
    pub fn new(app: App, client: reqwest::Client) -> Self {
        let parallel = app.config().notify.parallel;
        Self {
            app,
            client,
            busy: Arc::default(),
            places: Arc::new(Semaphore::new(parallel)),
            turns: JoinSet::new(),
        }
    }

    /// Gives each webhook with something due its turn, and does not wait for it to end.
    pub async fn round(&mut self) -> Result<(), ApiError> {
        while self.turns.try_join_next().is_some() {}
        let rows = sqlx::query(
            "SELECT DISTINCT webhook_id FROM webhook_deliveries
             WHERE state = 'due' AND due_at <= $1 AND webhook_id IN (SELECT id FROM webhooks WHERE is_active = 1)",
        )
        .bind(self.app.now())
        .fetch_all(&self.app.db().read)
        .await?;
        for row in rows {
            let webhook: i64 = row.try_get(0)?;
            if lock(&self.busy).insert(webhook) {
                self.turns.spawn(self.turn(webhook));
            }
        }
        Ok(())
    }

    /// Waits for all turns.
    pub async fn end(&mut self) {
        while self.turns.join_next().await.is_some() {}
    }

    fn turn(&self, webhook: i64) -> impl Future<Output = ()> + use<> {
        let (app, client) = (self.app.clone(), self.client.clone());
        let (busy, places) = (self.busy.clone(), self.places.clone());
        async move {
            let _place = places.acquire().await;
            for _ in 0..TURN {
                match deliver_next(&app, &client, webhook).await {
                    Ok(true) if !app.closing().is_cancelled() => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(webhook, %error, "a delivery could not be noted; it comes again");
                        break;
                    }
                }
            }
            lock(&busy).remove(&webhook);
        }
    }
}

fn lock(busy: &Mutex<HashSet<i64>>) -> std::sync::MutexGuard<'_, HashSet<i64>> {
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A delivery in hand.
struct Delivery {
    id: i64,
    event_id: String,
    event: String,
    body: String,
    attempts: i64,
}

/// Delivers the oldest that is due. False when there is none.
async fn deliver_next(app: &App, client: &reqwest::Client, webhook: i64) -> Result<bool, ApiError> {
    let Some(delivery) = claim(app, webhook).await? else {
        return Ok(false);
    };
    let row = sqlx::query("SELECT * FROM webhooks WHERE id = $1 AND is_active = 1")
        .bind(webhook)
        .fetch_optional(&app.db().read)
        .await?;
    let Some(row) = row else { return Ok(false) };
    let (url, secret) = (row.try_get::<String, _>("url")?, open(app, webhook, &sealed(&row)?)?);
    let letter = Letter {
        url: &url,
        secret: &secret,
        id: &delivery.event_id,
        event: &delivery.event,
        body: &delivery.body,
    };
    let outcome = send(app, client, &letter).await;
    settle(app, webhook, &delivery, &outcome).await?;
    Ok(true)
}

async fn claim(app: &App, webhook: i64) -> Result<Option<Delivery>, ApiError> {
    let now = app.now();
    let mut record = app.record().await?;
    // Asked twice: on PostgreSQL another node may have claimed the row while this one waited for its lock.
    let row = sqlx::query(
        "UPDATE webhook_deliveries SET due_at = $1, attempts = attempts + 1
         WHERE id = (SELECT id FROM webhook_deliveries WHERE webhook_id = $2 AND state = 'due' AND due_at <= $3
                     ORDER BY id LIMIT 1)
           AND state = 'due' AND due_at <= $3 RETURNING *",
    )
    .bind(now + IN_HAND_MS)
    .bind(webhook)
    .bind(now)
    .fetch_optional(record.sql())
    .await?;
    record.commit().await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Delivery {
        id: row.try_get("id")?,
        event_id: row.try_get("event_id")?,
        event: row.try_get("event")?,
        body: row.try_get("body")?,
        attempts: row.try_get("attempts")?,
    }))
}

async fn settle(app: &App, webhook: i64, delivery: &Delivery, outcome: &Outcome) -> Result<(), ApiError> {
    note(app, delivery, outcome).await?;
    match &outcome.error {
        None => works(app, webhook).await,
        Some(error) => fails(app, webhook, error).await,
    }
}

/// Writes down what came of an attempt, and when the next one is due.
async fn note(app: &App, delivery: &Delivery, outcome: &Outcome) -> Result<(), ApiError> {
    let now = app.now();
    let pause = usize::try_from(delivery.attempts - 1)
        .ok()
        .and_then(|failures| PAUSES_S.get(failures));
    let (state, due_at) = match (&outcome.error, pause) {
        (None, _) => ("sent", now),
        (Some(_), Some(pause)) => ("due", now + pause * 1000),
        (Some(_), None) => ("failed", now),
    };
    sqlx::query(
        "UPDATE webhook_deliveries SET state = $1, due_at = $2, sent_at = $3, last_status = $4, last_error = $5
         WHERE id = $6",
    )
    .bind(state)
    .bind(due_at)
    .bind(outcome.error.is_none().then_some(now))
    .bind(outcome.status.map(i64::from))
    .bind(&outcome.error)
    .bind(delivery.id)
    .execute(&app.db().write)
    .await?;
    Ok(())
}

async fn works(app: &App, webhook: i64) -> Result<(), ApiError> {
    sqlx::query("UPDATE webhooks SET failing_since = NULL WHERE id = $1 AND failing_since IS NOT NULL")
        .bind(webhook)
        .execute(&app.db().write)
        .await?;
    Ok(())
}

/// Notes since when nothing gets through, and switches the webhook off when that is too long.
async fn fails(app: &App, webhook: i64, error: &str) -> Result<(), ApiError> {
    let now = app.now();
    let row = sqlx::query(
        "UPDATE webhooks SET failing_since = COALESCE(failing_since, $1) WHERE id = $2 RETURNING failing_since",
    )
    .bind(now)
    .bind(webhook)
    .fetch_optional(&app.db().write)
    .await?;
    let since: i64 = match row {
        Some(row) => row.try_get(0)?,
        None => return Ok(()),
    };
    let patience = app.config().notify.webhook_patience.as_millis();
    if i128::from(now - since) < i128::try_from(patience).unwrap_or(i128::MAX) {
        return Ok(());
    }
    switch_off(app, webhook, error).await
}

async fn switch_off(app: &App, id: i64, error: &str) -> Result<(), ApiError> {
    let now = app.now();
    let mut write = app.write_as(Entry::system("ace-gateway", act::DISABLE_WEBHOOK)).await?;
    let row = sqlx::query(
        "UPDATE webhooks SET is_active = 0, disabled_at = $1, updated_at = $1 WHERE id = $2 AND is_active = 1 RETURNING *",
    )
    .bind(now)
    .bind(id)
    .fetch_optional(write.sql())
    .await?;
    let Some(row) = row else { return Ok(()) };
    let webhook = Webhook::read(&row)?;
    let admins = system_admins(write.sql()).await?;
    let tenant = TenantId(webhook.tenant_id);
    let stored = notify(write.record(), tenant, &admins, farewell(&webhook, error, now)).await?;
    write.target(format_args!("webhook:{id}")).after(&webhook)?;
    write.commit().await?;
    push::send_soon(app, stored);
    tracing::warn!(
        webhook = id,
        error,
        "a webhook was switched off: nothing got through for too long"
    );
    Ok(())
}

fn farewell(webhook: &Webhook, error: &str, now: i64) -> Notification {
    // The path of a URL may be a secret.
    let host = url::Url::parse(&webhook.url).ok();
    let host = host.as_ref().and_then(url::Url::host_str).unwrap_or("its receiver");
    Notification {
        kind: "webhook.disabled",
        title: format!("The webhook to {host} was switched off"),
        body: format!("Nothing has got through for days. The last time: {error}."),
        target: format!("webhook:{}", webhook.id),
        data: json!({ "webhook_id": webhook.id, "host": host, "error": error }),
        cause: format!("webhook:{}:{now}", webhook.id),
    }
}
