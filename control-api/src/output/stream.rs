//! GET /api/remote/sessions/{id}/stream: a session as it happens, for any number of viewers, each with a cursor of its own.
//!
//! A viewer holds no database connection while nothing happens. The bell says "look"; what is sent is what the tables say.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use ace_policies::SessionId;
use ace_policies::access::Action;
use ace_policies::session::State as SessionState;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use utoipa::IntoParams;

use super::part;
use crate::App;
use crate::approvals;
use crate::body::{At, Params};
use crate::error::ApiError;
use crate::sessions::{Party, SessionRow, Totals, totals};
use crate::streams::Place;
use crate::visitor::Visitor;
use crate::wakeups::{Listening, Wakeup};
use crate::when::When;

/// How often a comment is sent while nothing happens, for those who wait in between.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How often it is looked at whether the viewer may still see this: they may have logged out, or lost the machine.
const RECHECK: Duration = Duration::from_secs(5);

/// How often the session's usage is looked up. Nobody rings for it: the gateway writes it.
const USAGE: Duration = Duration::from_secs(5);

/// Where to begin.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// The number of the last line that is known; the header `Last-Event-ID` says the same, and counts more. Left out: from the
    /// first line that is stored.
    after: Option<i64>,
}

/// Follows a session (server-sent events).
///
/// `output`: a line, with its number as the event's id. `approval`: a question of the CLI, as it stands now. `state`: how the session
/// is. `usage`: what it has used. The stream begins with `state`, `usage` and the questions that wait.
#[utoipa::path(get, path = "/api/remote/sessions/{id}/stream", tag = "sessions",
    params(("id" = String, Path), ("Last-Event-ID" = Option<i64>, Header), Query),
    responses((status = 200, content_type = "text/event-stream", body = String),
              (status = 400, body = crate::error::ErrorBody), (status = 404, body = crate::error::ErrorBody),
              (status = 429, body = crate::error::ErrorBody)))]
pub(super) async fn stream(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
    Params(query): Params<Query>,
    parts: Parts,
) -> Result<Response, ApiError> {
    let after = begin(&parts.headers, query.after)?;
    // Listening before looking: what happens in between is heard.
    let listening = app.wakeups().listen(Wakeup::Session(id));
    let party = Party::of(&app, &visitor, Action::SessionsRead, id).await?;
    let viewer = Viewer {
        _place: app.follow(visitor.actor.user)?,
        // One that claims to know more than there is has it from another database: it gets what comes.
        seq: after.min(party.row.last_seq),
        id,
        parts,
        listening,
        approvals_version: 0,
        waiting_since: Some(party.row.approvals_version),
        state: None,
        usage: None,
        checked_at: Instant::now(),
        usage_at: None,
        waiting: VecDeque::new(),
        over: false,
        app,
    };
    let events = Sse::new(viewer.events()).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE));
    let unbuffered = (
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(([unbuffered], events).into_response())
}

fn begin(headers: &HeaderMap, after: Option<i64>) -> Result<i64, ApiError> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let last = last.filter(|id| !id.is_empty()).map(str::parse::<i64>).transpose();
    let problem = || ApiError::bad("invalid_query", "after and Last-Event-ID: must be the number of a line");
    let seq = last.map_err(|_| problem())?.or(after).unwrap_or(0);
    if seq < 0 { Err(problem()) } else { Ok(seq) }
}

/// Somebody who follows.
struct Viewer {
    app: App,
    id: SessionId,
    /// Who asked, to ask again whether they may.
    parts: Parts,
    listening: Listening,
    /// The last line that was sent.
    seq: i64,
    /// Up to where approvals were sent.
    approvals_version: i64,
    /// While those that waited at the beginning are sent: how the session's `approvals_version` was then.
    waiting_since: Option<i64>,
    /// The state as it was sent last.
    state: Option<String>,
    usage: Option<Totals>,
    checked_at: Instant,
    usage_at: Option<Instant>,
    /// What is to be sent before anything else is looked for.
    waiting: VecDeque<Event>,
    _place: Place,
    /// Whether nothing comes after what waits.
    over: bool,
}

/// How a session is.
#[derive(Serialize)]
struct Shown<'a> {
    session_id: SessionId,
    status: SessionState,
    busy: bool,
    run: i64,
    error: Option<&'a str>,
    problem: Option<Value>,
    title: Option<&'a str>,
    model: Option<&'a str>,
    permission_mode: Option<&'a str>,
    paused_at: Option<When>,
    ended_at: Option<When>,
    /// The first line that is stored: a viewer that is behind it has missed what was forgotten.
    first_seq: i64,
}

