//! Reading stored output: the newest part of it, or what lies after or before a line, never more than a bounded number of bytes.

use ace_policies::SessionId;
use ace_policies::wire::Data;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::append::integer;
use crate::App;
use crate::error::ApiError;
use crate::sessions::{Output, SessionRow};
use crate::when::When;

/// How much output is read at once.
#[derive(Clone, Copy)]
pub(super) struct Amount {
    /// Of data.
    pub bytes: i64,
    /// Empty lines weigh nothing.
    pub lines: i64,
}

/// The most output in one answer.
const MOST: Amount = Amount {
    bytes: 2_000_000,
    lines: 20_000,
};

/// What an answer that goes on and on reads at once.
pub(super) const STEP: Amount = Amount {
    bytes: 256 << 10,
    lines: 2_000,
};

/// A line of output.
#[derive(ToSchema)]
pub(crate) struct Line {
    /// Its number: 1 for a session's first, then one more each.
    pub seq: i64,
    /// What was printed, where it is text; else it is in `data_base64`.
    #[schema(value_type = Option<String>)]
    pub data: Data,
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    pub timestamp: When,
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_struct("Line", 4)?;
        line.serialize_field("seq", &self.seq)?;
        match str::from_utf8(&self.data.0) {
            Ok(text) => line.serialize_field("data", text)?,
            Err(_) => {
                use base64::{Engine, engine::general_purpose::STANDARD};
                line.serialize_field("data_base64", &STANDARD.encode(&self.data.0))?;
            }
        }
        line.serialize_field("stream", &self.stream)?;
        line.serialize_field("timestamp", &self.timestamp)?;
        line.end()
    }
}

impl Line {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            seq: row.try_get("seq")?,
            data: Data(row.try_get("data")?),
            stream: row.try_get("stream")?,
            timestamp: When(row.try_get("at")?),
        })
    }
}

/// Which part of a session's output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Span {
    /// The first lines after this number.
    After(i64),
    /// The last lines before this number.
    Before(i64),
}

/// A query for the lines of a session, $1, that are not forgotten: those are cleared in their time.
macro_rules! kept {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            "seq >= (SELECT first_seq FROM agent_sessions WHERE agent_sessions.session_id = $1 AND first_seq > 0)",
            $rest
        )
    };
}

/// Reads a part of a session's output.
pub(crate) async fn part(app: &App, row: &SessionRow, span: Span) -> Result<Output, ApiError> {
    let output = match span {
        Span::After(seq) => after(app, row.id, seq, MOST).await?,
        Span::Before(seq) => before(app, row.id, seq).await?,
    };
    let (first, last) = (output.first().map(|line| line.seq), output.last().map(|line| line.seq));
    let (had_before, has_more) = match span {
        Span::After(seq) => (
            row.first_seq > 0 && seq >= row.first_seq,
            last.is_some_and(|last| last < row.last_seq),
        ),
        Span::Before(_) => (
            first.is_some_and(|first| first > row.first_seq),
            last.is_some_and(|last| last < row.last_seq),
        ),
    };
    Ok(Output {
        output,
        output_truncated: had_before,
        output_more: has_more,
        first_seq: row.first_seq,
    })
}

/// The first lines after a number, no more than this; one line at least, where there is one.
pub(super) async fn after(app: &App, session: SessionId, seq: i64, most: Amount) -> Result<Vec<Line>, ApiError> {
    let lengths = sqlx::query(kept!(
        "SELECT seq, LENGTH(data) FROM session_output WHERE session_id = $1 AND seq > $2 AND ",
        " ORDER BY seq LIMIT $3"
    ));
    let Some(last) = edge(app, lengths, session, seq, most).await? else {
        return Ok(Vec::new());
    };
    between(app, session, seq.saturating_add(1), last).await
}

async fn before(app: &App, session: SessionId, seq: i64) -> Result<Vec<Line>, ApiError> {
    let lengths = sqlx::query(kept!(
        "SELECT seq, LENGTH(data) FROM session_output WHERE session_id = $1 AND seq < $2 AND ",
        " ORDER BY seq DESC LIMIT $3"
    ));
    let Some(first) = edge(app, lengths, session, seq, MOST).await? else {
        return Ok(Vec::new());
    };
    between(app, session, first, seq.saturating_sub(1)).await
}

type Query = sqlx::query::Query<'static, sqlx::Any, sqlx::any::AnyArguments>;

/// The number of the line that is the last to fit. Lengths are read first: lines may be large, and those that do not fit are not fetched.
async fn edge(app: &App, lengths: Query, session: SessionId, seq: i64, most: Amount) -> Result<Option<i64>, ApiError> {
    let rows = lengths.bind(session.to_string()).bind(seq).bind(most.lines);
    let rows = rows.fetch_all(&app.db().read).await?;
    let (mut edge, mut bytes) = (None, 0);
    for row in &rows {
        bytes += integer(row, 1)?;
        if edge.is_some() && bytes > most.bytes {
            break;
        }
        edge = Some(row.try_get(0)?);
    }
    Ok(edge)
}

async fn between(app: &App, session: SessionId, first: i64, last: i64) -> Result<Vec<Line>, ApiError> {
    let rows = sqlx::query(kept!(
        "SELECT seq, data, stream, at FROM session_output WHERE session_id = $1 AND seq BETWEEN $2 AND $3 AND ",
        " ORDER BY seq"
    ))
    .bind(session.to_string())
    .bind(first)
    .bind(last)
    .fetch_all(&app.db().read)
    .await?;
    Ok(rows.iter().map(Line::read).collect::<Result<_, _>>()?)
}
