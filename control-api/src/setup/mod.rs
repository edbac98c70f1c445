//! GET /api/setup: the first steps, which of them are done, and how to do the next.

mod steps;
mod warnings;

use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::error::ApiError;
use crate::visitor::Visitor;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(setup))
}

#[derive(Serialize, ToSchema)]
struct Setup {
    success: bool,
    /// Whether every step is done.
    done: bool,
    /// The first step that is not.
    #[schema(value_type = Option<String>)]
    next: Option<&'static str>,
    steps: Vec<Step>,
    warnings: Vec<Warning>,
}

/// Something that is to be done once.
#[derive(Serialize, ToSchema)]
struct Step {
    #[schema(value_type = String)]
    id: &'static str,
    done: bool,
    #[schema(value_type = String)]
    title: &'static str,
    /// How it is done.
    #[schema(value_type = String)]
    how: &'static str,
    /// The request that does it.
    #[schema(value_type = String)]
    operation: &'static str,
}

/// Something that works, and should not stay so.
#[derive(Serialize, ToSchema)]
struct Warning {
    #[schema(value_type = String)]
    code: &'static str,
    #[schema(value_type = String)]
    message: &'static str,
    /// The way out.
    #[schema(value_type = String)]
    hint: &'static str,
}

/// Lists the first steps after an installation, and what should be better about it.
#[utoipa::path(get, path = "/api/setup", tag = "meta", responses((status = 200, body = Setup)))]
async fn setup(State(app): State<App>, visitor: Visitor) -> Result<Json<Setup>, ApiError> {
    visitor.permit(&app, Action::SetupRead, &Standing::default()).await?;
    let steps = steps::list(&app).await?;
    let next = steps.iter().find(|step| !step.done).map(|step| step.id);
    Ok(Json(Setup {
        success: true,
        done: next.is_none(),
        next,
        steps,
        warnings: warnings::list(&app, &visitor.edge).await?,
    }))
}

#[cfg(test)]
mod tests;
