//! What a request costs: a table of prices by provider, model, key and date, and the arithmetic. Money is integers throughout.
//!
//! A price is a decimal text in US dollars for a million tokens; a cost is in millionths of a US dollar (micro-USD), rounded half
//! up once for each request. `conf/prices.toml` is the built-in table and explains the format.

mod parse;
mod pattern;
mod rate;
mod section;

use std::cmp::Reverse;
use std::sync::Arc;

use pattern::{Beginning, first_bytes};

pub use pattern::Pattern;
pub use rate::{Rate, Rates, Schedule};
pub use section::{PriceError, Problem};

use crate::usage::Usage;
use crate::{KeyId, Provider};

/// The built-in table as it is written.
pub const BUILT_IN: &str = include_str!("../../../conf/prices.toml");

/// What providers call their ordinary service, and how clients leave the choice to them.
const ORDINARY: [&str; 5] = ["default", "standard", "auto", "standard_only", "unspecified"];

/// Prices by provider, model, key and date.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PriceTable {
    /// By [`Provider::ALL`]; those that win first.
    prices: [Vec<(Beginning, Arc<Price>)>; 3],
    defaults: [Arc<Price>; 3],
}

impl PriceTable {
    /// Reads a table. The error tells everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PriceError> {
        parse::table(text)
    }

    /// The table that comes with the program.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test reads the built-in table")
    }

    /// The price of a request that began at `at_ms` (UTC milliseconds): the entry that names the key, else one that names none;
    /// of those the one with the closest pattern; of those the newest that is in force. Where there is none, the provider's
    /// default. Google's `models/` before a name does not count.
    pub fn price(&self, provider: Provider, model: Option<&str>, key: Option<KeyId>, at_ms: i64) -> &Arc<Price> {
        let model = model.map(|model| model.strip_prefix("models/").unwrap_or(model));
        let found = model.and_then(|model| {
            let first_bytes = first_bytes(model);
            let mut prices = self.prices[provider as usize].iter();
            prices.find(|(beginning, price)| beginning.fits(first_bytes) && price.is_for(model, key, at_ms))
        });
        found.map_or(&self.defaults[provider as usize], |(_, price)| price)
    }

    /// Every price, provider by provider, those that win first and the default last.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Price>> {
        let all = self.prices.iter().zip(&self.defaults);
        all.flat_map(|(prices, default)| prices.iter().map(|(_, price)| price).chain([default]))
    }

    fn new(mut prices: [Vec<Price>; 3], defaults: [Price; 3]) -> Self {
        for prices in &mut prices {
            prices.sort_by(|a, b| b.rank().cmp(&a.rank()));
        }
        let with_beginning = |price: Price| {
            let beginning = price.model.as_ref().map(Pattern::beginning).unwrap_or_default();
            (beginning, Arc::new(price))
        };
        Self {
            prices: prices.map(|prices| prices.into_iter().map(with_beginning).collect()),
            defaults: defaults.map(Arc::new),
        }
    }
}

/// What the tokens of a request cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Price {
    id: Box<str>,
    provider: Provider,
    /// `None` for the provider's default.
    model: Option<Pattern>,
    /// From when on, in UTC milliseconds; `None` is always.
    from_ms: Option<i64>,
    /// The provider keys that it is for; of none, for all.
    key_ids: Vec<KeyId>,
    ordinary: Schedule,
    tiers: Vec<(Box<str>, Schedule)>,
}

impl Price {
    /// A stable name for the ledger: `anthropic/claude-opus-4-5*@2025-11-24`, with `#3` behind it where it is for key 3 only;
    /// `anthropic/default` for a default.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it is the provider's default, because the table does not know the model.
    pub const fn is_default(&self) -> bool {
        self.model.is_none()
    }

    /// Whose models it is for.
    pub const fn provider(&self) -> Provider {
        self.provider
    }

    /// The models that it is for; `None` for a default.
    pub const fn model(&self) -> Option<&Pattern> {
        self.model.as_ref()
    }

    /// From when on it is in force, in UTC milliseconds; `None` is always.
    pub const fn from_ms(&self) -> Option<i64> {
        self.from_ms
    }

    /// The provider keys that it is for; of none, for all.
    pub fn key_ids(&self) -> &[KeyId] {
        &self.key_ids
    }

    /// The ordinary prices.
    pub const fn ordinary(&self) -> &Schedule {
        &self.ordinary
    }

    /// The prices of service tiers, by name.
    pub fn tiers(&self) -> impl Iterator<Item = (&str, &Schedule)> {
        self.tiers.iter().map(|(name, schedule)| (&**name, schedule))
    }

    /// What a usage costs in micro-USD, served in that service tier. One that has no price here costs the ordinary one;
    /// [`Price::knows`] tells.
    pub fn cost(&self, usage: &Usage, tier: Option<&str>) -> u64 {
        let tier = tier.and_then(|tier| self.tier(tier));
        tier.unwrap_or(&self.ordinary).cost(usage)
    }

    /// The most that a request can cost in micro-USD that has up to so many tokens and asks for that service tier: it may be
    /// served in the ordinary one instead. One that has no price here may be any.
    pub fn at_most(&self, input_tokens: u64, output_tokens: u64, asked: Option<&str>) -> u64 {
        let cost = |schedule: &Schedule| schedule.at_most(input_tokens, output_tokens);
        let asked = asked.filter(|asked| !is_ordinary(asked));
        let dearest = match asked {
            None => None,
            Some(asked) => match self.tier(asked) {
                Some(tier) => Some(cost(tier)),
                None => self.tiers.iter().map(|(_, tier)| cost(tier)).max(),
            },
        };
        cost(&self.ordinary).max(dearest.unwrap_or_default())
    }

    /// Whether a service tier has a price here.
    pub fn knows(&self, tier: &str) -> bool {
        is_ordinary(tier) || self.tier(tier).is_some()
    }

    fn tier(&self, name: &str) -> Option<&Schedule> {
        let name = bare(name);
        let found = self.tiers.iter().find(|(tier, _)| tier.eq_ignore_ascii_case(name));
        found.map(|(_, schedule)| schedule)
    }

    fn is_for(&self, model: &str, key: Option<KeyId>, at_ms: i64) -> bool {
        let in_force = self.from_ms.is_none_or(|from_ms| from_ms <= at_ms);
        let for_key = self.key_ids.is_empty() || key.is_some_and(|key| self.key_ids.contains(&key));
        in_force && for_key && self.model.as_ref().is_some_and(|pattern| pattern.matches(model))
    }

    /// Of two prices for a request, the one with the greater rank wins.
    fn rank(&self) -> impl Ord {
        let closeness = self.model.as_ref().map(Pattern::closeness);
        // Ids differ, so that the order never depends on the file's.
        (!self.key_ids.is_empty(), closeness, self.from_ms, Reverse(&self.id))
    }
}

fn is_ordinary(tier: &str) -> bool {
    ORDINARY.iter().any(|name| name.eq_ignore_ascii_case(bare(tier)))
}

/// Google also writes `SERVICE_TIER_PRIORITY`.
fn bare(tier: &str) -> &str {
    const PREFIX: &str = "SERVICE_TIER_";
    match tier.get(..PREFIX.len()) {
        Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => &tier[PREFIX.len()..],
        _ => tier,
    }
}

#[cfg(test)]
mod tests;
