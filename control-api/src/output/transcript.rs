//! GET /api/remote/sessions/{id}/transcript: the whole of a session as a file, written as it is read.

use std::collections::VecDeque;
use std::fmt::Write;

use ace_policies::SessionId;
use ace_policies::access::Action;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::messages::{self, Message, Order};
use super::part::{self, Amount, Line};
use crate::App;
use crate::body::{At, Params};
use crate::error::ApiError;
use crate::page::Filter;
use crate::sessions::{Party, SessionRow};
use crate::visitor::Visitor;
use crate::when::When;

/// How many messages are read at once.
const STEP: Amount = Amount {
    bytes: 256 << 10,
    lines: 100,
};

/// In which form a transcript is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// `jsonl` (the default): everything that was said and printed, a JSON object a line. `md`: the conversation, to read.
    #[serde(default)]
    format: Format,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Jsonl,
    Md,
}

/// Downloads a session: what was said, and in `jsonl` also what its CLI printed.
#[utoipa::path(get, path = "/api/remote/sessions/{id}/transcript", tag = "sessions", params(("id" = String, Path), Query),
    responses((status = 200, body = String), (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn transcript(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
    Params(query): Params<Query>,
) -> Result<Response, ApiError> {
    let party = Party::of(&app, &visitor, Action::SessionsRead, id).await?;
    let (ending, media_type) = match query.format {
        Format::Jsonl => ("jsonl", "application/jsonl"),
        Format::Md => ("md", "text/markdown; charset=utf-8"),
    };
    let disposition = format!("attachment; filename=\"session-{id}.{ending}\"");
    let body = match query.format {
        Format::Jsonl => Body::from_stream(stream::try_unfold(Everything::of(app, party.row), Everything::next)),
        Format::Md => Body::from_stream(stream::try_unfold(Conversation::of(app, party.row), Conversation::next)),
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    let disposition = HeaderValue::try_from(disposition).map_err(ApiError::internal)?;
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

/// Messages in their order, read some at a time.
struct Messages {
    app: App,
    session: SessionId,
    /// Only these; `None` is all.
    role: Option<&'static str>,
    after: i64,
    read: VecDeque<Message>,
    at_end: bool,
}

impl Messages {
    const fn of(app: App, session: SessionId, role: Option<&'static str>) -> Self {
        Self {
            app,
            session,
            role,
            after: 0,
            read: VecDeque::new(),
            at_end: false,
        }
    }

    /// The next message, which stays where it is.
    async fn peek(&mut self) -> Result<Option<&Message>, ApiError> {
        if self.read.is_empty() && !self.at_end {
            self.fill().await?;
        }
        Ok(self.read.front())
    }

    async fn next(&mut self) -> Result<Option<Message>, ApiError> {
        self.peek().await?;
        Ok(self.read.pop_front())
    }

    async fn fill(&mut self) -> Result<(), ApiError> {
        let mut filter = Filter::default();
        filter
            .and("session_messages.session_id =", self.session.to_string().as_str())
            .and("session_messages.id >", self.after)
            .and_if("session_messages.role =", self.role)
            .also(messages::KEPT);
        let (read, more) = messages::some(&self.app, filter, Order::OldestFirst, STEP).await?;
        self.read = read.into();
        self.after = self.read.back().map_or(self.after, |last| last.id);
        self.at_end = !more;
        Ok(())
    }
}

/// What was said and printed, in the order in which it came here: lines have the times of their machine's clock, which may be wrong.
struct Everything {
    app: App,
    session: SessionId,
    head: Option<String>,
    /// Those of people; what the CLI said is in its output.
    messages: Messages,
    seq: i64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Entry<'a> {
    Session {
        session_id: SessionId,
        title: Option<&'a str>,
        cli_tool: &'a str,
        model: Option<&'a str>,
        machine_name: &'a str,
        project_path: &'a str,
        created_at: When,
    },
    Message(&'a Message),
    Output(&'a Line),
}

impl Entry<'_> {
    fn line(&self) -> Result<String, ApiError> {
        let mut line = serde_json::to_string(self).map_err(ApiError::internal)?;
        line.push('\n');
        Ok(line)
    }
}

impl Everything {
    fn of(app: App, row: SessionRow) -> Self {
        let head = Entry::Session {
            session_id: row.id,
            title: row.title.as_deref(),
            cli_tool: &row.cli_tool,
            model: row.model.as_deref(),
            machine_name: &row.machine_name,
            project_path: &row.project_path,
            created_at: When(row.created_at),
        };
        Self {
            head: head.line().ok(),
            messages: Messages::of(app.clone(), row.id, Some("user")),
            app,
            session: row.id,
            seq: 0,
        }
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, ApiError> {
        if let Some(head) = self.head.take() {
            return Ok(Some((head.into(), self)));
        }
        let lines = part::after(&self.app, self.session, self.seq, part::STEP).await?;
        let mut text = String::new();
        for line in &lines {
            while self
                .messages
                .peek()
                .await?
                .is_some_and(|message| message.after_seq < line.seq)
            {
                self.said(&mut text).await?;
            }
            text.push_str(&Entry::Output(line).line()?);
            self.seq = line.seq;
        }
        if lines.is_empty() {
            self.said(&mut text).await?;
        }
        Ok((!text.is_empty()).then(|| (text.into(), self)))
    }

    async fn said(&mut self, text: &mut String) -> Result<(), ApiError> {
        if let Some(message) = self.messages.next().await? {
            text.push_str(&Entry::Message(&message).line()?);
        }
        Ok(())
    }
}

/// What was said, to read.
struct Conversation {
    head: Option<String>,
    cli_tool: String,
    messages: Messages,
}

impl Conversation {
    fn of(app: App, row: SessionRow) -> Self {
        let title = row.title.as_deref().unwrap_or("Session");
        let mut head = format!("# {title}\n\n");
        let facts = [
            ("Session", row.id.to_string()),
            ("Machine", row.machine_name.clone()),
            ("Project", row.project_path.clone()),
            ("CLI", row.cli_tool.clone()),
            ("Model", row.model.clone().unwrap_or_else(|| "the CLI's own".to_owned())),
            ("Begun", When(row.created_at).to_string()),
        ];
        for (name, value) in facts {
            writeln!(head, "- {name}: {value}").expect("writing to a String cannot fail");
        }
        Self {
            head: Some(head),
            cli_tool: row.cli_tool,
            messages: Messages::of(app, row.id, None),
        }
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, ApiError> {
        if let Some(head) = self.head.take() {
            return Ok(Some((head.into(), self)));
        }
        let Some(message) = self.messages.next().await? else {
            return Ok(None);
        };
        let who = match message.role.as_str() {
            "user" => message.username.as_deref().unwrap_or("user"),
            _ => &self.cli_tool,
        };
        let text = format!("\n## {who}, {}\n\n{}\n", message.timestamp, message.content.trim_end());
        Ok(Some((text.into(), self)))
    }
}
