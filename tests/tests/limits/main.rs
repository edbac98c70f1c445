//! Limits that are limits: whoever calls at once with whomever, through however many gateways, what is used never passes them, and what
//! is let through is counted to the token.

mod crowds;
mod outgrown;
mod refused;

use ace_tests::{Biller, World, WorldBuilder};

/// A gateway in front of a provider that bills, on a day that does not end.
async fn shop(builder: WorldBuilder) -> (World, Biller) {
    let biller = Biller::start().await;
    let world = builder.without_keys().at_noon().start().await;
    world.bill_by(&biller).await;
    (world, biller)
}
