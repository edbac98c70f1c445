//! What sessions have used: read from the gateway's sums, never stored here.

use std::collections::HashMap;
use std::fmt::Write;

use ace_policies::SessionId;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Row};
use utoipa::ToSchema;

use crate::App;
use crate::error::ApiError;
use crate::usage::usd;

/// What a session has used so far.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct Totals {
    pub total_tokens: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    pub cache_read_tokens: i64,
    pub cache_write_tokens: i64,
    /// US dollars, as a decimal.
    pub cost_usd: String,
    /// Requests to providers.
    pub request_count: i64,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            total_tokens: 0,
            input_tokens: 0,
            output_tokens: 0,
            cache_read_tokens: 0,
            cache_write_tokens: 0,
            cost_usd: usd(0),
            request_count: 0,
        }
    }
}

/// What each of some sessions has used; one that has used nothing is left out.
pub(crate) async fn totals(app: &App, sessions: &[SessionId]) -> Result<HashMap<SessionId, Totals>, ApiError> {
    if sessions.is_empty() {
        return Ok(HashMap::new());
    }
    let query = sqlx::query(AssertSqlSafe(sql(sessions.len())));
    let query = sessions.iter().fold(query, |query, id| query.bind(id.to_string()));
    let rows = query.fetch_all(&app.db().read).await?;
    let read = |row: &sqlx::any::AnyRow| {
        let id = row.try_get::<String, _>("session_id")?.parse();
        Ok((id.map_err(ApiError::internal)?, Totals::read(row)?))
    };
    rows.iter().map(read).collect()
}

/// Sums of BIGINT are NUMERIC on PostgreSQL, hence the casts.
fn sql(sessions: usize) -> String {
    let mut places = String::new();
    for place in 1..=sessions {
        let comma = if place == 1 { "" } else { ", " };
        write!(places, "{comma}${place}").expect("writing to a String cannot fail");
    }
    format!(
        "SELECT session_id, CAST(SUM(input_tokens) AS BIGINT) AS input_tokens,
                CAST(SUM(cache_read_tokens) AS BIGINT) AS cache_read_tokens,
                CAST(SUM(cache_write_5m_tokens + cache_write_1h_tokens) AS BIGINT) AS cache_write_tokens,
                CAST(SUM(output_tokens) AS BIGINT) AS output_tokens, CAST(SUM(requests) AS BIGINT) AS requests,
                CAST(SUM(cost_micro_usd) AS BIGINT) AS cost_micro_usd
         FROM usage_sessions WHERE session_id IN ({places}) GROUP BY session_id"
    )
}

impl Totals {
    fn read(row: &sqlx::any::AnyRow) -> Result<Self, sqlx::Error> {
        let (input_tokens, output_tokens) = (row.try_get("input_tokens")?, row.try_get("output_tokens")?);
        let (cache_read_tokens, cache_write_tokens) =
            (row.try_get("cache_read_tokens")?, row.try_get("cache_write_tokens")?);
        Ok(Self {
            total_tokens: input_tokens + cache_read_tokens + cache_write_tokens + output_tokens,
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
            cost_usd: usd(row.try_get("cost_micro_usd")?),
            request_count: row.try_get("requests")?,
        })
    }
}
