//! Temporary.
use ace_policies::price::{Price, PriceTable};
use ace_policies::{KeyId, Provider};
use std::sync::Arc;
/// Prices.
#[derive(Clone)]
pub struct Prices(Arc<PriceTable>);
impl Prices {
    /// Built in.
    pub fn built_in() -> Self {
        Self(Arc::new(PriceTable::built_in()))
    }
    /// Finds.
    pub fn of(&self, provider: Provider, model: Option<&str>, key: Option<KeyId>, at_ms: i64) -> Arc<Price> {
        self.0.price(provider, model, key, at_ms).clone()
    }
}
