//! What was used: the request log, and sums of it. Read here, written by the gateway alone.

mod dimension;
mod requests;
mod source;
mod span;
mod sums;

use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sums::sums))
        .routes(routes!(requests::requests))
}

/// Tokens by class. The input classes are disjoint; reasoning is a part of output, audio of input and output.
#[derive(Serialize, ToSchema)]
struct Tokens {
    input_tokens: i64,
    cache_read_tokens: i64,
    cache_write_5m_tokens: i64,
    cache_write_1h_tokens: i64,
    output_tokens: i64,
    reasoning_tokens: i64,
    audio_input_tokens: i64,
    audio_output_tokens: i64,
    total_tokens: i64,
}

impl Tokens {
    /// The columns of tables that the tokens are read from.
    const COLUMNS: [&str; 8] = [
        "input_tokens",
        "cache_read_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "output_tokens",
        "reasoning_tokens",
        "audio_input_tokens",
        "audio_output_tokens",
    ];

    fn read(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let mut tokens = Self {
            input_tokens: row.try_get("input_tokens")?,
            cache_read_tokens: row.try_get("cache_read_tokens")?,
            cache_write_5m_tokens: row.try_get("cache_write_5m_tokens")?,
            cache_write_1h_tokens: row.try_get("cache_write_1h_tokens")?,
            output_tokens: row.try_get("output_tokens")?,
            reasoning_tokens: row.try_get("reasoning_tokens")?,
            audio_input_tokens: row.try_get("audio_input_tokens")?,
            audio_output_tokens: row.try_get("audio_output_tokens")?,
            total_tokens: 0,
        };
        let cached = tokens.cache_read_tokens + tokens.cache_write_5m_tokens + tokens.cache_write_1h_tokens;
        tokens.total_tokens = tokens.input_tokens + cached + tokens.output_tokens;
        Ok(tokens)
    }
}

/// US dollars as a decimal, made from millionths without a float in between.
pub(crate) fn usd(micro: i64) -> String {
    let (sign, micro) = (if micro < 0 { "-" } else { "" }, micro.unsigned_abs());
    format!("{sign}{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_11_money_is_never_a_float() {
        for (micro, text) in [
            (0, "0.000000"),
            (1, "0.000001"),
            (1_250_000, "1.250000"),
            (-5, "-0.000005"),
        ] {
            assert_eq!(usd(micro), text);
        }
        assert_eq!(usd(i64::MAX), "9223372036854.775807");
    }
}
