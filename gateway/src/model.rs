//! Which model a call asks for, and whether its token may: a call that names none where one is asked for, or hides it,
//! is a call for a model that is not allowed.

use std::borrow::Cow;

use crate::body::Body;
use crate::refusal::Refusal;
use crate::route::{Call, ModelPlace};

/// The model that a call asks for, in its path or its body.
pub fn asked<'r>(call: &Call, target: &'r [u8], body: &'r Body<'_>) -> Option<Cow<'r, str>> {
    match call.api.model_place() {
        ModelPlace::Path => call.model_in_path(target),
        ModelPlace::Body => body.model(),
        ModelPlace::Nowhere => None,
    }
}

/// Checks a call against the models that its token is limited to.
pub fn check(call: &Call, target: &[u8], body: &Body<'_>, allowed: &[String]) -> Result<(), Refusal> {
    let place = call.api.model_place();
    if place == ModelPlace::Nowhere {
        return Ok(());
    }
    let Some(model) = asked(call, target, body) else {
        let why = if place == ModelPlace::Body && !body.is_read() {
            "cannot be read"
        } else {
            "names no model"
        };
        return Err(Refusal::Permission(format!(
            "The token is limited to some models, and the request {why}"
        )));
    };
    // A path's model may be named again in the body; a body may name several.
    let others = body.all_models().map(|other| other.unwrap_or(Cow::Borrowed("")));
    match std::iter::once(model)
        .chain(others)
        .find(|model| !allowed.iter().any(|one| same(one, model)))
    {
        Some(model) => Err(Refusal::Permission(format!(
            "The model '{model}' is not allowed for this token"
        ))),
        None => Ok(()),
    }
}

/// Google writes `models/<model>` in bodies and `<model>` in paths.
fn same(allowed: &str, asked: &str) -> bool {
    short(allowed) == short(asked)
}

fn short(model: &str) -> &str {
    model.strip_prefix("models/").unwrap_or(model)
}
