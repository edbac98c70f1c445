//! One person's stream: looks when something happened, holds nothing while it waits, and ends when its person may not look any more.

use std::collections::VecDeque;

use ace_policies::access::Role;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::sse::Event;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::requests::Requests;
use crate::App;
use crate::error::ApiError;
use crate::teller::Happened;
use crate::visitor::Visitor;
use crate::wakeups::{Listening, Wakeup};
use crate::when::When;

/// Events of one look.
const BATCH: i64 = 200;

/// How often is looked whether the person still may: their login may have been revoked.
const CHECK_MS: i64 = 15_000;

/// How often a client hears how far its stream has got when all that happened was not for it. It comes back with that place,
/// and not with one that has been cleared up since.
const PLACE_MS: i64 = 15_000;

pub(super) struct Feed {
    app: App,
    visitor: Visitor,
    /// The request, by which the visitor is known again.
    parts: Parts,
    bell: Listening,
    /// The last event that was looked at, whether or not it was for this person.
    at: i64,
    /// The last one that the client knows of, and when it was told.
    told: i64,
    told_at: i64,
    checked_at: i64,
    requests: Option<Requests>,
    waiting: VecDeque<Event>,
}

/// What a stream says of an event.
#[derive(Serialize)]
struct Said {
    kind: String,
    at: When,
    tenant_id: i64,
    user_id: Option<i64>,
    machine_id: Option<String>,
    session_id: Option<String>,
    data: Value,
}

impl Feed {
    /// Begins after an event, or now.
    pub async fn open(
        app: App,
        visitor: Visitor,
        parts: Parts,
        after: Option<i64>,
        requests: bool,
    ) -> Result<Self, ApiError> {
        // Listen first, then look: what happens in between rings.
        let bell = app.wakeups().listen(Wakeup::Events);
        let (oldest, newest) = bounds(&app).await?;
        // An id that is yet to come is of another database.
        let missed = after.is_some_and(|after| after > newest || after + 1 < oldest);
        let at = if missed { newest } else { after.unwrap_or(newest) };
        let requests = match requests && visitor.actor.role == Role::Admin {
            true => Some(Requests::open(&app).await?),
            false => None,
        };
        let ready = event("ready", &json!({ "missed": missed }))?.id(at.to_string());
        Ok(Self {
            checked_at: app.now(),
            told: at,
            told_at: app.now(),
            app,
            visitor,
            parts,
            bell,
            at,
            requests,
            waiting: VecDeque::from([ready]),
        })
    }

    /// The next event; `None` ends the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if let Err(error) = self.look().await {
                // The client comes back with the last id it has seen.
                tracing::debug!(%error, "a live stream ended");
                return None;
            }
            if self.waiting.is_empty() {
                tokio::select! {
                    () = self.app.closing().cancelled() => return None,
                    () = self.bell.next() => {}
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), ApiError> {
        self.check().await?;
        self.look_at_events().await?;
        self.tell_place();
        if let Some(requests) = &mut self.requests {
            requests.look(&self.app, &mut self.waiting).await?;
        }
        Ok(())
    }

    /// Each event is looked at once, also those that are others'. Ids are given out under a lock that is held until they can be
    /// seen, so nothing appears below one that was seen.
    async fn look_at_events(&mut self) -> Result<(), ApiError> {
        let top = sqlx::query_scalar("SELECT COALESCE(MAX(id), 0) FROM events");
        let top: i64 = top.fetch_one(&self.app.db().read).await?;
        if top <= self.at {
            return Ok(());
        }
        let rows = self.rows(top).await?;
        self.at = top;
        for row in &rows {
            let happened = Happened::read(row)?;
            (self.told, self.told_at) = (happened.id, self.app.now());
            self.waiting.push_back(said(happened)?);
        }
        if i64::try_from(rows.len()).is_ok_and(|rows| rows >= BATCH) {
            // There may be more of them.
            self.at = self.told;
        }
        Ok(())
    }

    /// An id without data moves a client's place; it is no event to it.
    fn tell_place(&mut self) {
        let now = self.app.now();
        if self.at > self.told && now - self.told_at >= PLACE_MS {
            (self.told, self.told_at) = (self.at, now);
            self.waiting.push_back(Event::default().id(self.at.to_string()));
        }
    }

    /// Asks now and then whether the visitor is still one.
    async fn check(&mut self) -> Result<(), ApiError> {
        if self.app.now() - self.checked_at < CHECK_MS {
            return Ok(());
        }
        let again = Visitor::from_request_parts(&mut self.parts, &self.app).await?;
        if again.actor.role != self.visitor.actor.role {
            return Err(ApiError::unauthenticated());
        }
        self.checked_at = self.app.now();
        Ok(())
    }

    /// A user sees what is theirs, and machines that they are assigned to; a machine's admins also the sessions on it.
    async fn rows(&self, top: i64) -> Result<Vec<AnyRow>, ApiError> {
        let actor = &self.visitor.actor;
        let sql = match actor.role {
            Role::Admin => {
                "SELECT * FROM events WHERE id > $1 AND id <= $4 AND (kind <> 'notification.created' OR user_id = $2)
                 ORDER BY id LIMIT $3"
            }
            Role::User => {
                "SELECT * FROM events WHERE id > $1 AND id <= $4 AND tenant_id = $5 AND (user_id = $2
                    OR kind <> 'notification.created' AND EXISTS
                        (SELECT 1 FROM machine_assignments WHERE machine_assignments.machine_id = events.machine_id
                         AND machine_assignments.user_id = $2
                         AND (events.session_id IS NULL OR machine_assignments.permission = 'admin')))
                 ORDER BY id LIMIT $3"
            }
        };
        let query = sqlx::query(sql).bind(self.at).bind(actor.user.0).bind(BATCH).bind(top);
        let query = match actor.role {
            Role::Admin => query,
            Role::User => query.bind(actor.tenant.0),
        };
        Ok(query.fetch_all(&self.app.db().read).await?)
    }
}

