//! Which model a call asks for, and whether its token may: a call that names none where one is asked for, or hides it,
//! is a call for a model that is not allowed.

use std::borrow::Cow;

use crate::body::Body;
use crate::refusal::Refusal;
use crate::route::{Call, ModelPlace};

/// The model that a call asks for, in its path, its query or its body.
pub fn asked<'r>(call: &Call, target: &'r [u8], body: &'r Body<'_>) -> Option<Cow<'r, str>> {
    match call.api.model_place() {
        ModelPlace::Path => call.model_in_path(target),
        ModelPlace::Query => call.models_in_query(target).next(),
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
    // A path's model may be named again in the body; a body and a query may name several.
    let in_query = (place == ModelPlace::Query).then(|| call.models_in_query(target));
    let others = body.all_models().map(|other| other.unwrap_or(Cow::Borrowed("")));
    let others = others.chain(in_query.into_iter().flatten());
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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::route::{Route, route};

    #[track_caller]
    fn check_post(target: &str, text: &str, content_type: &str, encoding: Option<&str>) -> Result<(), String> {
        let Ok(Route::DataPlane(call)) = route(&Method::POST, target.as_bytes(), &HeaderMap::new()) else {
            panic!("{target} is no call");
        };
        let call = call.with_provider(None).unwrap();
        let body = Body::read(text.as_bytes(), Some(content_type), encoding, 1 << 20).unwrap();
        let allowed = ["gpt-5".to_owned(), "gemini-2.5-pro".to_owned()];
        check(&call, target.as_bytes(), &body, &allowed).map_err(|refusal| refusal.message())
    }

    fn json(target: &str, text: &str) -> Result<(), String> {
        check_post(target, text, "application/json", None)
    }

    #[test]
    fn the_model_asked_for_must_be_one_of_the_tokens() {
        assert_eq!(json("/v1/chat/completions", r#"{"model":"gpt-5"}"#), Ok(()));
        let refused = Err("The model 'gpt-5-pro' is not allowed for this token".to_owned());
        assert_eq!(json("/v1/chat/completions", r#"{"model":"gpt-5-pro"}"#), refused);
        assert_eq!(json("/v1beta/models/gemini-2.5-pro:generateContent", "{}"), Ok(()));
        assert!(json("/v1beta/models/gemini-2.5-flash:generateContent", "{}").is_err());
        assert_eq!(
            json("/v1beta/cachedContents", r#"{"model":"models/gemini-2.5-pro"}"#),
            Ok(())
        );
        assert!(json("/v1/messages/count_tokens", r#"{"model":"claude"}"#).is_err());
    }

    #[test]
    fn trap_13_no_shape_of_the_model_skips_the_check() {
        for text in [
            "{}",
            r#"{"model":null}"#,
            r#"{"model":["gpt-5"]}"#,
            r#"{"model":{"a":"gpt-5"}}"#,
            r#"{"model":5}"#,
            r#"{"Model":"gpt-5"}"#,
            r#"{"model":"gpt-5","model":"gpt-5-pro"}"#,
            r#"{"model":"gpt-5-pro","model":"gpt-5"}"#,
            r#"{"model":"gpt-5","MODEL":"gpt-5-pro"}"#,
            r#"{"model":"gpt-5","mod\u0065l":"gpt-5-pro"}"#,
            r#"{"model":"gpt-5 "}"#,
            r#"[{"model":"gpt-5"}]"#,
            "",
        ] {
            assert!(json("/v1/chat/completions", text).is_err(), "{text}");
        }
        assert!(
            json(
                "/v1beta/models/gemini-2.5-pro:batchEmbedContents",
                r#"{"model":"other"}"#
            )
            .is_err()
        );
    }

    #[test]
    fn trap_13_the_model_of_a_query_is_checked_in_every_spelling() {
        let check = |query: &str| {
            let target = format!("/v1/realtime{query}");
            let Ok(Route::DataPlane(call)) = route(&Method::GET, target.as_bytes(), &HeaderMap::new()) else {
                panic!("{target} is no call");
            };
            let body = Body::read(b"", None, None, 1 << 20).unwrap();
            check(&call, target.as_bytes(), &body, &["gpt-realtime".to_owned()]).map_err(|refusal| refusal.message())
        };
        assert_eq!(check("?model=gpt-realtime"), Ok(()));
        assert_eq!(check("?intent=x&model=gpt%2drealtime"), Ok(()));
        let nameless = Err("The token is limited to some models, and the request names no model".to_owned());
        assert_eq!(check(""), nameless);
        assert_eq!(check("?Model=gpt-realtime"), nameless);
        for query in [
            "?model=",
            "?model",
            "?model=gpt-realtime-mini",
            "?model=gpt-realtime&model=gpt-realtime-mini",
            "?model=gpt-realtime-mini&model=gpt-realtime",
            "?model=gpt-realtime&mod%65l=gpt-realtime-mini",
            "?model=gpt-realtime+",
        ] {
            assert!(check(query).is_err(), "{query}");
        }
    }

    #[test]
    fn trap_13_what_cannot_be_read_is_not_allowed() {
        let unread = [
            ("multipart/form-data; boundary=x", None),
            ("application/json", Some("br")),
        ];
        for (content_type, encoding) in unread {
            assert!(
                check_post("/v1/audio/transcriptions", "--x", content_type, encoding).is_err(),
                "{content_type}"
            );
        }
        assert!(json("/v1/batches", r#"{"input_file_id":"file-1"}"#).is_err());
    }

    #[test]
    fn calls_without_a_model_are_not_asked_for_one() {
        for target in [
            "/v1/models",
            "/v1/files",
            "/upload/v1beta/files",
            "/v1/responses/resp_1/cancel",
        ] {
            assert_eq!(json(target, ""), Ok(()), "{target}");
        }
    }
}
