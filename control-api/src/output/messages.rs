//! The messages of a session: what people said, and what its CLI answered, read from the events that it prints.

use ace_policies::SessionId;
use ace_policies::access::Action;
use ace_policies::wire::{Line, Stream};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::{IntoParams, ToSchema};

use super::append::integer;
use super::part::Amount;
use crate::App;
use crate::body::{At, Params};
use crate::error::ApiError;
use crate::page::{self, Filter};
use crate::record::Record;
use crate::sessions::Party;
use crate::visitor::Visitor;
use crate::when::When;

/// The most text in one page. A single message may be larger.
const MOST_BYTES: i64 = 2_000_000;

/// Which messages are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// `user` or `assistant`.
    role: Option<String>,
    /// A part of the text, in whatever case.
    q: Option<String>,
    /// Only messages before this one: the `next` of the page before.
    before: Option<i64>,
    /// At most 500; 50 when left out.
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Page {
    success: bool,
    messages: Vec<Message>,
    /// Give it as `before` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// What was said.
#[derive(Serialize, ToSchema)]
pub(super) struct Message {
    pub id: i64,
    /// `user` or `assistant`.
    pub role: String,
    pub content: String,
    /// Who wrote it, for `user`.
    pub username: Option<String>,
    /// The command that carries it, for `user`.
    command_id: Option<String>,
    /// How far that has come: `queued`, `delivered`, `acked`, `done`, `failed` or `expired`.
    delivery: Option<String>,
    /// The line of output it comes from, for `assistant`.
    seq: Option<i64>,
    /// The last line that was stored when it was said, for `user`.
    #[serde(skip)]
    pub after_seq: i64,
    pub timestamp: When,
}

const SELECT: &str = "SELECT session_messages.*, users.username, agent_commands.state AS delivery FROM session_messages
    LEFT JOIN users ON users.id = session_messages.user_id
    LEFT JOIN agent_commands ON agent_commands.command_id = session_messages.command_id";

/// Those that are not forgotten: those are cleared in their time.
pub(super) const KEPT: &str = "session_messages.id > COALESCE((SELECT up_to_message FROM session_leftovers
    WHERE session_leftovers.session_id = session_messages.session_id), 0)";

const LENGTHS: &str = "SELECT session_messages.id, OCTET_LENGTH(session_messages.content) FROM session_messages";

/// In which order messages are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    NewestFirst,
    OldestFirst,
}

/// The first messages that a filter finds, no more than that many bytes, and whether there are more; one at least, where there is one.
/// Lengths are read first: messages may be large, and those that do not fit are not fetched.
pub(super) async fn some(
    app: &App,
    mut filter: Filter,
    order: Order,
    most: Amount,
) -> Result<(Vec<Message>, bool), ApiError> {
    let (sorted, edge) = match order {
        Order::NewestFirst => ("session_messages.id DESC", "session_messages.id >="),
        Order::OldestFirst => ("session_messages.id", "session_messages.id <="),
    };
    let pool = &app.db().read;
    let lengths = filter.page(pool, LENGTHS, sorted, most.lines).await?;
    let Some((count, last)) = that_fit(&lengths.rows, most.bytes)? else {
        return Ok((Vec::new(), false));
    };
    filter.and(edge, last);
    let found = filter.page(pool, SELECT, sorted, count).await?;
    let messages = found.rows.iter().map(Message::read).collect::<Result<_, _>>()?;
    let cut = usize::try_from(count).is_ok_and(|count| count < lengths.rows.len());
    Ok((messages, lengths.more || cut || found.more))
}

/// How many of the first rows fit, and the id of the last of them.
fn that_fit(lengths: &[AnyRow], most: i64) -> Result<Option<(i64, i64)>, ApiError> {
    let (mut fit, mut bytes) = (None, 0);
    for (row, count) in lengths.iter().zip(1..) {
        bytes += integer(row, 1)?;
        if fit.is_some() && bytes > most {
            break;
        }
        fit = Some((count, row.try_get(0)?));
    }
    Ok(fit)
}

/// Lists what was said in a session, the newest first, and at most about 2 MB of it at once: a page may be shorter than `limit`.
#[utoipa::path(get, path = "/api/remote/sessions/{id}/messages", tag = "sessions", params(("id" = String, Path), Query),
    responses((status = 200, body = Page), (status = 400, body = crate::error::ErrorBody),
              (status = 404, body = crate::error::ErrorBody)))]