/// The ids of the oldest event that is kept, and of the newest; 0 where there is none.
async fn bounds(app: &App) -> Result<(i64, i64), ApiError> {
    // Each in a query of its own: asked for together, SQLite reads the whole table.
    let row = sqlx::query(
        "SELECT COALESCE((SELECT MIN(id) FROM events), 0) AS oldest, COALESCE((SELECT MAX(id) FROM events), 0) AS newest",
    )
    .fetch_one(&app.db().read)
    .await?;
    Ok((row.try_get("oldest")?, row.try_get("newest")?))
}

fn said(happened: Happened) -> Result<Event, ApiError> {
    let topic = happened.kind.split('.').next().unwrap_or_default().to_owned();
    let said = Said {
        kind: happened.kind,
        at: When(happened.at),
        tenant_id: happened.tenant.0,
        user_id: happened.user.map(|user| user.0),
        machine_id: happened.machine.map(|machine| machine.to_string()),
        session_id: happened.session.map(|session| session.to_string()),
        data: happened.data,
    };
    Ok(event(&topic, &said)?.id(happened.id.to_string()))
}

pub(super) fn event(topic: &str, data: &impl Serialize) -> Result<Event, ApiError> {
    Event::default()
        .event(topic)
        .json_data(data)
        .map_err(ApiError::internal)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use ace_policies::UserId;
    use ace_policies::edge::EdgeHeaders;
    use axum::http::Request;
    use serde_json::json;

    use super::*;
    use crate::teller::tests::happens;
    use crate::testing::{World, worlds};

    async fn feed_of(world: &World, user: UserId, after: i64) -> Feed {
        let cookie = world.logged_in(user).await.header("cookie").to_owned();
        let request = Request::get("/api/live")
            .header("host", "ace.test")
            .header("cookie", cookie);
        let edge = EdgeHeaders {
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            scheme: "http".to_owned(),
            host: "ace.test".to_owned(),
            request_id: "r".to_owned(),
            time: 0,
        };
        let (mut parts, ()) = request.extension(edge).body(()).unwrap().into_parts();
        let visitor = Visitor::from_request_parts(&mut parts, &world.app).await.unwrap();
        let mut feed = Feed::open(world.app.clone(), visitor, parts, Some(after), false)
            .await
            .unwrap();
        feed.waiting.clear();
        feed
    }

    #[tokio::test]
    async fn what_is_others_is_looked_at_once() {
        for world in worlds().await {
            let alice = world.add_user("alice").await;
            let mut feed = feed_of(&world, alice, 0).await;
            for _ in 0..3 {
                happens(&world.app, "machine.online", None, None, None, json!({})).await;
            }
            feed.look().await.unwrap();
            assert_eq!((feed.at, feed.waiting.len()), (3, 0));
            world.clock.advance(Duration::from_millis(PLACE_MS.unsigned_abs()));
            feed.look().await.unwrap();
            feed.look().await.unwrap();
            assert_eq!(feed.waiting.len(), 1, "the client hears its place, once");
            let place = format!("{:?}", feed.waiting[0]);
            assert!(place.contains("id: 3") && !place.contains("data"), "{place}");
        }
    }

    #[tokio::test]
    async fn more_than_one_look_takes_comes_in_order_and_whole() {
        for world in worlds().await {
            let alice = world.add_user("alice").await;
            let mut feed = feed_of(&world, alice, 0).await;
            for _ in 0..BATCH + 1 {
                happens(&world.app, "quota.threshold", Some(alice), None, None, json!({})).await;
            }
            happens(&world.app, "machine.online", None, None, None, json!({})).await;
            feed.look().await.unwrap();
            assert_eq!((feed.at, feed.waiting.len()), (BATCH, 200));
            feed.look().await.unwrap();
            assert_eq!((feed.at, feed.waiting.len()), (BATCH + 2, 201));
        }
    }
}
