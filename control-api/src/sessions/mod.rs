//! Sessions: AI coding runs on machines, and what people do with them.

mod access;
mod bulk;
mod change;
mod chat;
mod configure;
mod create;
mod host;
mod list;
mod read;
mod report;
mod start;
mod steer;
pub(crate) mod store;
mod totals;
mod view;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;

pub(crate) use access::Party;
pub(crate) use report::{command_failed, reported};
pub(crate) use start::{push, start};
pub(crate) use steer::stop_now;
pub(crate) use store::{SessionRow, bounded, lock, set_state, tell};
pub(crate) use totals::{Totals, totals};
pub(crate) use view::Output;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list::list, create::create))
        .routes(routes!(list::on_machine))
        .routes(routes!(bulk::bulk))
        .routes(routes!(read::read, change::update, change::delete))
        .routes(routes!(chat::chat))
        .routes(routes!(steer::stop))
        .routes(routes!(steer::pause))
        .routes(routes!(steer::resume))
        .routes(routes!(steer::abort))
        .routes(routes!(configure::set_model))
        .routes(routes!(configure::set_permission_mode))
}

#[cfg(test)]
pub(crate) mod tests;
