//! Every no of the data plane, in the words of the API that was called: CLIs show the message of their own provider's
//! error shape and print anything else raw.

use ace_tests::{Answer, Ask, Dialect, Script, World};
use serde_json::{Value, json};

/// Checks the shape that this dialect's clients read, and the names in it.
#[track_caller]
fn is_refusal(dialect: Dialect, answer: &Answer, status: u16, name: &str) {
    assert_eq!(answer.status, status, "{dialect:?} {}", answer.text());
    assert_eq!(answer.header("content-type").as_deref(), Some("application/json"));
    let id = answer.header("x-ace-request-id").expect("an id to ask about");
    assert_eq!(answer.header("x-request-id"), Some(id.clone()));
    let body = answer.json();
    let error = &body["error"];
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.len() > 10, "{body}");
    match dialect {
        Dialect::OpenAi => {
            assert_eq!(error["type"], name, "{body}");
            assert!(error["code"].is_string() && error["param"].is_null(), "{body}");
        }
        Dialect::Anthropic => {
            assert_eq!(
                (&body["type"], &error["type"]),
                (&json!("error"), &json!(name)),
                "{body}"
            );
            assert_eq!(body["request_id"], json!(id), "{body}");
            assert_eq!(answer.header("request-id"), Some(id));
        }
        Dialect::Google => {
            assert_eq!(
                (&error["status"], &error["code"]),
                (&json!(name), &json!(status)),
                "{body}"
            );
            assert!(error["details"].is_array(), "{body}");
        }
    }
}

/// The same refusal in all three dialects, for a main call that `change` spoils.
async fn refused(world: &World, change: impl Fn(Dialect, Ask) -> Ask, status: u16, names: [&str; 3]) {
    for (dialect, name) in Dialect::ALL.into_iter().zip(names) {
        let ask = dialect.authorize(dialect.ask(), &world.token(dialect).await);
        let answer = world.call(&change(dialect, ask)).await;
        is_refusal(dialect, &answer, status, name);
    }
}

#[tokio::test]
async fn who_has_no_good_token_is_told_one_thing_whatever_is_wrong() {
    let world = World::start().await;
    let names = ["auth_error", "authentication_error", "UNAUTHENTICATED"];
    for (dialect, name) in Dialect::ALL.into_iter().zip(names) {
        let good = world.token(dialect).await;
        let (head, signature) = good.rsplit_once('.').expect("a token of three parts");
        let none_at_all = concat!("eyJhbGciOiJub25lIn0", ".", "e30", ".");
        let mut messages = Vec::new();
        let bad = [
            "",
            "x",
            "sk-something",
            none_at_all,
            &format!("{head}."),
            &format!("{head}.{}", "A".repeat(signature.len())),
        ];
        for token in bad {
            let answer = world.call(&dialect.authorize(dialect.ask(), token)).await;
            is_refusal(dialect, &answer, 401, name);
            messages.push(answer.json()["error"]["message"].clone());
        }
        messages.push(world.call(&dialect.ask()).await.expect(401).json()["error"]["message"].clone());
        messages.dedup();
        assert_eq!(messages.len(), 1, "{messages:?}");
    }
    assert_eq!(world.provider.connections(), 0);
}

#[tokio::test]
async fn credentials_for_the_control_api_are_no_proxy_tokens() {
    let world = World::start().await;
    let said = world
        .alice
        .post("/api/tokens", json!({"name": "ci", "scopes": []}))
        .await;
    if let Some(token) = said.body["token"].as_str() {
        world.call(&Dialect::OpenAi.ask().bearer(token)).await.expect(401);
    }
    let ask = Dialect::OpenAi.ask().header("cookie", world.alice.cookie());
    world.call(&ask).await.expect(401);
    let proxy = world.token(Dialect::OpenAi).await;
    world.call(&Ask::get("/api/auth/me").bearer(&proxy)).await.expect(401);
}

