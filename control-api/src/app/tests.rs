//! Every route has a line here that says who may call it: a route without one fails the test.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::routes;
use crate::testing::{Client, World, worlds};

/// Method, path as the router has it, a path and body to try it with, and the status for nobody, a user and an admin.
type Line = (&'static str, &'static str, &'static str, fn() -> Value, [u16; 3]);

const NONE: fn() -> Value = || Value::Null;

/// In an order in which an admin can call them one after another.
const MATRIX: &[Line] = &[
    (
        "POST",
        "/api/auth/login",
        "/api/auth/login",
        || json!({ "username": "x", "password": "y" }),
        [401, 401, 401],
    ),
    ("GET", "/api/auth/check", "/api/auth/check", NONE, [200, 200, 200]),
    ("GET", "/api/auth/me", "/api/auth/me", NONE, [401, 200, 200]),
    (
        "POST",
        "/api/auth/change-password",
        "/api/auth/change-password",
        change_password,
        [401, 401, 401],
    ),
    ("GET", "/api/users", "/api/users", NONE, [401, 403, 200]),
    (
        "POST",
        "/api/users",
        "/api/users",
        || json!({ "username": "made" }),
        [401, 403, 200],
    ),
    ("GET", "/api/users/{id}", "/api/users/1", NONE, [401, 403, 200]),
    (
        "PATCH",
        "/api/users/{id}",
        "/api/users/1",
        || json!({ "email": null }),
        [401, 403, 200],
    ),
    ("GET", "/api/tokens", "/api/tokens", NONE, [401, 200, 200]),
    (
        "POST",
        "/api/tokens",
        "/api/tokens",
        || json!({ "name": "x" }),
        [401, 200, 200],
    ),
    ("DELETE", "/api/tokens/{id}", "/api/tokens/2", NONE, [401, 404, 200]),
    (
        "GET",
        "/api/remote/api-keys",
        "/api/remote/api-keys",
        NONE,
        [401, 403, 200],
    ),
    (
        "POST",
        "/api/remote/api-keys",
        "/api/remote/api-keys",
        provider_key,
        [401, 403, 200],
    ),
    (
        "PATCH",
        "/api/remote/api-keys/{id}",
        "/api/remote/api-keys/1",
        || json!({ "weight": 1 }),
        [401, 403, 200],
    ),
    (
        "POST",
        "/api/remote/api-keys/{id}/test",
        "/api/remote/api-keys/1/test",
        || json!({}),
        [401, 403, 200],
    ),
    (
        "DELETE",
        "/api/remote/api-keys/{id}",
        "/api/remote/api-keys/1",
        NONE,
        [401, 403, 200],
    ),
    (
        "POST",
        "/api/proxy-tokens",
        "/api/proxy-tokens",
        || json!({}),
        [401, 200, 200],
    ),
    ("GET", "/api/quota/me", "/api/quota/me", NONE, [401, 200, 200]),
    (
        "GET",
        "/api/quota/{kind}/{id}",
        "/api/quota/tenants/1",
        NONE,
        [401, 404, 200],
    ),
    (
        "PUT",
        "/api/quota/{kind}/{id}",
        "/api/quota/tenants/1",
        || json!({ "limits": { "tokens_per_day": null } }),
        [401, 403, 200],
    ),
    ("GET", "/api/quota/events", "/api/quota/events", NONE, [401, 200, 200]),
    ("GET", "/api/usage", "/api/usage", NONE, [401, 200, 200]),
    (
        "GET",
        "/api/usage/requests",
        "/api/usage/requests",
        NONE,
        [401, 200, 200],
    ),
    ("GET", "/api/prices", "/api/prices", NONE, [401, 403, 200]),
    ("GET", "/api/audit", "/api/audit", NONE, [401, 403, 200]),
    ("GET", "/api/meta", "/api/meta", NONE, [200, 200, 200]),
    ("GET", "/api/status", "/api/status", NONE, [401, 403, 200]),
    ("POST", "/api/auth/logout", "/api/auth/logout", NONE, [200, 200, 200]),
];

fn change_password() -> Value {
    json!({ "current_password": "wrong", "new_password": "a new password" })
}

fn provider_key() -> Value {
    json!({ "provider": "openai", "key_name": "k", "api_key": "sk-xxx...", "base_url": "https://ace-test.invalid/v1" })
}

/// Every route of the router, method and path.
fn served() -> BTreeSet<(String, String)> {
    let document = routes().to_openapi().to_json().unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let paths = document["paths"].as_object().unwrap().iter();
    let methods = |(path, item): (&String, &Value)| {
        let path = path.clone();
        let methods: Vec<String> = item
            .as_object()
            .unwrap()
            .keys()
            .map(|method| method.to_uppercase())
            .collect();
        methods.into_iter().map(move |method| (method, path.clone()))
    };
    paths.flat_map(methods).collect()
}

#[test]
fn every_route_has_a_line_in_the_matrix() {
    let lines = MATRIX
        .iter()
        .map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned()));
    assert_eq!(served(), lines.collect());
}

async fn call(client: &Client, (method, _, path, body, _): &Line) -> u16 {
    let answer = match body() {
        Value::Null => client.send(method, path, axum::body::Body::empty()).await,
        body => client.json(method, path, body).await,
    };
    answer.status.as_u16()
}

async fn check(world: &World) {
    let (nobody, user, admin) = (world.nobody(), world.user("bob").await, world.admin().await);
    for line in MATRIX {
        let found = [
            call(&nobody, line).await,
            call(&user, line).await,
            call(&admin, line).await,
        ];
        assert_eq!(found, line.4, "{} {}", line.0, line.1);
    }
}

#[tokio::test]
async fn nobody_users_and_admins_get_what_the_matrix_says() {
    for world in worlds().await {
        check(&world).await;
    }
}

#[tokio::test]
async fn a_wrong_method_is_said_in_json() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let refused = world
        .nobody()
        .delete("/api/users")
        .await
        .refused(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), "GET,HEAD,POST");
    world
        .nobody()
        .delete("/api/openapi.json")
        .await
        .refused(405, "method_not_allowed");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let document = world.nobody().get("/api/openapi.json").await.ok().json;
    assert_eq!(document["info"]["title"], "ACE Gateway control API");
    let (paths, lines) = (document["paths"].as_object().unwrap(), MATRIX.iter().map(|line| line.1));
    assert_eq!(
        paths.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        lines.collect()
    );
    assert_eq!(
        document["components"]["securitySchemes"]["cookie"]["name"],
        "session_token"
    );
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        }
    }
}
