//! What people are told: the inbox. Browsers that want it are pushed the same.

mod list;
mod tell;
mod update;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;

pub(crate) use tell::{Notification, Stored, notify, of_event, system_admins};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list::list, update::update))
}

/// Every kind that there is: what a browser may choose from.
pub(crate) const KINDS: [&str; 6] = [
    "approval.requested",
    "session.completed",
    "session.error",
    "machine.offline",
    "quota.threshold",
    "webhook.disabled",
];

#[cfg(test)]
mod tests;
