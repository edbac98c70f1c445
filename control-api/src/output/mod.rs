//! Output: what CLIs printed, in sequence, from the agent to the browser.

mod append;
mod forget;
mod messages;
mod part;
mod stream;
mod transcript;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;

pub(crate) use append::{append, append_next, integer};
pub(crate) use forget::{clear_leftovers, forget_old};
pub(crate) use part::{Line, Span, part};

/// Has what deleted sessions left cleared by this node, as soon as it comes to it: nobody who deletes one waits for it.
pub(crate) fn clear_soon(app: &App) {
    app.leftovers().notify_one();
}

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(stream::stream))
        .routes(routes!(transcript::transcript))
        .routes(routes!(messages::list))
}

#[cfg(test)]
mod tests;
