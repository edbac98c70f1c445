//! Storing what a CLI printed: each line once, in order, without a gap, whoever restarts and whatever is sent twice.

use std::fmt::Write;

use ace_policies::wire::{Data, Line, Stream};
use ace_policies::{MachineId, SessionId};
use sqlx::{AssertSqlSafe, Row};

use super::messages;
use crate::error::ApiError;
use crate::record::Record;
use crate::sessions::{self, SessionRow};
use crate::wakeups::Wakeup;

/// How many lines one statement takes. Only these numbers, so that few statements are prepared.
const ROWS: [usize; 4] = [512, 64, 8, 1];

/// Of what is over the limit of a session this much more is dropped, so that not every line drops another.
const DROP_STEP: i64 = 16;

/// How many lines are looked at at once to find those to drop.
const DROP_LINES: i64 = 4_096;

/// Stores the lines of a session that are not stored yet, and returns the number of the last line that is: what the agent may forget.
///
/// Lines must come in the order of their numbers. Those up to the last stored one are skipped; what comes after a gap is not stored, and
/// the number returned makes the agent fall back. Locks the session. Errors: 404 where there is none, 403 where it is another machine's.
pub(crate) async fn append(
    record: &mut Record,
    session: SessionId,
    machine: MachineId,
    lines: &[Line],
) -> Result<i64, ApiError> {
    let row = locked(record, session, machine).await?;
    let begin = lines.partition_point(|line| line.seq <= row.last_seq);
    let new = lines.get(begin..).unwrap_or_default();
    let next = (row.last_seq + 1..).zip(new).take_while(|(seq, line)| *seq == line.seq);
    let new = new.get(..next.count()).unwrap_or_default();
    store(record, row, new).await
}

/// Stores lines of an agent that does not number them: each gets the next number. Returns the last.
pub(crate) async fn append_next(
    record: &mut Record,
    session: SessionId,
    machine: MachineId,
    lines: Vec<(Stream, Data)>,
) -> Result<i64, ApiError> {
    let row = locked(record, session, machine).await?;
    let at = record.app().now();
    let lines: Vec<Line> = (row.last_seq + 1..)
        .zip(lines)
        .map(|(seq, (stream, data))| Line { seq, stream, at, data })
        .collect();
    store(record, row, &lines).await
}

async fn locked(record: &mut Record, session: SessionId, machine: MachineId) -> Result<SessionRow, ApiError> {
    let row = sessions::lock(record, session).await?;
    let row = row.ok_or_else(|| ApiError::from(ace_policies::Denied::SessionNotFound))?;
    if row.machine == Some(machine) {
        return Ok(row);
    }
    Err(ApiError::forbidden(
        "not_this_machine",
        "the session is another machine's",
    ))
}

async fn store(record: &mut Record, row: SessionRow, lines: &[Line]) -> Result<i64, ApiError> {
    let Some(last) = lines.last() else {
        return Ok(row.last_seq);
    };
    let mut rest = lines;
    while !rest.is_empty() {
        let rows = ROWS.into_iter().find(|rows| *rows <= rest.len()).unwrap_or(1);
        let (now, later) = rest.split_at(rows);
        insert(record, row.id, now).await?;
        rest = later;
    }
    let said = messages::note(record, row.id, lines).await?;
    let bytes = lines.iter().map(|line| length(line.data.0.len())).sum::<i64>();
    let stored = Stored {
        first: if row.first_seq == 0 {
            lines[0].seq
        } else {
            row.first_seq
        },
        last: last.seq,
        bytes: row.output_bytes + bytes,
    };
    let kept = drop_oldest(record, row.id, stored).await?;
    update(record, row.id, &kept, said).await?;
    record.ring(Wakeup::Session(row.id));
    Ok(last.seq)
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

async fn insert(record: &mut Record, session: SessionId, lines: &[Line]) -> Result<(), ApiError> {
    let query = sqlx::query(AssertSqlSafe(statement(lines.len()))).bind(session.to_string());
    let query = lines.iter().fold(query, |query, line| {
        query
            .bind(line.seq)
            .bind(line.stream.as_str())
            .bind(line.data.0.as_slice())
            .bind(line.at)
    });
    query.execute(record.sql()).await?;
    Ok(())
}

fn statement(rows: usize) -> String {
    let mut sql = "INSERT INTO session_output (session_id, seq, stream, data, at) VALUES ".to_owned();
    for row in 0..rows {
        let (comma, first) = (if row == 0 { "" } else { ", " }, 2 + row * 4);
        let [seq, stream, data, at] = [first, first + 1, first + 2, first + 3];
        write!(sql, "{comma}($1, ${seq}, ${stream}, ${data}, ${at})").expect("writing to a String cannot fail");
    }
    sql
}

/// The part of a session's output that is stored.
struct Stored {
    first: i64,
    last: i64,
    bytes: i64,
}

/// Drops the oldest lines of a session that has more than it may. The last line always stays.
async fn drop_oldest(record: &mut Record, session: SessionId, stored: Stored) -> Result<Stored, ApiError> {
    let limit = record.app().config().session_output_bytes;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    if stored.bytes <= limit {
        return Ok(stored);
    }
    let kept = limit - limit / DROP_STEP;
    let mut left = stored;
    while left.bytes > kept && left.first < left.last {
        let before = left.first;
        left = drop_some(record, session, left, kept).await?;
        if left.first == before {
            break;
        }
    }
    sqlx::query("DELETE FROM session_output WHERE session_id = $1 AND seq < $2")
        .bind(session.to_string())
        .bind(left.first)
        .execute(record.sql())
        .await?;
    Ok(left)
}

/// Counts off the lines that are to go.
async fn drop_some(record: &mut Record, session: SessionId, mut stored: Stored, kept: i64) -> Result<Stored, ApiError> {
    let lengths = sqlx::query(AssertSqlSafe(format!(
        "SELECT seq, LENGTH(data) FROM session_output WHERE session_id = $1 AND seq >= $2 AND seq < $3
         ORDER BY seq LIMIT {DROP_LINES}"
    )))
    .bind(session.to_string())
    .bind(stored.first)
    .bind(stored.last)
    .fetch_all(record.sql())
    .await?;
    for row in lengths {
        if stored.bytes <= kept {
            break;
        }
        stored.first = row.try_get::<i64, _>(0)? + 1;
        stored.bytes -= integer(&row, 1)?;
    }
    Ok(stored)
}

/// What LENGTH is: INTEGER on PostgreSQL, as wide as needed on SQLite.
pub(crate) fn integer(row: &sqlx::any::AnyRow, column: usize) -> Result<i64, sqlx::Error> {
    let narrow = || row.try_get::<i32, _>(column).map(i64::from);
    row.try_get::<i64, _>(column).or_else(|_| narrow())
}

async fn update(record: &mut Record, session: SessionId, stored: &Stored, said: i64) -> Result<(), ApiError> {
    sqlx::query(
        "UPDATE agent_sessions SET first_seq = $1, last_seq = $2, output_bytes = $3, message_count = message_count + $4,
                updated_at = $5, forgotten_at = NULL WHERE session_id = $6",
    )
    .bind(stored.first)
    .bind(stored.last)
    .bind(stored.bytes)
    .bind(said)
    .bind(record.app().now())
    .bind(session.to_string())
    .execute(record.sql())
    .await?;
    Ok(())
}
