//! Pushes to browsers (Web Push): what the inbox holds, also where no page is open. Best effort: what cannot be pushed is in the inbox.

mod crypt;
mod key;
mod send;

use std::sync::Arc;
use std::time::Duration;

use ace_policies::ssrf::check_url;
use futures_util::{StreamExt, stream};
use serde_json::json;
use sqlx::Row;
use sqlx::any::AnyRow;
use url::Url;

use crate::App;
use crate::error::ApiError;
use crate::notifications::Stored;
use crate::outbound;
use send::{Attempt, Push, attempt};

pub(crate) use crypt::{AUTH_BYTES, Keys};
pub(crate) use key::public_key;

/// The pauses before a push service that was busy is asked again.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(15)];

/// The longest text in a push: services take 4 KiB, and screens much less.
const MAX_TEXT_CHARS: usize = 500;

/// A browser that wants to be told.
struct Subscription {
    id: i64,
    endpoint: String,
    keys: Keys,
    kinds: Option<Vec<String>>,
    is_private: bool,
}

/// Pushes notifications to the browsers of those whom they are for, beside what goes on.
pub(crate) fn send_soon(app: &App, stored: Vec<Stored>) {
    if stored.is_empty() {
        return;
    }
    let app = app.clone();
    tokio::spawn(async move {
        let closing = app.closing().clone();
        tokio::select! {
            () = closing.cancelled() => {}
            () = send_all(&app, &stored) => {}
        }
    });
}

/// Pushes them now.
pub(crate) async fn send_all(app: &App, stored: &[Stored]) {
    if let Err(error) = try_send_all(app, stored).await {
        tracing::warn!(%error, "notifications could not be pushed; they are in the inbox");
    }
}

async fn try_send_all(app: &App, stored: &[Stored]) -> Result<(), ApiError> {
    let mut due = Vec::new();
    for one in stored {
        for subscription in subscriptions(app, one).await? {
            let text = text(&subscription, one);
            due.push((subscription, text, one.notification.kind == "approval.requested"));
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    let notify = &app.config().notify;
    let client = outbound::client(&notify.allow, app.config().ca_pem.as_deref(), notify.timeout)?;
    let post = Arc::new(Post {
        app: app.clone(),
        client,
        key: key::open(app).await?,
    });
    let pushes = due
        .into_iter()
        .map(|(to, text, is_urgent)| push(post.clone(), to, text, is_urgent));
    let outcomes: Vec<_> = stream::iter(pushes).buffer_unordered(notify.parallel).collect().await;
    outcomes.into_iter().collect()
}

/// What every push goes out with.
struct Post {
    app: App,
    client: reqwest::Client,
    key: key::Key,
}

async fn subscriptions(app: &App, one: &Stored) -> Result<Vec<Subscription>, ApiError> {
    let rows = sqlx::query(
        "SELECT push_subscriptions.* FROM push_subscriptions JOIN users ON users.id = push_subscriptions.user_id
         WHERE user_id = $1 AND users.is_active = 1",
    )
    .bind(one.user.0)
    .fetch_all(&app.db().read)
    .await?;
    let all = rows.iter().map(Subscription::read).collect::<Result<Vec<_>, _>>()?;
    let wants = |subscription: &Subscription| match &subscription.kinds {
        Some(kinds) => kinds.iter().any(|kind| kind == one.notification.kind),
        None => true,
    };
    Ok(all.into_iter().filter(wants).collect())
}

impl Subscription {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let (p256dh, auth): (String, String) = (row.try_get("p256dh")?, row.try_get("auth")?);
        let kinds: Option<String> = row.try_get("kinds")?;
        Ok(Self {
            id: row.try_get("id")?,
            endpoint: row.try_get("endpoint")?,
            keys: Keys::parse(&p256dh, &auth).ok_or_else(|| ApiError::internal("a subscription's keys are damaged"))?,
            kinds: kinds
                .map(|kinds| serde_json::from_str(&kinds))
                .transpose()
                .map_err(ApiError::internal)?,
            is_private: row.try_get::<i64, _>("is_private")? != 0,
        })
    }
}

async fn push(post: Arc<Post>, to: Subscription, text: String, is_urgent: bool) -> Result<(), ApiError> {
    let Post { app, client, key } = &*post;
    // The rules may have changed since the browser subscribed.
    let Ok(endpoint) = check_url(&to.endpoint, &app.config().notify.allow) else {
        return note_failure(app, to.id).await;
    };
    let push = Push {
        endpoint,
        body: crypt::encrypt(&to.keys, text.as_bytes())?,
        is_urgent,
    };
    let mut pauses = PAUSES.iter();
    loop {
        let pause = pauses.next();
        match attempt(app, client, key, &push).await? {
            Attempt::Taken => return note_success(app, to.id).await,
            // The browser has taken its subscription back.
            Attempt::Gone => return forget(app, to.id).await,
            Attempt::Refused(reason) => {
                tracing::warn!(host = host(&push.endpoint), reason, "a push was refused");
                return note_failure(app, to.id).await;
            }
            Attempt::Later(reason) => match pause {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => {
                    tracing::warn!(host = host(&push.endpoint), reason, "a push could not be delivered");
                    return note_failure(app, to.id).await;
                }
            },
        }
    }
}

/// What the page's service worker shows. Links lead, they never authorise.
fn text(to: &Subscription, one: &Stored) -> String {
    let notification = &one.notification;
    let short = |text: &str| text.chars().take(MAX_TEXT_CHARS).collect::<String>();
    let (title, body) = match to.is_private {
        true => ("ACE Gateway".to_owned(), "There is something new.".to_owned()),
        false => (short(&notification.title), short(&notification.body)),
    };
    json!({
        "id": one.id,
        "kind": notification.kind,
        "title": title,
        "body": body,
        "target": notification.target,
    })
    .to_string()
}

fn host(endpoint: &Url) -> &str {
    endpoint.host_str().unwrap_or_default()
}

async fn note_success(app: &App, id: i64) -> Result<(), ApiError> {
    run(
        app,
        "UPDATE push_subscriptions SET failed_at = NULL WHERE id = $1 AND failed_at < $2",
        id,
    )
    .await
}

async fn note_failure(app: &App, id: i64) -> Result<(), ApiError> {
    run(app, "UPDATE push_subscriptions SET failed_at = $2 WHERE id = $1", id).await
}

async fn forget(app: &App, id: i64) -> Result<(), ApiError> {
    run(
        app,
        "DELETE FROM push_subscriptions WHERE id = $1 AND created_at <= $2",
        id,
    )
    .await
}

async fn run(app: &App, sql: &'static str, id: i64) -> Result<(), ApiError> {
    let mut record = app.record().await?;
    sqlx::query(sql).bind(id).bind(app.now()).execute(record.sql()).await?;
    record.commit().await
}

#[cfg(test)]
pub(crate) use crypt::tests as testing;

#[cfg(test)]
mod tests;