pub(super) async fn list(
    State(app): State<App>,
    visitor: Visitor,
    At(id): At<SessionId>,
    Params(query): Params<Query>,
) -> Result<Json<Page>, ApiError> {
    Party::of(&app, &visitor, Action::SessionsRead, id).await?;
    if query
        .role
        .as_deref()
        .is_some_and(|role| !matches!(role, "user" | "assistant"))
    {
        return Err(ApiError::field("role", "must be user or assistant"));
    }
    let mut filter = Filter::default();
    filter
        .and("session_messages.session_id =", id.to_string().as_str())
        .and_if("session_messages.role =", query.role.as_deref())
        .and_if("session_messages.id <", query.before)
        .also(KEPT);
    if let Some(text) = query.q.as_deref().filter(|text| !text.is_empty()) {
        filter.holds("session_messages.content", text);
    }
    let most = Amount {
        bytes: MOST_BYTES,
        lines: page::limit(query.limit)?,
    };
    let (messages, more) = some(&app, filter, Order::NewestFirst, most).await?;
    let next = messages.last().filter(|_| more).map(|last| last.id);
    Ok(Json(Page {
        success: true,
        messages,
        next,
    }))
}

impl Message {
    pub fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            role: row.try_get("role")?,
            content: row.try_get("content")?,
            username: row.try_get("username")?,
            command_id: row.try_get("command_id")?,
            delivery: row.try_get("delivery")?,
            seq: row.try_get("seq")?,
            after_seq: row.try_get("after_seq")?,
            timestamp: When(row.try_get("at")?),
        })
    }
}

/// Stores what the CLI said in some lines. Returns how many messages that were.
pub(super) async fn note(record: &mut Record, session: SessionId, lines: &[Line]) -> Result<i64, ApiError> {
    let mut count = 0;
    for line in lines.iter().filter(|line| line.stream == Stream::Stdout) {
        let Some(text) = said(&line.data.0) else { continue };
        sqlx::query(
            "INSERT INTO session_messages (session_id, role, content, seq, at) VALUES ($1, 'assistant', $2, $3, $4)
             ON CONFLICT (session_id, seq) DO NOTHING",
        )
        .bind(session.to_string())
        .bind(text)
        .bind(line.seq)
        .bind(line.at)
        .execute(record.sql())
        .await?;
        count += 1;
    }
    Ok(count)
}

/// The text that an assistant's event carries; `None` for every other line, whatever it is.
fn said(line: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"\"assistant\"";
    // Most lines are something else: that is seen without reading them as JSON.
    if line.first() != Some(&b'{') || !line.windows(MARK.len()).any(|part| part == MARK) {
        return None;
    }
    let event: Value = serde_json::from_slice(line).ok()?;
    if event["type"] != "assistant" {
        return None;
    }
    let text = match &event["message"]["content"] {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts = blocks.iter().filter(|block| block["type"] == "text");
            let texts: Vec<&str> = texts.filter_map(|block| block["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => return None,
    };
    let text = text.replace('\0', "\u{fffd}");
    (!text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<&str>) {
        assert_eq!(said(line.as_bytes()).as_deref(), expected, "{line}");
    }

    #[test]
    fn only_what_an_assistant_says_is_a_message() {
        check(
            r#"{"type":"assistant","message":{"role":"assistant","content":[{"type":"thinking","thinking":"hm"},
                {"type":"text","text":"one"},{"type":"tool_use","name":"Bash","input":{}},{"type":"text","text":"two"}]}}"#,
            Some("one\ntwo"),
        );
        check(r#"{"type":"assistant","message":{"content":"plain"}}"#, Some("plain"));
        check(
            r#"{"type":"assistant","message":{"content":[{"type":"text","text":"a\u0000b"}]}}"#,
            Some("a\u{fffd}b"),
        );
        check(
            r#"{"type":"assistant","message":{"content":[{"type":"tool_use"}]}}"#,
            None,
        );
        check(r#"{"type":"user","message":{"role":"assistant","content":"x"}}"#, None);
        check(r#"{"type":"assistant""#, None);
        check(r#"["assistant"]"#, None);
        check("assistant: hello", None);
        check("", None);
    }
}