#[tokio::test]
async fn another_dialects_path() {
    let world = World::start().await;
    let other = world.token(Dialect::OpenAi).await;
    is_refusal(
        Dialect::Anthropic,
        &world.call(&Dialect::Anthropic.ask().bearer(&other)).await,
        403,
        "permission_error",
    );
    is_refusal(
        Dialect::Google,
        &world.call(&Dialect::Google.ask().bearer(&other)).await,
        403,
        "PERMISSION_DENIED",
    );
    let other = world.token(Dialect::Google).await;
    is_refusal(
        Dialect::OpenAi,
        &world.call(&Dialect::OpenAi.ask().bearer(&other)).await,
        403,
        "permission_error",
    );
}

#[tokio::test]
async fn a_bad_path() {
    let world = World::start().await;
    let spoil = |_, mut ask: Ask| {
        ask.target = ask.target.replacen("/v1", "/v1/../v1", 1);
        ask
    };
    refused(
        &world,
        spoil,
        400,
        ["invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"],
    )
    .await;
}

#[tokio::test]
async fn a_body_that_is_not_what_it_says() {
    let world = World::start().await;
    for body in ["{", "{\"model\":}", "[1,]", "\u{0}"] {
        let spoil = |_, ask: Ask| ask.body(body);
        refused(
            &world,
            spoil,
            400,
            ["invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"],
        )
        .await;
    }
    assert_eq!(world.provider.requests().len(), 0);
}

#[tokio::test]
async fn no_key() {
    let world = World::builder().without_keys().start().await;
    refused(
        &world,
        |_, ask| ask,
        400,
        ["config_error", "config_error", "FAILED_PRECONDITION"],
    )
    .await;
}

#[tokio::test]
async fn a_body_that_is_too_large() {
    let world = World::builder().config("limits", "max_body_bytes = 2000").start().await;
    let spoil = |_, ask: Ask| ask.body(vec![b' '; 2001]);
    refused(
        &world,
        spoil,
        413,
        ["request_too_large", "request_too_large", "INVALID_ARGUMENT"],
    )
    .await;
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached() {
    let world = World::start().await;
    world.provider.plays(Script::new().reset());
    refused(
        &world,
        |_, ask| ask,
        502,
        ["upstream_error", "api_error", "UNAVAILABLE"],
    )
    .await;
}

#[tokio::test]
async fn a_provider_that_does_not_answer() {
    let world = World::builder().config("timeouts", "first_byte = 200").start().await;
    world.provider.plays(Script::new().silence());
    refused(
        &world,
        |_, ask| ask,
        504,
        ["upstream_error", "timeout_error", "DEADLINE_EXCEEDED"],
    )
    .await;
}

#[tokio::test]
async fn an_upgrade() {
    let world = World::start().await;
    let spoil = |_, ask: Ask| ask.header("connection", "upgrade").header("upgrade", "websocket");
    refused(
        &world,
        spoil,
        426,
        ["invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"],
    )
    .await;
}

#[tokio::test]
async fn methods_that_would_echo_the_key() {
    let world = World::start().await;
    let ask = Ask::new("TRACE", "/v1/models").bearer(&world.token(Dialect::OpenAi).await);
    is_refusal(Dialect::OpenAi, &world.call(&ask).await, 405, "invalid_request_error");
    assert_eq!(world.provider.connections(), 0);
}

#[tokio::test]
async fn the_control_api_answers_its_own_paths_in_its_own_words() {
    let world = World::start().await;
    let answer = world.call(&Ask::get("/api/nothing-here")).await.expect(404);
    let body: Value = answer.json();
    assert!(body["error"].is_string() && body["code"].is_string(), "{body}");
    assert!(answer.header("x-ace-request-id").is_some());
    let answer = world.call(&Ask::new("PUT", "/api/auth/login")).await.expect(405);
    assert!(answer.json()["code"].is_string());
}
