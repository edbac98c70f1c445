//! The request log as it is written. Gateways write it in groups and save them in any order, so that a row may appear below one that was
//! seen already: rows of the last seconds are looked at again.

use std::collections::{BTreeSet, VecDeque};

use axum::response::sse::Event;
use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::feed::event;
use crate::App;
use crate::error::ApiError;
use crate::when::When;

/// How long after a row another with a smaller id may still appear, in milliseconds.
const LAG_MS: i64 = 5_000;

/// Rows of one look. What is more is in the request log.
const BATCH: i64 = 500;

/// Where a stream has got to.
pub(super) struct Requests {
    /// Nothing appears at or below this id any more.
    floor: i64,
    /// What was told above it.
    told: BTreeSet<i64>,
    /// The greatest id at earlier looks, oldest first.
    looks: VecDeque<(i64, i64)>,
}

/// A request in a few words. No bodies.
#[derive(Serialize)]
struct Line {
    id: i64,
    request_id: String,
    started_at: When,
    tenant_id: i64,
    user_id: i64,
    username: Option<String>,
    session_id: Option<String>,
    machine_id: Option<String>,
    tool: String,
    provider: String,
    model: Option<String>,
    status: i64,
    error_kind: Option<String>,
    input_tokens: i64,
    cache_read_tokens: i64,
    cache_write_tokens: i64,
    output_tokens: i64,
    cost_micro_usd: i64,
    usage_source: String,
    streamed: bool,
    ttfb_ms: Option<i64>,
    duration_ms: i64,
    gateway_id: String,
}

impl Requests {
    /// Begins now.
    pub async fn open(app: &App) -> Result<Self, ApiError> {
        let row = sqlx::query("SELECT COALESCE(MAX(id), 0) FROM request_ledger")
            .fetch_one(&app.db().read)
            .await?;
        Ok(Self {
            floor: row.try_get(0)?,
            told: BTreeSet::new(),
            looks: VecDeque::new(),
        })
    }

    /// Adds what is new.
    pub async fn look(&mut self, app: &App, waiting: &mut VecDeque<Event>) -> Result<(), ApiError> {
        let rows = sqlx::query(
            "SELECT request_ledger.*, users.username FROM request_ledger LEFT JOIN users ON users.id = request_ledger.user_id
             WHERE request_ledger.id > $1 ORDER BY request_ledger.id DESC LIMIT $2",
        )
        .bind(self.floor)
        .bind(BATCH)
        .fetch_all(&app.db().read)
        .await?;
        for row in rows.iter().rev() {
            let line = Line::read(row)?;
            if self.told.insert(line.id) {
                waiting.push_back(event("request", &line)?);
            }
        }
        self.settle(app.now());
        Ok(())
    }

    /// Moves the floor up to where nothing can appear any more.
    fn settle(&mut self, now: i64) {
        if let Some(greatest) = self.told.last() {
            self.looks.push_back((now, *greatest));
        }
        while self.looks.front().is_some_and(|(at, _)| now - at >= LAG_MS) {
            if let Some((_, greatest)) = self.looks.pop_front() {
                self.floor = self.floor.max(greatest);
            }
        }
        self.told = self.told.split_off(&(self.floor + 1));
    }
}

impl Line {
    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let served: Option<String> = row.try_get("model_served")?;
        let asked: Option<String> = row.try_get("model_asked")?;
        let number = |column: &str| row.try_get::<i64, _>(column);
        Ok(Self {
            id: number("id")?,
            request_id: row.try_get("request_id")?,
            started_at: When(number("started_at")?),
            tenant_id: number("tenant_id")?,
            user_id: number("user_id")?,
            username: row.try_get("username")?,
            session_id: row.try_get("session_id")?,
            machine_id: row.try_get("machine_id")?,
            tool: row.try_get("tool")?,
            provider: row.try_get("provider")?,
            model: served.or(asked),
            status: number("status")?,
            error_kind: row.try_get("error_kind")?,
            input_tokens: number("input_tokens")?,
            cache_read_tokens: number("cache_read_tokens")?,
            cache_write_tokens: number("cache_write_5m_tokens")? + number("cache_write_1h_tokens")?,
            output_tokens: number("output_tokens")?,
            cost_micro_usd: number("cost_micro_usd")?,
            usage_source: row.try_get("usage_source")?,
            streamed: number("streamed")? != 0,
            ttfb_ms: row.try_get("ttfb_ms")?,
            duration_ms: number("duration_ms")?,
            gateway_id: row.try_get("gateway_id")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_appears_late_is_seen_and_one_that_was_told_is_not_told_again() {
        let mut requests = Requests {
            floor: 0,
            told: BTreeSet::from([2, 3]),
            looks: VecDeque::new(),
        };
        requests.settle(1_000);
        assert_eq!(requests.floor, 0, "1 may still come");
        requests.told.insert(9);
        requests.settle(5_999);
        assert_eq!((requests.floor, requests.told.len()), (0, 3));
        requests.settle(6_000);
        assert_eq!((requests.floor, &requests.told), (3, &BTreeSet::from([9])));
        requests.settle(12_000);
        assert_eq!((requests.floor, requests.told.len()), (9, 0));
    }
}
