//! The price table, as gateways read it. It is a file that an operator edits, not rows; here it is only shown.

use std::collections::BTreeMap;
use std::path::Path;

use ace_policies::access::{Action, Standing};
use ace_policies::price::{self, Price, PriceTable};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::error::ApiError;
use crate::visitor::Visitor;
use crate::when::When;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(prices))
}

/// All prices are US dollars for a million tokens, as decimal text.
#[derive(Serialize, ToSchema)]
struct Table {
    success: bool,
    /// The file that is configured, or `built-in`.
    source: String,
    /// What is wrong with the file, if anything. Then there are no prices here, and gateways keep those that they had.
    problems: Vec<String>,
    /// Provider by provider, those that win first, and the default last.
    prices: Vec<Listed>,
}

#[derive(Serialize, ToSchema)]
struct Listed {
    /// The name that the request log gives the price.
    id: String,
    provider: String,
    /// A model's name or a pattern; absent for a provider's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Whether it is for models that no other price is for.
    is_default: bool,
    /// From when on it is in force; absent: always.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<When>,
    /// The provider keys that it is for; of none, for all.
    key_ids: Vec<i64>,
    #[serde(flatten)]
    ordinary: Schedule,
    /// The prices of service tiers.
    tiers: BTreeMap<String, Schedule>,
}

#[derive(Serialize, ToSchema)]
struct Schedule {
    #[serde(flatten)]
    rates: Rates,
    /// Other prices for longer contexts, the longest first.
    above: Vec<Above>,
}

#[derive(Serialize, ToSchema)]
struct Above {
    /// They hold for requests with more input than this.
    input_tokens: u64,
    #[serde(flatten)]
    rates: Rates,
}

#[derive(Serialize, ToSchema)]
struct Rates {
    input: String,
    output: String,
    cache_read: String,
    cache_write_5m: String,
    cache_write_1h: String,
    audio_input: String,
    audio_output: String,
}

/// Shows what tokens cost.
#[utoipa::path(get, path = "/api/prices", tag = "usage", responses((status = 200, body = Table)))]
async fn prices(State(app): State<App>, visitor: Visitor) -> Result<Json<Table>, ApiError> {
    visitor.permit(&app, Action::PricesRead, &Standing::default()).await?;
    let file = app.config().price_file.as_ref();
    let source = file.map_or("built-in".to_owned(), |file| file.display().to_string());
    let (prices, problems) = match table(&app).await {
        Ok(table) => (table.iter().map(|price| Listed::of(price)).collect(), Vec::new()),
        Err(problems) => (Vec::new(), problems),
    };
    Ok(Json(Table {
        success: true,
        source,
        problems,
        prices,
    }))
}

/// The table that is in force. Errors: what is wrong with it.
pub(crate) async fn table(app: &App) -> Result<PriceTable, Vec<String>> {
    match &app.config().price_file {
        None => Ok(PriceTable::built_in()),
        Some(file) => read(file).await,
    }
}

async fn read(file: &Path) -> Result<PriceTable, Vec<String>> {
    let text = tokio::fs::read_to_string(file)
        .await
        .map_err(|error| vec![error.to_string()])?;
    PriceTable::parse(&text).map_err(|error| error.problems.iter().map(ToString::to_string).collect())
}

impl Listed {
    fn of(price: &Price) -> Self {
        let tier = |(name, schedule): (&str, &price::Schedule)| (name.to_owned(), Schedule::of(schedule));
        Self {
            id: price.id().to_owned(),
            provider: price.provider().to_string(),
            model: price.model().map(|model| model.as_str().to_owned()),
            is_default: price.is_default(),
            from: price.from_ms().map(When),
            key_ids: price.key_ids().iter().map(|key| key.0).collect(),
            ordinary: Schedule::of(price.ordinary()),
            tiers: price.tiers().map(tier).collect(),
        }
    }
}

impl Schedule {
    fn of(schedule: &price::Schedule) -> Self {
        let above = schedule.above.iter().map(|(input_tokens, rates)| Above {
            input_tokens: *input_tokens,
            rates: Rates::of(rates),
        });
        Self {
            rates: Rates::of(&schedule.base),
            above: above.collect(),
        }
    }
}

impl Rates {
    fn of(rates: &price::Rates) -> Self {
        Self {
            input: rates.input.to_string(),
            output: rates.output.to_string(),
            cache_read: rates.cache_read.to_string(),
            cache_write_5m: rates.cache_write_5m.to_string(),
            cache_write_1h: rates.cache_write_1h.to_string(),
            audio_input: rates.audio_input.to_string(),
            audio_output: rates.audio_output.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