impl Viewer {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, async |mut viewer| {
            let event = viewer.next().await?;
            Some((Ok(event), viewer))
        })
    }

    /// The next event; `None` ends the stream. A client that is still interested comes again, with the number of the last line it has.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            if let Err(error) = self.look().await {
                tracing::debug!(%error, session = %self.id, "a stream ends");
                return None;
            }
            if self.waiting.is_empty() && !self.over {
                let closing = self.app.closing().clone();
                tokio::select! {
                    () = closing.cancelled() => return None,
                    () = self.listening.next() => {}
                }
            }
        }
    }

    /// Takes up what has happened. Errors end the stream: what cannot be checked is not shown.
    async fn look(&mut self) -> Result<(), ApiError> {
        if self.checked_at.elapsed() >= RECHECK {
            self.recheck().await?;
        }
        let Some(row) = self.row().await? else {
            let gone = serde_json::json!({ "session_id": self.id, "status": "deleted" });
            self.waiting.push_back(event("state", &gone)?);
            self.over = true;
            return Ok(());
        };
        self.look_at_state(&row)?;
        self.look_at_usage().await?;
        self.look_at_approvals(&row).await?;
        self.look_at_output(&row).await
    }

    /// Whether the viewer is still logged in and may still see the session.
    async fn recheck(&mut self) -> Result<(), ApiError> {
        let visitor = Visitor::from_request_parts(&mut self.parts, &self.app).await?;
        Party::of(&self.app, &visitor, Action::SessionsRead, self.id).await?;
        self.checked_at = Instant::now();
        Ok(())
    }

    async fn row(&self) -> Result<Option<SessionRow>, ApiError> {
        let row = sqlx::query("SELECT * FROM agent_sessions WHERE session_id = $1")
            .bind(self.id.to_string())
            .fetch_optional(&self.app.db().read)
            .await?;
        row.as_ref().map(SessionRow::read).transpose()
    }

    fn look_at_state(&mut self, row: &SessionRow) -> Result<(), ApiError> {
        let shown = Shown {
            session_id: row.id,
            status: row.status,
            busy: row.busy,
            run: row.run,
            error: row.error.as_deref(),
            problem: row
                .problem
                .as_deref()
                .and_then(|problem| serde_json::from_str(problem).ok()),
            title: row.title.as_deref(),
            model: row.model.as_deref(),
            permission_mode: row.permission_mode.as_deref(),
            paused_at: row.paused_at.map(When),
            ended_at: row.ended_at.map(When),
            first_seq: row.first_seq,
        };
        let state = serde_json::to_string(&shown).map_err(ApiError::internal)?;
        if self.state.as_ref() != Some(&state) {
            self.waiting.push_back(Event::default().event("state").data(&state));
            self.state = Some(state);
        }
        Ok(())
    }

    async fn look_at_usage(&mut self) -> Result<(), ApiError> {
        if self.usage_at.is_some_and(|at| at.elapsed() < USAGE) {
            return Ok(());
        }
        self.usage_at = Some(Instant::now());
        let usage = totals(&self.app, &[self.id])
            .await?
            .remove(&self.id)
            .unwrap_or_default();
        if self.usage.as_ref() != Some(&usage) {
            self.waiting.push_back(event("usage", &usage)?);
            self.usage = Some(usage);
        }
        Ok(())
    }

    /// First those that wait, then whatever changes: some at a time, for all of them may be much.
    async fn look_at_approvals(&mut self, row: &SessionRow) -> Result<(), ApiError> {
        let begins = self.waiting_since.is_some();
        if !begins && self.approvals_version >= row.approvals_version {
            return Ok(());
        }
        let (approvals, more) = approvals::after(&self.app, self.id, self.approvals_version, begins).await?;
        for approval in &approvals {
            self.waiting.push_back(event("approval", approval)?);
        }
        let newest = approvals.last().map_or(0, |approval| approval.version);
        self.approvals_version = match self.waiting_since {
            _ if more => newest,
            // In more than one step: what was answered meanwhile is sent again, as it is now.
            Some(then) if self.approvals_version > 0 => then,
            // Some may have changed since the row was read: they are not sent again.
            _ => newest.max(row.approvals_version),
        };
        if !more {
            self.waiting_since = None;
        }
        Ok(())
    }

    async fn look_at_output(&mut self, row: &SessionRow) -> Result<(), ApiError> {
        if row.last_seq <= self.seq {
            return Ok(());
        }
        let lines = part::after(&self.app, self.id, self.seq, part::STEP).await?;
        for line in &lines {
            let event = event("output", line)?.id(line.seq.to_string());
            self.waiting.push_back(event);
        }
        // Where nothing is stored any more, what was is not waited for.
        self.seq = lines.last().map_or(row.last_seq, |line| line.seq);
        Ok(())
    }
}

fn event(name: &str, data: &impl Serialize) -> Result<Event, ApiError> {
    let data = serde_json::to_string(data).map_err(ApiError::internal)?;
    Ok(Event::default().event(name).data(data))
}
